"""Boxes that move with their image: what is cut is clipped, what is hardly to be seen any more is dropped."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from lightbed.errors import UserError

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


def move_boxes(boxes: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes xyxy (n, 4) as the pixels move that `warp` samples by `matrix` (2, 3); one that turns grows around itself.

    Args:
        boxes: in an image of `size`, not clipped.
        matrix: from a pixel of the output, (y, x, 1), to the place (y, x) in the input, from the image's centre; or
            (n, 2, 3), one for each box.
        size: (height, width), the same before and after.
    """
    centre = torch.tensor([size[0] / 2, size[1] / 2], dtype=boxes.dtype, device=boxes.device)
    corners = boxes[:, [1, 0, 1, 2, 3, 0, 3, 2]].view(-1, 4, 2) - centre  # (n, 4, 2): y, x
    back = torch.linalg.inv(matrix[..., :2].to(boxes.dtype))
    moved = (corners - matrix[..., None, :, 2].to(boxes.dtype)) @ back.mT + centre
    return torch.cat([moved.amin(1).flip(1), moved.amax(1).flip(1)], dim=1)


def transform_objects(
    transform: Callable[..., Any], image: Tensor, target: dict[str, Any], seed: Callable[[], None]
) -> tuple[Tensor, Any]:
    """A sample with objects after a transform of torchvision v2, its boxes xyxy, inside the image and with area.

    Args:
        transform: `(image, target) -> (image, target)`; it may drop objects, as SanitizeBoundingBoxes does.
        image: a `tv_tensors.Image`.
        target: with `tv_tensors` for boxes and masks.
        seed: sets the state of chance, so that the same call draws the same again.

    Raises:
        UserError: boxes, labels and masks do not match any more.
    """
    more = {name: target[name] for name in ("crowd", "area") if name in target}
    given = {name: value for name, value in target.items() if name not in more}
    seed()
    moved, done = transform(image, given)
    rows = torch.arange(len(target["labels"]))
    if len(done["labels"]) != len(rows):  # of the labels it drops the same rows, whatever they are
        seed()
        rows = transform(image, {**given, "labels": rows})[1]["labels"]
    counts = {name: len(done[name]) for name in PER_OBJECT if name in done}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise UserError(f"augment.sample gives {told}: add torchvision.transforms.v2.SanitizeBoundingBoxes at its end")
    size = (moved.shape[-2], moved.shape[-1])
    boxes = done["boxes"]
    if boxes.format != tv_tensors.BoundingBoxFormat.XYXY:
        boxes = F.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    boxes = clip(boxes.as_subclass(Tensor), size)
    done = {**done, "boxes": boxes, **{name: values[rows] for name, values in more.items()}}
    if "area" in more:
        before = areas_of(target["boxes"].as_subclass(Tensor)[rows])
        done["area"] = done["area"] * areas_of(boxes) / before.clamp(min=1e-9)
    if "masks" in done and len(boxes):  # what reaches the border may have been cut there
        height, width = size
        limits = torch.tensor([0, 0, width, height])
        cut = ((boxes - limits).abs() < 1e-3).any(1)
        boxes[cut] = boxes_of(done["masks"].as_subclass(Tensor)[cut].bool())
    return moved, tidy(done, size)


def transform_one(
    transform: Callable[..., Any], image: Tensor, target: dict[str, Any], seed: Callable[[], None]
) -> tuple[Tensor, Any]:
    """`transform_objects` for the one object of `label` and `box`; where it is lost, the sample stays as it was."""
    size = (image.shape[-2], image.shape[-1])
    boxes = tv_tensors.BoundingBoxes(target["box"][None].clone(), format="XYXY", canvas_size=size)
    rest = {name: value for name, value in target.items() if name not in ("box", "label")}
    moved, done = transform_objects(
        transform, image, {**rest, "boxes": boxes, "labels": torch.as_tensor(target["label"])[None]}, seed
    )
    if not len(done["boxes"]):
        return image, target
    box = done.pop("boxes").as_subclass(Tensor)[0].float()
    return moved, {**done, "label": done.pop("labels")[0], "box": box}


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
