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

Targets = dict[str, Any]
MOVING = ("mask",)
"""What of a target moves with the image."""

_CACHED = 2**21  # bytes of float32 pixels that stay in a core's cache


class Augmentation(nn.Module):
    """One batched augmentation."""

    draws: int = 0
    """How many uniform random numbers each sample needs."""

    moves: bool = False
    """Whether pixels change their places, so that masks have to follow."""

    computes: bool = False
    """Whether it makes new pixel values, so that uint8 images become float32."""

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        """Augment a batch; each sample by itself, so that the rest of the batch makes no difference to it.

        Args:
            images: uint8 or float32 (N, C, H, W) in 0..255; may be overwritten.
            target: of the stacked targets what moves with the image: `mask` int64 (N, H, W), where the data has it;
                may be overwritten.
            u: float32 (N, draws) in [0, 1), on the images' device.
        """
        raise NotImplementedError


class Augment(nn.Module):
    """A chain of augmentations, keyed by (seed, epoch, sample index)."""

    def __init__(self, steps: Sequence[Augmentation], seed: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.draws = [step.draws for step in steps]
        self.moves, self.computes = any(step.moves for step in steps), any(step.computes for step in steps)
        self.seed = seed

    @torch.no_grad()
    def forward(
        self, images: Tensor, target: Targets, epoch: int, then: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Targets]:
        """Augment a batch.

        Args:
            images: uint8 or float32 (N, C, H, W) in 0..255.
            target: the stacked targets, with `index` int64 (N,).
            epoch: chooses the random numbers, with seed and index.
            then: applied to the augmented images, before they leave the cache of a CPU; may overwrite them.

        Returns:
            Images, uint8 if none of the steps computes new values, else float32; and targets.

        Raises:
            UserError: the targets have boxes, which none of the batched augmentations moves.
        """
        if self.moves and ("boxes" in target or "masks" in target):
            raise UserError("augment.batch moves no boxes: use transforms of torchvision v2 in augment.sample for them")
        numbers = uniform(self.seed, epoch, target["index"], sum(self.draws)).to(images.device)
        moving = {name: target[name] for name in MOVING if name in target}
        whole = images
        columns: dict[str, list[Tensor]] = {name: [] for name in moving}
        for rows in _parts(images) if self.computes else [slice(None)]:
            here = {name: values[rows] for name, values in moving.items()}
            part, moved = self._chain(images[rows], here, numbers[rows])
            part = then(part) if then else part
            if len(part) == len(images):
                return part, {**target, **moved}
            whole = part.new_empty(len(images), *part.shape[1:]) if whole is images else whole
            whole[rows] = part
            for name, values in moved.items():
                columns[name].append(values)
        return whole, {**target, **{name: torch.cat(parts) for name, parts in columns.items()}}

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
