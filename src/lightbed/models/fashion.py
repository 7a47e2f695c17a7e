"""A residual network for small grey images that a CPU trains in minutes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightbed.models.cnn import convolution


class Residual(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(*convolution(channels, channels), *convolution(channels, channels))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return images + self.change(images)  # type: ignore[no-any-return]


class FashionCNN(nn.Module):
    """A stem, two halvings each followed by a residual block, a wide last convolution.

    After D. Page's ResNet-9 ("How to train your ResNet", 2018), narrower, with one residual block at each of the two
    smaller sizes, and with the mean beside the maximum over all places before the last layer. With 1 channel, 10
    classes and the widths given here it has 433,994 parameters and needs 43 million multiplications for 28x28 pixels.
    Takes any input size from 4 pixels on.

    Args:
        in_channels: C of the images.
        num_classes: number of logits.
        channels: of the first convolution, at whole, half and quarter size, and of the last convolution.
        dropout: before the last layer.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int] = (32, 48, 96, 192),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        stem, half, quarter, last = channels
        self.features = nn.Sequential(
            *convolution(in_channels, stem),
            *convolution(stem, half),
            nn.MaxPool2d(2),
            Residual(half),
            *convolution(half, quarter),
            nn.MaxPool2d(2),
            Residual(quarter),
            *convolution(quarter, last),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * last, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        features = self.features(images)
        return self.head(torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1))  # type: ignore[no-any-return]
