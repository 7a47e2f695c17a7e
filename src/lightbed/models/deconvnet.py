"""A deep network of un-pooling and transposed convolutions."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightbed.models.batch_norm import BatchNorm
from lightbed.models.resampling import decode, encode, transposed
from lightbed.models.segnet import stage


class DeconvNet(nn.Module):
    """Mirror image of VGG16: un-pooling and transposed convolutions (Noh, Hong, Han 2015, arXiv:1505.04366).

    Un-pooling puts values back where `pool` found them. The middle is VGG16's linear layers as convolutions; the
    transposed convolution of the 7x7 one restores its size. As published, the 7x7 is unpadded, sees one place of a
    224x224 image, and has 4096 channels: 252 million parameters.

    Args:
        num_classes: K.
        in_channels: C of the images.
        channels: of each encoder stage.
        depths: convolutions of each encoder stage.
        hidden: channels of the middle; 4096 in the paper.
        kernel: side of the middle's first convolution; 7 in the paper.
        padding: of that convolution; 0 in the paper, which then needs images of kernel * 2^stages pixels or more.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        depths: Sequence[int] = (2, 2, 3, 3, 3),
        hidden: int = 4096,
        kernel: int = 7,
        padding: int = 0,
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(
            stage(widths[i], widths[i + 1], widths[i + 1], depth) for i, depth in enumerate(depths)
        )
        conv = nn.Conv2d(widths[-1], hidden, kernel, padding=padding, bias=False)
        self.middle = nn.Sequential(conv, *_norm(hidden), nn.Conv2d(hidden, hidden, 1, bias=False), *_norm(hidden))
        self.restore = transposed(conv)
        self.restored = nn.Sequential(*_norm(widths[-1]))
        self.decoder = nn.ModuleList(
            _decoder_stage(widths[i + 1], widths[i] if i else widths[1], depth)
            for i, depth in reversed(list(enumerate(depths)))
        )
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of any size -> logits (N, K, H, W)."""
        features, kept = encode(self.encoder, images)
        middle = self.middle(features)
        features = self.restored(self.restore(middle, output_size=features.shape[-2:]))
        return self.head(decode(self.decoder, features, kept))  # type: ignore[no-any-return]


def _norm(channels: int) -> list[nn.Module]:
    return [BatchNorm(channels), nn.ReLU(inplace=True)]


def _decoder_stage(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    """`depth` transposed convolutions 3x3 with batch norm and ReLU; the last one changes to `out_channels`."""
    widths = [*[in_channels] * depth, out_channels]
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.ConvTranspose2d(widths[i], widths[i + 1], 3, padding=1, bias=False), *_norm(widths[i + 1])]
    return nn.Sequential(*layers)
