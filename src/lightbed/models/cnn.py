"""A small convolutional network for small images."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightbed.models.batch_norm import BatchNorm


class CNN(nn.Module):
    """Stages of two convolutions 3x3 with batch norm and ReLU, halved in between, then the mean over all places.

    Takes any input size from 2^(stages - 1) pixels on.

    Args:
        in_channels: C of the images.
        num_classes: number of logits.
        channels: of each stage.
        dropout: before the last layer.
    """

    def __init__(
        self, in_channels: int, num_classes: int, channels: Sequence[int] = (32, 64, 128), dropout: float = 0.1
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width = in_channels
        for i, size in enumerate(channels):
            stages += [nn.MaxPool2d(2)] if i else []
            stages += [*convolution(width, size), *convolution(size, size)]
            width = size
        self.features = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        return self.head(self.features(images))  # type: ignore[no-any-return]


def convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Convolution 3x3 that keeps the size, batch norm, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)  # batch norm has the bias
    return [conv, BatchNorm(out_channels), nn.ReLU(inplace=True)]
