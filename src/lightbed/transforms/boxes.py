"""Boxes that move with their image: what is cut is clipped, what is hardly to be seen any more is dropped."""

from typing import Any

import torch
from torch import Tensor

PER_OBJECT = ("boxes", "labels", "masks", "crowd", "area")
"""What of a target has a row for each object."""


def boxes_of(masks: Tensor) -> Tensor:
    """The smallest box around each mask bool (n, H, W), float32 (n, 4): xyxy, 0 for an empty one."""
    if not masks.numel():
        return torch.zeros(len(masks), 4, device=masks.device)
    height, width = masks.shape[-2:]
    rows, columns = masks.any(2).int(), masks.any(1).int()  # (n, H), (n, W)
    first = [columns.argmax(1), rows.argmax(1)]
    last = [width - columns.flip(1).argmax(1), height - rows.flip(1).argmax(1)]
    boxes = torch.stack([*first, *last], dim=1).float()
    return boxes * masks.flatten(1).any(1)[:, None]


def areas_of(boxes: Tensor) -> Tensor:
    """Areas (n,) of boxes xyxy (n, 4), none below 0."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes xyxy (n, 4) cut at the borders of an image of `size` (height, width)."""
    height, width = size
    limits = torch.tensor([width, height, width, height], device=boxes.device, dtype=boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def tidy(target: dict[str, Any], size: tuple[int, int], whole: Tensor | None = None, visible: float = 0.0) -> Any:
    """The target with boxes inside the image and only the objects that can still be seen.

    A box that was cut is drawn as tightly around what is left of the object's mask, where it has one; `area` shrinks
    with the box.

    Args:
        target: boxes (n, 4) and what else an object has, see `PER_OBJECT`; boxes may lie outside.
        size: (height, width) of the image.
        whole: areas (n,) of the boxes before anything was cut; None: those of the boxes given.
        visible: share of `whole` from which an object is kept; one without area never is.
    """
    given = target["boxes"]
    whole = areas_of(given) if whole is None else whole
    boxes = clip(given, size)
    share = areas_of(boxes) / whole.clamp(min=torch.finfo(whole.dtype).tiny)
    keep = (areas_of(boxes) > 0) & (share >= visible)
    cut = share < 1 - 1e-4
    done = {**target, "boxes": boxes}
    if "masks" in target:
        keep &= target["masks"].flatten(1).any(1)
        if bool(cut.any()):
            boxes[cut] = boxes_of(target["masks"][cut]).to(boxes.dtype)
    if "area" in target:
        done["area"] = target["area"] * share.clamp(max=1)
    return done if bool(keep.all()) else {**done, **{name: done[name][keep] for name in PER_OBJECT if name in done}}
