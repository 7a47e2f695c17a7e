"""A classifier made fully convolutional."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from lightbed.errors import UserError, nearest
from lightbed.models.batch_norm import bear_one_image
from lightbed.models.resampling import bilinear
from lightbed.models.zoo import classifier, names

STRIDES = (8, 16, 32)


class FCN(nn.Module):
    """FCN-32s, 16s or 8s on a backbone of torchvision (Long, Shelhamer, Darrell 2015, arXiv:1411.4038).

    The classifier's linear layers become convolutions that score each place of the coarsest features; scores are
    doubled in size by transposed convolutions that begin as bilinear interpolation, and scores of finer features are
    added on the way down to `stride`. The rest of the way is one fixed bilinear interpolation. The paper pads the
    image by 100 pixels and crops; here it is padded on the right and at the bottom to a multiple of 32. Of several
    features of one size the last are taken: in VGG those before the next pooling, where the paper takes those after
    the former one.

    Args:
        num_classes: K.
        in_channels: C of the images.
        backbone: name of a torchvision classifier with features at 1/8, 1/16 and 1/32 of the image; vgg16 in the paper.
        weights: of the backbone, see `zoo.classifier`.
        stride: 32, 16 or 8: how far down finer features are added.
        hidden: channels of the two hidden layers of the head; 4096 in the paper.
        kernel: side of the head's first convolution, odd; 7 in the paper.
        dropout: after each hidden layer.

    Raises:
        UserError: the backbone is not known or has no such features.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "vgg16",
        weights: str | None = None,
        stride: int = 8,
        hidden: int = 4096,
        kernel: int = 7,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise UserError(f"model.stride={stride} must be one of 8, 16, 32")
        self.stride = stride
        strides = [s for s in STRIDES if s >= stride]
        self.backbone, widths = trunk(backbone, weights, strides, in_channels)
        self.head = nn.Sequential(
            nn.Conv2d(widths[-1], hidden, kernel, padding=kernel // 2),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, num_classes, 1),
        )
        finer = list(reversed(widths[:-1]))  # 1/16, then 1/8
        self.skips = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in finer)
        self.doublings = nn.ModuleList(
            nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2, padding=1, bias=False) for _ in finer
        )
        for layer in self.doublings:
            bilinear(layer.weight)  # type: ignore[arg-type]
        for skip in self.skips:  # the finer scores begin at zero, so that 8s begins as 16s, and 16s as 32s
            nn.init.zeros_(skip.weight)  # type: ignore[arg-type]
            nn.init.zeros_(skip.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of any size -> logits (N, K, H, W)."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 32, 0, -height % 32))
        *finer, coarse = self.backbone(padded).values()
        scores = self.head(coarse)  # (N, K, H/32, W/32)
        for skip, double, features in zip(self.skips, self.doublings, reversed(finer), strict=True):
            scores = skip(features) + _to_size(double(scores), features.shape[-2:])
        return _to_size(scores, padded.shape[-2:])[..., :height, :width]


def trunk(backbone: str, weights: str | None, strides: list[int], in_channels: int) -> tuple[nn.Module, list[int]]:
    """A torchvision classifier cut to give its last features at each stride, and their channels.

    Raises:
        UserError: there is no such network, or it has no features (N, C, H/stride, W/stride).
    """
    if backbone not in names():
        raise UserError(f"model.backbone={backbone} is no classifier of torchvision: {nearest(backbone, names())}")
    network = classifier(backbone, 1000, in_channels, weights=weights)
    found = _every_output(network, in_channels)
    last: dict[int, tuple[str, int]] = {}
    for name, value in found.items():
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == value.shape[3]:
            for stride in strides:
                # unpadded first layers lose some rows, so the ratio is not exact in every network
                if abs(value.shape[2] * stride / 256 - 1) <= 0.25:
                    last[stride] = (name, value.shape[1])
    lacking = [f"1/{stride}" for stride in strides if stride not in last]
    if lacking:
        raise UserError(f"model.backbone={backbone} has no features at {', '.join(lacking)} of the image's size")
    nodes = {last[stride][0]: f"stride{stride}" for stride in strides}
    extractor = create_feature_extractor(network, nodes)
    bear_one_image(extractor)  # an image of up to 32 pixels is one place at stride 32
    return extractor, [last[stride][1] for stride in strides]


def _every_output(network: nn.Module, in_channels: int) -> dict[str, Tensor]:
    """Each operation's output for an image of 256x256 pixels, in the order of execution."""
    nodes, _ = get_graph_node_names(network)
    images = torch.zeros(1, in_channels, 256, 256, device=next(network.parameters()).device)
    network.eval()
    try:
        with torch.no_grad():
            outputs: dict[str, Tensor] = create_feature_extractor(network, nodes[1:])(images)
    except AssertionError:  # a transformer that takes images of one size only
        outputs = {}
    network.train()
    return outputs


def _to_size(scores: Tensor, size: torch.Size) -> Tensor:
    same = scores.shape[-2:] == size
    return scores if same else F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
