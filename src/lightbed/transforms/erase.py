"""Erased rectangles: random erasing and Cutout."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightbed.errors import UserError
from lightbed.transforms.augment import Augmentation, Targets


class RandomErasing(Augmentation):
    """A rectangle of one grey value in a share `p` of the samples (Zhong et al. 2020, arXiv:1708.04896).

    With `scale=[s, s]` and `ratio=[1, 1]` it is Cutout (DeVries, Taylor 2017, arXiv:1708.04552), except that the
    square lies wholly in the image. Masks stay: what is hidden is still there.

    Args:
        p: share of the samples.
        scale: lowest and highest share of the image's area.
        ratio: lowest and highest width / height in pixels; its logarithm is uniform. A side that is longer than the
            image is cut to the image's.
        value: of the erased pixels, 0..255, in all channels.
    """

    draws = 5

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UserError(f"RandomErasing: p={p} must lie in 0..1")
        if len(scale) != 2 or not 0 <= scale[0] <= scale[1] <= 1:
            raise UserError(f"RandomErasing: scale={list(scale)} must be [lowest, highest] in 0..1")
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise UserError(f"RandomErasing: ratio={list(ratio)} must be [lowest, highest] above 0")
        if not 0 <= value <= 255:
            raise UserError(f"RandomErasing: value={value} must lie in 0..255")
        self.p, self.scale, self.value = p, (scale[0], scale[1]), value
        self.ratio = (math.log(ratio[0]), math.log(ratio[1]))

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        height, width = images.shape[-2:]
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 1]) * (height * width)
        ratio = (self.ratio[0] + (self.ratio[1] - self.ratio[0]) * u[:, 2]).exp()
        tall = (area / ratio).sqrt().round().clamp(max=height)
        wide = (area * ratio).sqrt().round().clamp(max=width)
        top = (u[:, 3] * (height + 1 - tall)).floor()
        left = (u[:, 4] * (width + 1 - wide)).floor()
        tall = tall * (u[:, 0] < self.p)
        erase = _erase_each if images.device.type == "cpu" else _erase_all
        return erase(images, torch.stack([top, left, top + tall, left + wide], dim=1).long(), self.value), target


def _erase_each(images: Tensor, boxes: Tensor, value: int) -> Tensor:
    """Image by image: on a CPU NumPy's slices take a quarter of the time of one operation on the batch."""
    pixels = images.numpy()
    for i, (top, left, bottom, right) in enumerate(boxes.tolist()):
        if bottom > top:
            pixels[i, :, top:bottom, left:right] = value
    return images


def _erase_all(images: Tensor, boxes: Tensor, value: int) -> Tensor:
    """In one operation, without asking a GPU where each box lies."""
    top, left, bottom, right = boxes[:, :, None].unbind(1)  # (N, 1)
    y = torch.arange(images.shape[-2], device=images.device)
    x = torch.arange(images.shape[-1], device=images.device)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # (N, H), (N, W)
    return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], value)
