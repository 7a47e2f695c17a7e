"""Penn-Fudan: people in streets, one by one."""

from pathlib import Path
from typing import Any

from lightbed.data.instance_masks import InstanceMasks


class PennFudan(InstanceMasks):
    """Penn-Fudan Database (Wang, Shi, Song, Shen 2007): 170 photographs with 423 people, a mask for each.

    Sizes run from 253 to 1,017 pixels. Splits are cut.

    Args:
        root: folder of data sets; images lie in `root/PennFudanPed/PNGImages`, masks in `root/PennFudanPed/PedMasks`.
        common: the arguments of `InstanceMasks` that are not said here.
    """

    def __init__(self, root: str | Path, **common: Any) -> None:
        layout = {"images": "PNGImages", "masks_in": "PedMasks", "mask_name": "{stem}_mask", "class_name": "person"}
        super().__init__(Path(root) / "PennFudanPed", **{**common, **layout})

    def absent(self) -> str:
        return (
            f"{self.root} does not exist: unpack https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip there, or "
            "set paths.data to where it is"
        )
