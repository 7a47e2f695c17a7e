"""Encoder and decoder that share the places of maxima."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightbed.models.cnn import convolution
from lightbed.models.resampling import decode, encode


class SegNet(nn.Module):
    """Encoder-decoder that un-pools with kept indices (Badrinarayanan, Kendall, Cipolla 2015, arXiv:1511.00561).

    The encoder is the 13 convolutions of VGG16 with batch norm; the decoder mirrors it, and puts each value where its
    maximum was, so that boundaries come back sharp without learnt up-sampling. 29 million parameters as published.

    Args:
        num_classes: K.
        in_channels: C of the images.
        channels: of each encoder stage.
        depths: convolutions of each encoder stage.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        depths: Sequence[int] = (2, 2, 3, 3, 3),
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(
            stage(widths[i], widths[i + 1], widths[i + 1], depth) for i, depth in enumerate(depths)
        )
        decoder = [
            stage(widths[i + 1], widths[i + 1], widths[i] if i else widths[1], depth) for i, depth in enumerate(depths)
        ]
        decoder[0] = nn.Sequential(*list(decoder[0])[:-3])  # the last convolution gives logits instead
        self.decoder = nn.ModuleList(reversed(decoder))
        self.head = nn.Conv2d(channels[0], num_classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of any size -> logits (N, K, H, W)."""
        features, kept = encode(self.encoder, images)
        return self.head(decode(self.decoder, features, kept))  # type: ignore[no-any-return]


def stage(in_channels: int, channels: int, out_channels: int, depth: int) -> nn.Sequential:
    """`depth` convolutions 3x3 with batch norm and ReLU; the last one changes to `out_channels`."""
    widths = [in_channels, *[channels] * (depth - 1), out_channels]
    return nn.Sequential(*(layer for i in range(depth) for layer in convolution(widths[i], widths[i + 1])))
