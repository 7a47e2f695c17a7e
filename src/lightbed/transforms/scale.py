"""Images nearer and farther."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightbed.errors import UserError, one_of
from lightbed.transforms.augment import Augmentation, Targets
from lightbed.transforms.warp import FILLS, warp


class ScaleJitter(Augmentation):
    """The image enlarged or reduced by a random factor, its proportions kept, and a window of the image's own size.

    Enlarged, the window is a random part of it; reduced, it lies at a random place of the window.

    Args:
        scale: lowest and highest factor; uniform.
        fill: what lies outside a reduced image: 'constant' (black, in masks 255), 'nearest' or 'reflect'.
    """

    draws = 3
    moves = True
    computes = True

    def __init__(self, scale: Sequence[float] = (0.5, 2.0), fill: str = "constant") -> None:
        super().__init__()
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise UserError(f"ScaleJitter: scale={list(scale)} must be [lowest, highest] above 0")
        self.scale = (scale[0], scale[1])
        self.fill = one_of(fill, tuple(FILLS), "ScaleJitter: fill")

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        return warp(images, target, self.matrices(u, images.shape[-2], images.shape[-1]), self.fill)

    def matrices(self, u: Tensor, height: int, width: int) -> Tensor:
        """The maps of random numbers (N, 3), as `warp` takes them: float32 (N, 2, 3)."""
        share = 1 / (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0])  # of the image that the window shows
        zero = torch.zeros_like(share)
        down = (u[:, 1] - 0.5) * (1 - share) * height  # from the image's centre to the window's
        right = (u[:, 2] - 0.5) * (1 - share) * width
        return torch.stack([share, zero, down, zero, share, right], dim=1).view(-1, 2, 3)
