"""Rotation, shift, shear, zoom and flip in one resampling."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightbed.errors import UserError, one_of
from lightbed.transforms.augment import Augmentation, Targets
from lightbed.transforms.warp import FILLS, warp


class Affine(Augmentation):
    """Random affine maps as Keras' ImageDataGenerator draws them, all uniformly and apart from each other.

    The matrix is rotation · shift · shear · zoom, in (y, x) from the image's centre, and maps the output's pixels to
    the input's; then the flip. Where we differ: older versions of Keras turn about (h / 2 + 0.5, w / 2 + 0.5), a pixel
    off the centre; and with `fill='constant'` Keras cuts hard at the edge, where we blend over the width of a pixel.

    Args:
        rotation: degrees; the angle lies in -rotation..rotation.
        shift: fraction of height and width, one for both or (height, width).
        shear: degrees (not a fraction, as 0.2 in many recipes suggests).
        zoom: of the area seen, 1 - zoom..1 + zoom, or (lowest, highest); drawn for each side by itself.
        flip: share of the samples that are mirrored left to right.
        fill: what lies outside the image: 'nearest', 'constant' (black, in masks 255) or 'reflect'.
    """

    draws = 7
    moves = True
    turns = True
    computes = True
    lowest: Tensor
    span: Tensor

    def __init__(
        self,
        rotation: float = 0.0,
        shift: Sequence[float] | float = 0.0,
        shear: float = 0.0,
        zoom: Sequence[float] | float = 0.0,
        flip: float = 0.0,
        fill: str = "nearest",
    ) -> None:
        super().__init__()
        shifts = [shift, shift] if isinstance(shift, int | float) else list(shift)
        zooms = [1 - zoom, 1 + zoom] if isinstance(zoom, int | float) else list(zoom)
        if len(shifts) != 2:
            raise UserError(f"Affine: shift={shift} must be one fraction or two, [height, width]")
        if len(zooms) != 2 or not 0 < zooms[0] <= zooms[1]:
            raise UserError(f"Affine: zoom={zoom} must be a fraction in 0..1 (1 excluded) or [lowest, highest] above 0")
        if not 0 <= flip <= 1:
            raise UserError(f"Affine: flip={flip} must lie in 0..1")
        self.fill = one_of(fill, tuple(FILLS), "Affine: fill")
        # of the seven parameters: angle, shifts, shear, zooms, and whether to flip (below 0)
        turn, lean = math.radians(rotation), math.radians(shear)
        lowest = torch.tensor([-turn, -shifts[0], -shifts[1], -lean, zooms[0], zooms[0], -flip])
        highest = torch.tensor([turn, shifts[0], shifts[1], lean, zooms[1], zooms[1], 1 - flip])
        self.register_buffer("lowest", lowest, persistent=False)
        self.register_buffer("span", highest - lowest, persistent=False)

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        return warp(images, target, self.matrices(u, images.shape[-2], images.shape[-1]), self.fill)

    def matrices(self, u: Tensor, height: int, width: int) -> Tensor:
        """The maps of random numbers (N, 7), as `warp` takes them: float32 (N, 2, 3)."""
        theta, down, right, shear, zoom_y, zoom_x, mirror = (self.lowest + self.span * u).unbind(1)
        down, right = down * height, right * width
        zoom_x = torch.where(mirror < 0, -zoom_x, zoom_x)
        cos, sin = theta.cos(), theta.sin()
        shear_sin, shear_cos = shear.sin(), shear.cos()
        rows = [
            [cos * zoom_y, (-cos * shear_sin - sin * shear_cos) * zoom_x, cos * down - sin * right],
            [sin * zoom_y, (-sin * shear_sin + cos * shear_cos) * zoom_x, sin * down + cos * right],
        ]
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
