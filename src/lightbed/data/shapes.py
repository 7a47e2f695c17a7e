"""Outlines of objects as masks: polygons, and COCO's run-length encoding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lightbed.data.annotations import Shape

_FARTHEST = 1e6  # pixels; the polygon filler walks along every edge


def draw_masks(shapes: Sequence[Shape], size: tuple[int, int]) -> Tensor:
    """Masks of outlines in an image of `size` (height, width), bool (n, H, W); a run-length code may be of another."""
    masks = torch.zeros(len(shapes), *size, dtype=torch.bool)
    for mask, shape in zip(masks, shapes, strict=True):
        drawn = torch.from_numpy(coco.decode(encoded(shape, size)))
        if tuple(drawn.shape) != size:
            drawn = F.resize(drawn[None], list(size), interpolation=F.InterpolationMode.NEAREST_EXACT)[0]
        mask.copy_(drawn)
    return masks


def encoded(shape: Shape, size: tuple[int, int]) -> dict[str, Any]:
    """An outline as COCO's compressed run-length code `{size, counts}`, filled as pycocotools fills it."""
    if not isinstance(shape, dict):
        return dict(coco.merge(coco.frPyObjects(shape, *size)))
    if isinstance(shape["counts"], list):
        return dict(coco.frPyObjects(shape, *shape["size"]))
    return shape


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Masks bool (n, H, W) -> their run-length codes."""
    codes: list[dict[str, Any]] = coco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return codes


def checked(shape: Any) -> Shape | None:
    """A shape as a file holds it, if it is one; None where there is none.

    Raises:
        ValueError: it is no shape.
    """
    if not shape:
        return None
    if isinstance(shape, dict):
        if min(shape["size"]) < 1:
            raise ValueError("a run-length code of no pixels")
        coco.decode(encoded(shape, (1, 1)))  # says what is wrong with a code
        return shape
    for polygon in shape:
        values = np.asarray(polygon, np.float64)
        if values.ndim != 1 or len(values) < 6 or len(values) % 2:
            raise ValueError(f"a polygon of {values.size} numbers")
        if not (np.abs(values) < _FARTHEST).all():
            raise ValueError("a polygon with a point that is nowhere")
    return [list(polygon) for polygon in shape]
