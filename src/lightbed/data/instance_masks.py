"""Images with a mask each that numbers their objects, as the Penn-Fudan people have them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightbed.data.annotations import NO_LABELS, UNREADABLE, Annotated, Annotations, Fault, Object, annotated
from lightbed.data.bar import bar
from lightbed.data.boxes import BoxData
from lightbed.data.images import TURNED, guarded, in_threads, orientation, upright_size
from lightbed.data.pairs import Pairs, find_pairs
from lightbed.data.shapes import encode_masks
from lightbed.errors import UserError

_BLOCK = 64  # masks read between two movements of the bar


def parse_instance_masks(root: Path, pairs: Pairs, class_name: str, void: int | None = None) -> Annotations:
    """The objects of image and mask files: each value or colour of a mask but 0 (black) is one, all of one class.

    Args:
        root: the folder.
        pairs: images and masks below it.
        class_name: what the objects are.
        void: value that is no object, e.g. of the borders between them.
    """
    found = Annotations([], [class_name], [root / mask.path for mask in pairs.masks])
    found.faults += [Fault(NO_LABELS, str(root), line) for line in pairs.unmatched]
    places = range(len(pairs.images))
    with bar("reading masks", len(places)) as advance:
        for start in places[::_BLOCK]:
            block = list(places[start : start + _BLOCK])
            for place, result in zip(block, in_threads(lambda i: _read(root, pairs, i, void), block), strict=True):
                if isinstance(result, Annotated):
                    found.images.append(result)
                else:
                    found.faults.append(Fault(UNREADABLE, str(root / pairs.masks[place].path), result))
            advance(len(block))
    return found


def _read(root: Path, pairs: Pairs, place: int, void: int | None) -> Annotated | str:
    """The image with its objects, or why its mask cannot be used."""
    image, path = pairs.images[place], root / pairs.masks[place].path
    try:
        numbers = guarded(path, read_numbers)
        size, how = guarded(root / image.path, lambda opened: (upright_size(opened), orientation(opened)))
    except UserError as error:
        return str(error)
    if numbers.shape != size and not (how in TURNED and numbers.shape == size[::-1]):
        return f"it is {numbers.shape[1]}x{numbers.shape[0]} pixels, its image {size[1]}x{size[0]}"
    objects = [
        Object(number, box, 0, area=float(mask.sum()), shape=encode_masks(mask[None])[0])
        for number in np.unique(numbers).tolist()
        if number not in (0, void)
        for mask, box in [_found(np.equal(numbers, number))]
    ]
    return annotated(image, pairs.splits[place], path, objects, "object", size=(numbers.shape[0], numbers.shape[1]))


def read_numbers(image: Image.Image) -> np.ndarray:
    """The objects' numbers, integers (H, W); of colours, red, green and blue make one number."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    same = (rgb == rgb[..., :1]).all()
    return rgb[..., 0] if same else rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


def _found(mask: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """A mask with the box around it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask, [float(value) for value in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


class InstanceMasks(BoxData):
    """Images with a mask file each, whose values number the objects: `root/images/NAME.jpg`, `root/masks/NAME.png`.

    Args:
        root: the folder.
        images: folder of images below it; `{split}` in it stands for train, val and test.
        masks_in: folder of masks, likewise.
        mask_name: name of an image's mask without ending; `{stem}` stands for the image's.
        class_name: what the objects are; a mask tells them apart, but not what they are.
        void: value in the masks that is no object.
        common: the arguments of `BoxData`.

    Raises:
        UserError: nothing matches.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str = "images",
        masks_in: str = "masks",
        mask_name: str = "{stem}",
        class_name: str = "object",
        void: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        self.images_in, self.masks_in, self.mask_name = images, masks_in, mask_name
        self.class_name, self.void = class_name, void

    def find_objects(self) -> Annotations:
        pairs = find_pairs(self.root, self.images_in, self.masks_in, self.mask_name)
        return parse_instance_masks(self.root, pairs, self.class_name, self.void)
