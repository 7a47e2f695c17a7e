"""Crops: a shift by whole pixels, and a random part of the image at another size."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from lightbed.errors import UserError, one_of
from lightbed.transforms.augment import Augmentation, Targets
from lightbed.transforms.warp import FILLS, IGNORE, warp

LARGE = 1 << 16  # bytes of an image from which it is worth a step of its own in Python


class RandomCrop(Augmentation):
    """A window of the image's size out of the image with a rim: a shift by up to `padding` whole pixels each way.

    Args:
        padding: width of the rim.
        fill: what the rim is: 'nearest', 'constant' (black, in masks 255) or 'reflect', see `warp.FILLS`.
    """

    draws = 2
    moves = True

    def __init__(self, padding: int = 4, fill: str = "constant") -> None:
        super().__init__()
        if padding < 0:
            raise UserError(f"RandomCrop: padding={padding} must not be negative")
        self.padding = padding
        self.fill = one_of(fill, tuple(FILLS), "RandomCrop: fill")

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        top, left = self._corners(u).unbind(1)
        window = _window_view if images.device.type == "cpu" else _window_all
        # an object that is mirrored in the rim is no other object
        how: dict[str, tuple[str, int]] = {"mask": (self.fill, IGNORE), "masks": ("constant", 0)}
        moved = {name: window(values, top, left, self.padding, *how[name]) for name, values in target.items()}
        return window(images, top, left, self.padding, self.fill, 0), moved

    def _corners(self, u: Tensor) -> Tensor:
        return (u * (2 * self.padding + 1)).long()

    def matrices(self, u: Tensor, height: int, width: int) -> Tensor:  # noqa: ARG002 - the size makes no difference
        """The maps of random numbers (N, 2), as `warp` takes them: float32 (N, 2, 3)."""
        maps = torch.eye(2, 3, device=u.device).repeat(len(u), 1, 1)
        maps[:, :, 2] = self._corners(u) - self.padding
        return maps


def _window_view(images: Tensor, top: Tensor, left: Tensor, padding: int, fill: str, value: int) -> Tensor:
    """Out of a view of all windows, whole rows at a time: on a CPU NumPy takes half of torch's time for it."""
    pixels = images.numpy()
    if fill == "constant":
        padded = F.pad(images, [padding] * 4, value=value).numpy()
    else:
        rim = [(0, 0)] * (images.ndim - 2) + [(padding, padding)] * 2
        padded = np.pad(pixels, rim, "edge" if fill == "nearest" else "symmetric")
    if pixels[0].size >= LARGE:  # one copy each, where many small ones would cost more than what they save
        height, width = pixels.shape[-2:]
        for i, (y, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
            pixels[i] = padded[i, ..., y : y + height, x : x + width]
        return images
    windows = sliding_window_view(padded, pixels.shape[-2:], axis=(-2, -1))  # (N, ..., 2p+1, 2p+1, H, W)
    pixels[:] = windows[np.arange(len(pixels)), ..., top.numpy(), left.numpy(), :, :]
    return images


def _window_all(images: Tensor, top: Tensor, left: Tensor, padding: int, fill: str, value: int) -> Tensor:
    """In one operation, without asking a GPU where each window lies."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) + top[:, None]  # (N, H), in the image with its rim
    columns = torch.arange(width, device=images.device) + left[:, None]
    source = images
    if fill == "constant":
        source = F.pad(images, [padding] * 4, value=value)
    else:
        rows, columns = _inside(rows - padding, height, fill), _inside(columns - padding, width, fill)
    places = (rows[:, :, None] * source.shape[-1] + columns[:, None, :]).flatten(1)  # (N, HW)
    flat = source.reshape(len(images), -1, source.shape[-2] * source.shape[-1])  # (N, C, HW)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).view(images.shape)


def _inside(places: Tensor, size: int, fill: str) -> Tensor:
    """The pixels 0..size-1 that stand for places which may lie outside."""
    if fill == "nearest":
        return places.clamp(0, size - 1)
    places = places.remainder(2 * size)
    return torch.minimum(places, 2 * size - 1 - places)


class RandomResizedCrop(Augmentation):
    """A random part of the image, stretched to the image's size (Szegedy et al. 2015, arXiv:1409.4842).

    torchvision draws again, up to ten times, where the part does not fit into the image; here the side that is too long
    is cut to the image's. Sides and corner are not rounded to whole pixels.

    Args:
        scale: lowest and highest share of the image's area.
        ratio: lowest and highest width / height of the part in pixels; its logarithm is uniform.
    """

    draws = 4
    moves = True
    computes = True

    def __init__(self, scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)) -> None:
        super().__init__()
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"RandomResizedCrop: scale={list(scale)} must be [lowest, highest] in 0..1 (0 excluded)")
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise UserError(f"RandomResizedCrop: ratio={list(ratio)} must be [lowest, highest] above 0")
        self.scale, self.ratio = (scale[0], scale[1]), (math.log(ratio[0]), math.log(ratio[1]))

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        return warp(images, target, self.matrices(u, images.shape[-2], images.shape[-1]), "nearest")

    def matrices(self, u: Tensor, height: int, width: int) -> Tensor:
        """The maps of random numbers (N, 4), as `warp` takes them: float32 (N, 2, 3)."""
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0]) * (height * width)
        ratio = (self.ratio[0] + (self.ratio[1] - self.ratio[0]) * u[:, 1]).exp()
        share_y = ((area / ratio).sqrt() / height).clamp(max=1)
        share_x = ((area * ratio).sqrt() / width).clamp(max=1)
        zero = torch.zeros_like(area)
        down = (u[:, 2] - 0.5) * (1 - share_y) * height  # from the image's centre to the part's
        right = (u[:, 3] - 0.5) * (1 - share_x) * width
        return torch.stack([share_y, zero, down, zero, share_x, right], dim=1).view(-1, 2, 3)
