"""Ways back to a former size: what encoder-decoder networks share."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def transposed(conv: nn.Conv2d, in_channels: int | None = None, out_channels: int | None = None) -> nn.ConvTranspose2d:
    """The transposed convolution with a convolution's kernel, stride, padding and dilation.

    Called with `output_size` it gives back the convolution's input size, whatever that was: a convolution with stride s
    maps s sizes onto one, and `output_size` says which of them it was.

    Args:
        conv: the convolution, zero-padded by numbers.
        in_channels: of the result; None for the convolution's output channels.
        out_channels: of the result; None for the convolution's input channels.
    """
    return nn.ConvTranspose2d(
        in_channels or conv.out_channels,
        out_channels or conv.in_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
    )


def pool(features: Tensor) -> tuple[Tensor, Tensor]:
    """Max pooling 2x2 of (N, C, H, W) to (N, C, ceil(H/2), ceil(W/2)), and the place of each maximum, for `unpool`."""
    return F.max_pool2d(features, 2, ceil_mode=True, return_indices=True)


def unpool(features: Tensor, places: Tensor, size: torch.Size) -> Tensor:
    """Put each value (N, C, h, w) at the place that `pool` kept, in zeros (N, C, *size).

    `max_unpool2d` does the same, but has no deterministic form; the windows don't overlap, so a scatter is exact.
    """
    count, channels = features.shape[:2]
    empty = features.new_zeros(count, channels, size[0] * size[1])
    return empty.scatter(2, places.flatten(2), features.flatten(2)).view(count, channels, *size)


Kept = tuple[Tensor, torch.Size]


def encode(stages: Iterable[nn.Module], features: Tensor) -> tuple[Tensor, list[Kept]]:
    """Run each stage and pool after it; also returns, for `decode`, the places and the size before each pooling."""
    kept = []
    for stage in stages:
        features = stage(features)
        size = features.shape[-2:]
        features, places = pool(features)
        kept.append((places, size))
    return features, kept


def decode(stages: Iterable[nn.Module], features: Tensor, kept: list[Kept]) -> Tensor:
    """Un-pool before each stage and run it, the way of `encode` backwards."""
    for stage, (places, size) in zip(stages, reversed(kept), strict=True):
        features = stage(unpool(features, places, size))
    return features


def bilinear(weight: Tensor) -> None:
    """Fill a transposed convolution's weight (C, C, k, k) so that it interpolates each channel by itself."""
    size = weight.shape[-1]
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / ((size + 1) // 2)
    with torch.no_grad():
        weight.zero_()
        for channel in range(min(weight.shape[:2])):
            weight[channel, channel] = ramp[:, None] * ramp
