"""Penn-Fudan: people in streets, as one class."""

from pathlib import Path
from typing import Any

from lightbed.data.mask_folder import MaskFolder


class PennFudanPeople(MaskFolder):
    """Penn-Fudan Database (Wang, Shi, Song, Shen 2007): 170 photographs with 423 people, all of them one class.

    The files number the people of an image 1..N; here every one is `person`. Sizes differ from image to image, so
    `image_size` must be given. Splits are cut.

    Args:
        root: folder of data sets; images lie in `root/PennFudanPed/PNGImages`, masks in `root/PennFudanPed/PedMasks`.
        common: the arguments of `MaskFolder` that are not said here.
    """

    def __init__(self, root: str | Path, **common: Any) -> None:
        layout = {"images": "PNGImages", "masks": "PedMasks", "mask_name": "{stem}_mask", "coding": "nonzero"}
        classes = {"classes": ["background", "person"]}
        super().__init__(Path(root) / "PennFudanPed", **{"image_size": [240, 240], **common, **layout, **classes})

    def absent(self) -> str:
        return (
            f"{self.root} does not exist: unpack https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip there, or "
            "set paths.data to where it is"
        )
