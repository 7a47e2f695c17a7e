"""Masks of images of any size with bounded memory: tiles that overlap, and logits enlarged strip by strip."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightbed.errors import UserError

_FLOATS = 1 << 22  # of enlarged logits held at a time
Size = tuple[int, int]


class Plan(NamedTuple):
    """How an image is labelled: in which tiles, and at which scale the network sees them."""

    tile: Size  # (height, width) in the image's own pixels; that of the image where it is labelled in one piece
    factors: tuple[float, float]  # of height and width, from the image's pixels to the network's

    def seen(self, part: Size) -> Size:
        """The size at which the network sees a part of the image of this size."""
        height, width = (max(1, round(side * factor)) for side, factor in zip(part, self.factors, strict=True))
        return height, width


def spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """Tiles along one side of `length` pixels: where each starts, and the first and last + 1 pixel that it answers for.

    Neighbours overlap by at least `overlap` pixels and share it half and half, so that no pixel is labelled from a
    tile's edge. The last tile ends where the image does.
    """
    if length <= tile:
        yield 0, 0, length
        return
    count = -(-(length - overlap) // (tile - overlap))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    first = 0
    for start, after in zip(starts, [*starts[1:], None], strict=True):
        last = length if after is None else (after + start + tile) // 2
        yield start, first, last
        first = last


def tiled(label: Callable[[Tensor], Tensor], image: Tensor, tile: Size, overlap: int | str) -> Tensor:
    """The mask uint8 (h, w) of an image (C, h, w), made of the masks of its tiles.

    Args:
        label: an image (C, H, W) -> its mask (H, W).
        image: of any size.
        tile: (height, width) of a tile in pixels; a smaller image is one tile.
        overlap: least number of pixels that neighbouring tiles share; 'auto' is a quarter of their side. Twice what the
            network sees around a pixel makes the result independent of the tiles.

    Raises:
        UserError: tiles would not get ahead.
    """
    steps = []
    for length, side in zip(image.shape[-2:], tile, strict=True):
        shared = overlap if isinstance(overlap, int) else side // 4
        if not 0 <= shared < side:
            raise UserError(f"overlap={overlap} must be at least 0 and less than tile={side}")
        steps.append(list(spans(length, side, shared)))
    mask = torch.empty(image.shape[-2:], dtype=torch.uint8)
    for y, top, bottom in steps[0]:
        for x, left, right in steps[1]:
            part = label(image[:, y : y + tile[0], x : x + tile[1]])
            mask[top:bottom, left:right] = part[top - y : bottom - y, left - x : right - x]
    return mask


def enlarged(logits: Tensor, size: Size) -> Tensor:
    """The most probable class of each pixel, uint8 (h, w), of logits (K, H, W) brought to `size`.

    The same as bilinear interpolation and a maximum, but of a strip of rows at a time.
    """
    classes, height, width = logits.shape
    if (height, width) == size:
        return logits.max(0).indices.to(torch.uint8).cpu()
    rows = ((torch.arange(size[0], device=logits.device) + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
    upper = rows.long()
    lower, share = (upper + 1).clamp(max=height - 1), (rows - upper)[:, None]
    mask = torch.empty(size, dtype=torch.uint8)
    for strip in torch.split(torch.arange(size[0], device=logits.device), max(1, _FLOATS // (classes * size[1]))):
        between = torch.lerp(logits[:, upper[strip]], logits[:, lower[strip]], share[strip])  # (K, strip, W)
        wide = F.interpolate(between, size=size[1], mode="linear", align_corners=False)
        mask[strip[0] : strip[-1] + 1] = wide.max(0).indices.to(torch.uint8).cpu()
    return mask
