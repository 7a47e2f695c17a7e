"""Mirrored images."""

import numpy as np
import torch
from torch import Tensor

from lightbed.errors import UserError
from lightbed.transforms.augment import Augmentation, Targets

LARGE = 1 << 16  # pixels of an image, over all its channels


class HorizontalFlip(Augmentation):
    """Left and right exchanged, in a share `p` of the samples."""

    draws = 1
    moves = True
    dim = -1

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UserError(f"{type(self).__name__}: p={p} must lie in 0..1")
        self.p = p

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        chosen = u[:, 0] < self.p
        return flip(images, chosen, self.dim), {name: flip(values, chosen, self.dim) for name, values in target.items()}

    def matrices(self, u: Tensor, height: int, width: int) -> Tensor:  # noqa: ARG002 - the size makes no difference
        """The maps of random numbers (N, 1), as `warp` takes them: float32 (N, 2, 3)."""
        maps = torch.eye(2, 3, device=u.device).repeat(len(u), 1, 1)
        maps[:, self.dim, self.dim + 2] = torch.where(u[:, 0] < self.p, -1.0, 1.0)
        return maps


class VerticalFlip(HorizontalFlip):
    """Top and bottom exchanged, in a share `p` of the samples."""

    dim = -2


def flip(images: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """The images (N, ..., H, W) mirrored along `dim` (-1 or -2) where `chosen`, bool (N,); may overwrite them."""
    if images.device.type == "cpu":
        return _flip_chosen(images, chosen, dim)
    return _flip_all(images, chosen, dim)


def _flip_chosen(images: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """Touching only the chosen ones: on a CPU NumPy takes a third of torch's time for small ones."""
    if images[0].numel() >= LARGE:  # torch's mirroring of long rows is the faster one
        for i in chosen.nonzero()[:, 0].tolist():
            images[i] = images[i].flip(dim)
        return images
    pixels, rows = images.numpy(), chosen.numpy()
    mirrored = pixels[rows][..., ::-1] if dim == -1 else pixels[rows][..., ::-1, :]
    pixels[rows] = np.ascontiguousarray(mirrored)
    return images


def _flip_all(images: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """In one operation, without asking a GPU which ones are chosen."""
    return torch.where(chosen.view(-1, *[1] * (images.ndim - 1)), images.flip(dim), images)
