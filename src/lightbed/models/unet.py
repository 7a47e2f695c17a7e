"""Encoder and decoder with skip connections."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightbed.models.batch_norm import BatchNorm
from lightbed.models.resampling import transposed


class UNet(nn.Module):
    """U-Net (Ronneberger, Fischer, Brox 2015, arXiv:1505.04597), unpadded as published or padded as everyone uses it.

    Two convolutions 3x3 a stage, halved by max pooling on the way down; on the way up doubled by a transposed
    convolution 2x2 and joined with the features of the same stage. Unpadded, the network sees 572 pixels and labels the
    middle 388 of them; the image is mirrored at its borders, so that all of it is labelled. 31 million parameters as
    published.

    Args:
        num_classes: K.
        in_channels: C of the images.
        channels: of each stage; (64, 128, 256, 512, 1024) in the paper.
        padded: pad the convolutions with zeros; False for the paper's, which cost more for the same image.
        batch_norm: after each convolution; the paper has none.
        dropout: after the lowest two stages' convolutions, as the paper has at the end of its contracting path.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        padded: bool = False,
        batch_norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.padded, self.levels = padded, len(channels) - 1
        self.down = nn.ModuleList(
            _double(widths[i], widths[i + 1], padded, batch_norm, dropout if i >= self.levels - 1 else 0.0)
            for i in range(len(channels))
        )
        self.ups = nn.ModuleList(
            transposed(nn.Conv2d(channels[i], channels[i + 1], 2, stride=2)) for i in reversed(range(self.levels))
        )
        self.joins = nn.ModuleList(
            _double(2 * channels[i], channels[i], padded, batch_norm, 0.0) for i in reversed(range(self.levels))
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=padded)  # padded: odd sizes keep their last row
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of any size -> logits (N, K, H, W)."""
        size = images.shape[-2:]
        features = images if self.padded else mirror(images, [self.needed(side) for side in size])
        skips = []
        for i, convolve in enumerate(self.down):
            features = convolve(self.pool(features) if i else features)
            skips.append(features)
        skips.pop()
        for up, join in zip(self.ups, self.joins, strict=True):
            skip = skips.pop()
            # padded, the skip has up to one row less than twice the coarser features
            features = up(features)
            features = features[..., : skip.shape[-2], : skip.shape[-1]] if self.padded else features
            features = join(torch.cat([crop(skip, features.shape[-2:]), features], dim=1))
        return crop(self.head(features), size)

    def needed(self, side: int) -> int:
        """The smallest input side of the unpadded network whose output has at least `side` pixels: 572 for 388."""
        low = side
        for _ in range(self.levels):  # up: two unpadded convolutions lose 4, the transposed one doubles
            low = -(-(low + 4) // 2)
        low += 4
        for _ in range(self.levels):
            low = low * 2 + 4
        return low


def mirror(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) extended to `size` on all sides by mirroring, over and over where they are small."""
    for dim, side in ((-2, size[0]), (-1, size[1])):
        count = images.shape[dim]
        place = torch.arange(side, device=images.device) - (side - count) // 2
        period = max(1, 2 * (count - 1))
        place = place.remainder(period)
        images = images.index_select(dim, torch.minimum(place, period - place) if count > 1 else place * 0)
    return images


def crop(features: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of (N, C, H, W) with `size`."""
    top, left = ((have - want) // 2 for have, want in zip(features.shape[-2:], size, strict=True))
    return features[..., top : top + size[0], left : left + size[1]]


def _double(in_channels: int, channels: int, padded: bool, batch_norm: bool, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (in_channels, channels):
        layers.append(nn.Conv2d(width, channels, 3, padding=int(padded), bias=not batch_norm))
        layers += [BatchNorm(channels)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))
