"""The Semantic Drone Dataset of TU Graz."""

from pathlib import Path
from typing import Any

from lightbed.data.mask_folder import MaskFolder

# in the order of the masks' values, as class_dict_seg.csv lists them; its last one, 23 conflicting, is void
CLASSES = (
    "unlabeled",
    "paved-area",
    "dirt",
    "grass",
    "gravel",
    "water",
    "rocks",
    "pool",
    "vegetation",
    "roof",
    "wall",
    "window",
    "door",
    "fence",
    "fence-pole",
    "person",
    "dog",
    "car",
    "bicycle",
    "tree",
    "bald-tree",
    "ar-marker",
    "obstacle",
)


class Drone(MaskFolder):
    """Semantic Drone Dataset (ICG, TU Graz 2019): 400 photographs 6000x4000 of houses from above, 23 classes.

    Pixels that the annotators disagreed on (23, conflicting) are void. Splits are cut. Images are scaled to 600x400.

    Args:
        root: the folder with `original_images` and `label_images_semantic`.
        common: the arguments of `MaskFolder` that are not said here.
    """

    def __init__(self, root: str | Path, **common: Any) -> None:
        layout = {"images": "original_images", "masks": "label_images_semantic", "coding": "index", "void": 23}
        super().__init__(root, **{"image_size": [400, 600], **common, **layout, "classes": CLASSES})

    def absent(self) -> str:
        return (
            f"{self.root} does not exist: get the Semantic Drone Dataset from https://dronedataset.icg.tugraz.at (for "
            "research, by its terms; also on Kaggle, bulentsiyah/semantic-drone-dataset), and set data.root to the "
            "folder that holds original_images and label_images_semantic"
        )
