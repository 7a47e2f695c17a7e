"""Batched augmentation on the device: one call for the whole batch, parameters drawn per sample.

An augmentation names how many random numbers a sample needs (`draws`) and maps images, targets and those numbers to
new images and targets. The numbers come from `lightbed.chance.uniform`, so a sample is augmented alike whatever
its place in the batch, the number of workers or a resume.
"""

from collections.abc import Sequence
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
    def forward(self, images: Tensor, target: Targets, epoch: int) -> tuple[Tensor, Targets]:
        """Images uint8 or float32 (N, C, H, W) in 0..255 and targets with `index` int64 (N,) -> the same, augmented.

        Raises:
            UserError: the targets have boxes, which none of the batched augmentations moves.
        """
        if self.moves and ("boxes" in target or "masks" in target):
            raise UserError("augment.batch moves no boxes: use transforms of torchvision v2 in augment.sample for them")
        numbers = uniform(self.seed, epoch, target["index"], sum(self.draws)).to(images.device)
        moving = {name: target[name] for name in MOVING if name in target}
        count = _parts(images) if self.computes else 1
        if count == 1:
            images, moving = self._chain(images, moving, numbers)
            return images, {**target, **moving}
        columns = {name: values.tensor_split(count) for name, values in moving.items()}
        done = [
            self._chain(part, {name: column[i] for name, column in columns.items()}, u)
            for i, (part, u) in enumerate(zip(images.tensor_split(count), numbers.tensor_split(count), strict=True))
        ]
        moved = {name: torch.cat([targets[name] for _, targets in done]) for name in moving}
        return torch.cat([part for part, _ in done]), {**target, **moved}

    def _chain(self, images: Tensor, moving: Targets, numbers: Tensor) -> tuple[Tensor, Targets]:
        dtype = images.dtype
        images, moving = images.clone(), {name: values.clone() for name, values in moving.items()}
        for step, u in zip(self.steps, torch.split(numbers, self.draws, dim=1), strict=True):
            images, moving = step(images, moving, u)
        if dtype == torch.uint8 != images.dtype:
            images = images.round_().clamp_(0, 255).to(dtype)
        return images, moving


def _parts(images: Tensor) -> int:
    """Into how many parts a batch is split on a CPU.

    A part stays in the cache and its memory is used again by the next one: resampling 300x300 images takes a third of
    the time, for most of it would go into fresh pages.
    """
    if images.device.type != "cpu":
        return 1
    size = torch.get_num_threads() * max(1, _CACHED // (4 * images[0].numel()))
    return -(-len(images) // size)
