"""Batched augmentation on the device: one call for the whole batch, parameters drawn per sample.

An augmentation names how many random numbers a sample needs (`draws`) and maps images, targets and those numbers to
new images and targets. The numbers come from `lightbed.chance.uniform`, so a sample is augmented alike whatever
its place in the batch, the number of workers or a resume.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightbed.chance import uniform

Targets = dict[str, Any]


class Augmentation(nn.Module):
    """One batched augmentation."""

    draws: int = 0
    """How many uniform random numbers each sample needs."""

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        """Augment a batch.

        Args:
            images: float32 (N, C, H, W) in 0..255.
            target: stacked targets; what moves with the image (`mask`, `boxes`) is moved too.
            u: float32 (N, draws) in [0, 1), on the images' device.
        """
        raise NotImplementedError


class Augment(nn.Module):
    """A chain of augmentations, keyed by (seed, epoch, sample index)."""

    def __init__(self, steps: Sequence[Augmentation], seed: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.draws = [step.draws for step in steps]
        self.seed = seed

    def forward(self, images: Tensor, target: Targets, epoch: int) -> tuple[Tensor, Targets]:
        """Images uint8 (N, C, H, W) and targets with `index` int64 (N,) -> float32 images in 0..255 and targets."""
        numbers = uniform(self.seed, epoch, target["index"], sum(self.draws)).to(images.device)
        images = images.float()
        for step, u in zip(self.steps, numbers.split(self.draws, dim=1), strict=True):
            images, target = step(images, target, u)
        return images, target
