"""What torchvision's detectors stand on: a classifier with a feature pyramid, its norm layers, images of any size."""

from collections.abc import Callable, Sequence
from functools import partial
from math import gcd
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock
from torchvision.ops.misc import FrozenBatchNorm2d

from lightbed.errors import UserError, nearest, one_of
from lightbed.models.batch_norm import BatchNorm
from lightbed.models.zoo import classifier

NORMS = ("batch", "group", "frozen")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
MOBILENETS = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
_STEM = ("conv1", "bn1")  # of a ResNet, trained together


def norm_layer(norm: str, eps: float = 1e-5, momentum: float = 0.1) -> Callable[[int], nn.Module]:
    """What makes a norm layer for a number of channels.

    Args:
        norm: 'batch', 'group' (at most 32 groups of channels of one image: Wu, He 2018, arXiv:1803.08494) or 'frozen'
            (batch norm with the statistics and factors of trained weights, which stay as they are).
        eps: added to the variance.
        momentum: of batch norm's statistics.
    """
    if one_of(norm, NORMS, "model.norm") == "batch":
        return partial(BatchNorm, eps=eps, momentum=momentum)
    if norm == "frozen":
        return partial(FrozenBatchNorm2d, eps=eps)
    return lambda channels: nn.GroupNorm(_groups(channels), channels, eps=eps)


def _groups(channels: int) -> int:
    """Groups of equal size, at most 32, of two channels or more: one value of one channel has no deviation."""
    groups = gcd(32, channels)
    return groups if groups < channels else max(1, groups // 2)


def pyramid(
    backbone: str,
    in_channels: int,
    levels: Sequence[int],
    extra: ExtraFPNBlock | None = None,
    *,
    weights: str | None = None,
    channels: int = 256,
    norm: Callable[[int], nn.Module],
    norm_pyramid: bool = False,
    trainable_layers: int = 5,
) -> BackboneWithFPN:
    """A classifier of torchvision with a feature pyramid (Lin et al. 2017, arXiv:1612.03144).

    Args:
        backbone: a ResNet or MobileNet.
        in_channels: C of the images.
        levels: stages that features are taken from, fine to coarse: of a ResNet 1 to 4, at 1/4 to 1/32 of the image's
            size; of a MobileNet V3 0 to 5, at 1/2 to 1/32.
        extra: what adds coarser levels; None: one, by pooling.
        weights: of the backbone, see `zoo.classifier`.
        channels: of every level.
        norm: makes the backbone's norm layers.
        norm_pyramid: norm layers of the same kind in the pyramid, too.
        trainable_layers: how many of the backbone's stages are trained, counted from the last; 5 (ResNets) or 6
            (MobileNets) are all.

    Raises:
        UserError: no such backbone, stage or number of layers.
    """
    network, taken, widths = staged(backbone, in_channels, levels, weights, norm, trainable_layers)
    return BackboneWithFPN(
        network,
        taken,
        widths,
        channels,
        extra_blocks=extra,
        norm_layer=norm if norm_pyramid else None,
    )


def staged(
    backbone: str,
    in_channels: int,
    levels: Sequence[int],
    weights: str | None,
    norm: Callable[[int], nn.Module],
    trainable_layers: int,
) -> tuple[nn.Module, dict[str, str], list[int]]:
    """A classifier of torchvision, the layers that end the stages `levels` by '0', '1' ..., and their channels.

    See `pyramid` for the arguments and errors.
    """
    known = (*RESNETS, *MOBILENETS)
    if backbone not in known:
        raise UserError(f"model.backbone={backbone} is not known: {nearest(backbone, list(known))}")
    network: Any = classifier(backbone, 1000, in_channels, weights=weights, kwargs={"norm_layer": norm})
    if backbone in RESNETS:
        names = ["layer1", "layer2", "layer3", "layer4"]
        parts = [_STEM, *((name,) for name in names)]
        widths = [network.inplanes // 8 * 2**i for i in range(4)]
        first = 1
    else:
        network = network.features
        starts = strided(network)
        names, first = [str(i) for i in starts], 0
        parts = stages(starts, len(network))
        widths = [network[i].out_channels for i in starts]
    wrong = [level for level in levels if not first <= level < first + len(names)]
    if wrong or list(levels) != sorted(set(levels)) or not levels:
        raise UserError(f"model.levels={list(levels)}: {backbone} has stages {first} to {first + len(names) - 1}")
    freeze_first(network, parts, trainable_layers)
    taken = {names[level - first]: str(i) for i, level in enumerate(levels)}
    return network, taken, [widths[level - first] for level in levels]


def strided(features: nn.Sequential) -> list[int]:
    """Where the stages of a MobileNet begin: at the first layer, at each that halves the image, at the last."""
    return [0, *(i for i, block in enumerate(features) if getattr(block, "_is_cn", False)), len(features) - 1]


def stages(starts: Sequence[int], end: int) -> list[tuple[str, ...]]:
    """The names of the layers in each stage of a sequence of `end` layers."""
    return [tuple(str(i) for i in range(a, b)) for a, b in zip(starts, [*starts[1:], end], strict=True)]


def freeze_first(network: nn.Module, parts: Sequence[Sequence[str]], trainable: int) -> None:
    """Take the gradient off all stages but the last `trainable` ones, each given by the names of its layers.

    Raises:
        UserError: there are not so many.
    """
    if not 0 <= trainable <= len(parts):
        raise UserError(f"model.trainable_layers={trainable} must lie in 0..{len(parts)}")
    for part in parts[: len(parts) - trainable]:
        for name in part:
            network.get_submodule(name).requires_grad_(False)


class Sizes(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision ships no types
    """The first and last step of torchvision's detectors, for images that are normalised already.

    `Preprocess` has brought images to mean 0 and, with `data.image_size`, to their size, so here they are only put
    into one tensor, padded on the right and at the bottom. With `min_size` they are also scaled, as torchvision does:
    the shorter side to `min_size` (of several one at random in training, the last in evaluation), the longer to
    `max_size` at most; boxes and masks move along, and predictions go back to the images' own size.

    Args:
        min_size: a number or several; None: images keep their size.
        max_size: of the longer side, as long as the shorter one keeps a pixel; only with `min_size`.
        size_divisible: what the padded sides are a multiple of.
        size: (height, width) that all images are stretched to; None: `min_size` decides.
    """

    def __init__(
        self,
        min_size: int | Sequence[int] | None = None,
        max_size: int = 1333,
        size_divisible: int = 32,
        size: tuple[int, int] | None = None,
    ) -> None:
        sides = [] if min_size is None else [min_size] if isinstance(min_size, int) else list(min_size)
        # torchvision's fixed size is (width, height), and it asks for a least side even then
        fixed = None if size is None else (size[1], size[0])
        super().__init__(sides if size is None else [min(size)], max_size, [0.0], [1.0], size_divisible, fixed)
        self.size = size

    def normalize(self, image: Tensor) -> Tensor:
        return image

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> Any:
        short, long = sorted(image.shape[-2:])
        if not self.min_size if self.size is None else tuple(image.shape[-2:]) == self.size:
            return image, target
        limit: int = self.max_size  # type: ignore[has-type]
        self.max_size = max(limit, long // short + 1)  # else nothing is left of the shorter side of a very thin image
        try:
            return super().resize(image, target)
        finally:
            self.max_size = limit


def anchor_generator(sizes: Sequence[Sequence[float]], ratios: Sequence[Any], levels: int) -> AnchorGenerator:
    """Anchors of each level: one for each of its sizes (the square root of the area) and ratios (height / width).

    Args:
        sizes: in pixels, a list a level.
        ratios: one list for all levels, or a list a level.
        levels: how many there are.

    Raises:
        UserError: the lists are not as many as the levels, or of different lengths: all levels share one head.
    """
    # tuples, for of other sequences torchvision makes anchors of another number without a word
    each = [tuple(r) for r in ratios] if isinstance(ratios[0], list | tuple) else [tuple(ratios)] * levels
    if len(sizes) != levels or len(each) != levels:
        lists = f"{len(sizes)} lists of model.anchor_sizes and {len(each)} of model.anchor_ratios"
        raise UserError(f"{lists}, but the pyramid has {levels} levels: give each one")
    if len({len(size) * len(ratio) for size, ratio in zip(sizes, each, strict=True)}) > 1:
        raise UserError("model.anchor_sizes and model.anchor_ratios must give as many anchors on every level")
    return AnchorGenerator(tuple(tuple(size) for size in sizes), tuple(each))


def at_most_100(count: int, name: str) -> None:
    """Refuse more detections of an image than COCO's measures count."""
    if not 1 <= count <= 100:
        raise UserError(f"model.{name}={count} must lie in 1..100: average precision counts 100 an image at most")
