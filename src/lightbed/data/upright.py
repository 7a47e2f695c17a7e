"""Labels of images that their EXIF orientation turns, where they were drawn on the pixels as they are stored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from faster_coco_eval.core import mask as coco

from lightbed.data.annotations import TURNED as TURNED_FAULT
from lightbed.data.annotations import Annotated, Fault, Shape
from lightbed.data.images import TURNED, guarded, orientation
from lightbed.data.shapes import encode_masks, encoded


def as_shown(root: Path, one: Annotated, size: tuple[int, int]) -> tuple[Annotated, list[Fault]]:
    """The image with its labels turned upright, if the size that they are of says that they are not.

    Args:
        root: folder of the images.
        one: as a parser has read it.
        size: the image's (height, width), upright.
    """
    if one.relative or one.size is None or one.size == size or one.size != size[::-1]:
        return one, []
    how = guarded(root / one.image.path, orientation)
    if how not in TURNED:
        return one, []
    boxes = turned_points(one.boxes, how, one.size)
    # what was the last side of a box that is mirrored is its first one now
    x1, x2 = (2, 0) if how in (6, 7) else (0, 2)
    y1, y2 = (3, 1) if how in (7, 8) else (1, 3)
    boxes = boxes[:, [x1, y1, x2, y2]]
    shapes = [None if shape is None else _turned_shape(shape, how, one.size) for shape in one.shapes]
    said = f"{one.image.path} is shown as its EXIF orientation {how} says, its labels are of the pixels as stored"
    return replace(one, boxes=boxes, shapes=shapes, size=size), [Fault(TURNED_FAULT, one.file, said)]


def turned_points(points: np.ndarray, how: int, size: tuple[int, int]) -> np.ndarray:
    """Places [x, y, x, y, ...] float64 (n, 2 k) in an image of `size` (height, width), turned by orientation 5 to 8."""
    x, y = points[:, 0::2], points[:, 1::2]
    both = [size[0] - y if how in (6, 7) else y, size[1] - x if how in (7, 8) else x]
    turned: np.ndarray = np.stack(both, axis=2).reshape(points.shape)
    return turned


def turned_mask(mask: np.ndarray, how: int) -> np.ndarray:
    """A mask (H, W), turned by orientation 5 to 8: (W, H)."""
    rows, columns = (slice(None, None, -1 if how in ways else 1) for ways in ((7, 8), (6, 7)))
    turned: np.ndarray = mask.T[rows, columns]
    return turned


def _turned_shape(shape: Shape, how: int, size: tuple[int, int]) -> Shape:
    if isinstance(shape, dict):
        code: Shape = encode_masks(turned_mask(coco.decode(encoded(shape, size)), how)[None])[0]
        return code
    return [turned_points(np.array([polygon]), how, size)[0].tolist() for polygon in shape]
