"""Batched augmentation on the device: one call for the whole batch, parameters drawn per sample.

An augmentation names how many random numbers a sample needs (`draws`) and maps images, targets and those numbers to
new images and targets. The numbers come from `lightbed.chance.uniform`, so a sample is augmented alike whatever
its place in the batch, the number of workers or a resume.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightbed.chance import uniform
from lightbed.errors import UserError
from lightbed.transforms.boxes import areas_of, boxes_of, clip, move_boxes, tidy

Targets = dict[str, Any]
MOVING = ("mask",)
"""What of a stacked target moves with the image."""

_CACHED = 2**21  # bytes of float32 pixels that stay in a core's cache


class Augmentation(nn.Module):
    """One batched augmentation."""

    draws: int = 0
    """How many uniform random numbers each sample needs."""

    moves: bool = False
    """Whether pixels change their places, so that masks have to follow."""

    turns: bool = False
    """Whether a box that moves with its object is no longer tight around it."""

    computes: bool = False
    """Whether it makes new pixel values, so that uint8 images become float32."""

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        """Augment a batch; each sample by itself, so that the rest of the batch makes no difference to it.

        Args:
            images: uint8 or float32 (N, C, H, W) in 0..255; may be overwritten.
            target: of the stacked targets what moves with the image: `mask` int64 (N, H, W), where the data has it;
                of a single image with objects `masks` uint8 (1, n, H, W); may be overwritten.
            u: float32 (N, draws) in [0, 1), on the images' device.
        """
        raise NotImplementedError

    def matrices(self, u: Tensor, height: int, width: int) -> Tensor:
        """Where it `moves`, what moves boxes: float32 (N, 2, 3) from the output's pixels to the input's, see `warp`."""
        raise NotImplementedError


class Augment(nn.Module):
    """A chain of augmentations, keyed by (seed, epoch, sample index).

    Args:
        steps: in this order.
        seed: the run's.
        visible: share of an object's box from which it is kept where images are cut.
    """

    def __init__(self, steps: Sequence[Augmentation], seed: int, visible: float = 0.25) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.draws = [step.draws for step in steps]
        self.moves, self.computes = any(step.moves for step in steps), any(step.computes for step in steps)
        self.turns = any(step.turns for step in steps)
        self.seed, self.visible = seed, visible
        if not 0 <= visible <= 1:
            raise UserError(f"augment.visible={visible} must lie in 0..1")

    @torch.no_grad()
    def forward(
        self, images: Any, target: Any, epoch: int, then: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Any, Any]:
        """Augment a batch.

        Images with objects come as a list of (C, h, w), which may differ in size, and a list of targets; boxes and
        masks move with them.

        Args:
            images: uint8 or float32 (N, C, H, W) in 0..255, or a list.
            target: the stacked targets, with `index` int64 (N,), or a list; of stacked ones `box` moves, too.
            epoch: chooses the random numbers, with seed and index.
            then: applied to the augmented images, before they leave the cache of a CPU; may overwrite them.

        Returns:
            Images, uint8 if none of the steps computes new values, else float32; and targets.

        Raises:
            UserError: stacked targets have boxes, which move in lists only.
        """
        if isinstance(images, list):
            index = torch.stack([one["index"] for one in target])
            numbers = uniform(self.seed, epoch, index, sum(self.draws))
            pairs = [self._objects(*one) for one in zip(images, target, numbers[:, None], strict=True)]
            return [then(image) if then else image for image, _ in pairs], [one for _, one in pairs]
        if self.moves and ("boxes" in target or "masks" in target):
            raise UserError("augment.batch moves no boxes: use transforms of torchvision v2 in augment.sample for them")
        numbers = uniform(self.seed, epoch, target["index"], sum(self.draws)).to(images.device)
        moving = {name: target[name] for name in MOVING if name in target}
        seen = None
        if self.moves and "box" in target:
            box, seen = self._box(target["box"], numbers, (images.shape[-2], images.shape[-1]))
            target = {**target, "box": box}
        whole = images
        columns: dict[str, list[Tensor]] = {name: [] for name in moving}
        for rows in _parts(images) if self.computes else [slice(None)]:
            here = {name: values[rows] for name, values in moving.items()}
            part, moved = self._chain(images[rows], here, numbers[rows])
            if seen is not None:
                part = torch.where(seen[rows, None, None, None], part, images[rows].to(part.dtype))
            part = then(part) if then else part
            if len(part) == len(images):
                return part, {**target, **moved}
            whole = part.new_empty(len(images), *part.shape[1:]) if whole is images else whole
            whole[rows] = part
            for name, values in moved.items():
                columns[name].append(values)
        return whole, {**target, **{name: torch.cat(parts) for name, parts in columns.items()}}

    def _box(self, given: Tensor, u: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The boxes (N, 4) of the one object in each image as they move, and of which images enough is seen, bool (N,).

        An image that loses its object stays as it was: it has to have one.
        """
        boxes = whole = given
        for step, v in zip(self.steps, torch.split(u, self.draws, dim=1), strict=True):
            if isinstance(step, Augmentation) and step.moves:
                matrices = step.matrices(v, *size)
                boxes, whole = clip(move_boxes(boxes, matrices, size), size), move_boxes(whole, matrices, size)
        areas = areas_of(boxes)
        seen = (areas > 0) & (areas >= self.visible * areas_of(whole))
        return torch.where(seen[:, None], boxes, given), seen

    def _objects(self, image: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        """One image (C, h, w) with its objects, by its random numbers (1, draws)."""
        u = u.to(image.device)
        size = (image.shape[-2], image.shape[-1])
        moving = {"masks": target["masks"][None].to(torch.uint8)} if len(target.get("masks", ())) else {}
        images, moving = self._chain(image[None], moving, u)
        if not self.moves or not len(target["boxes"]):
            return images[0], target
        boxes = whole = target["boxes"]
        grown = torch.ones((), device=boxes.device)
        for step, v in zip(self.steps, torch.split(u, self.draws, dim=1), strict=True):
            if isinstance(step, Augmentation) and step.moves:
                matrix = step.matrices(v, *size)[0]
                boxes, whole = (clip(move_boxes(boxes, matrix, size), size), move_boxes(whole, matrix, size))
                grown = grown / matrix[:, :2].det().abs()
        target = {**target, "boxes": boxes}
        if "masks" in moving:
            target["masks"] = moving["masks"][0].bool()
        if "area" in target:
            target["area"] = target["area"] * grown
        target = tidy(target, size, areas_of(whole), self.visible)
        if self.turns and "masks" in target:
            target["boxes"] = boxes_of(target["masks"])
        return images[0], target

    def _chain(self, images: Tensor, moving: Targets, numbers: Tensor) -> tuple[Tensor, Targets]:
        images, moving = images.clone(), {name: values.clone() for name, values in moving.items()}
        for step, u in zip(self.steps, torch.split(numbers, self.draws, dim=1), strict=True):
            images, moving = step(images, moving, u)
        return images, moving


def _parts(images: Tensor) -> list[slice]:
    """The rows of the parts that a batch is split into on a CPU.

    A part stays in the cache and its memory is used again by the next one: resampling 300x300 images takes a third of
    the time, for most of it would go into fresh pages.
    """
    if images.device.type != "cpu":
        return [slice(None)]
    size = torch.get_num_threads() * max(1, _CACHED // (4 * images[0].numel()))
    return [slice(start, start + size) for start in range(0, len(images), size)]
