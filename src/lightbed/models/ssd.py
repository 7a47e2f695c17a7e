"""SSD and SSDlite of torchvision, with all their parts to be chosen."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG, SSDHead
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead

from lightbed.errors import UserError
from lightbed.models.pyramid import Sizes, at_most_100, freeze_first, norm_layer, stages, strided
from lightbed.models.weights import load_detector
from lightbed.models.zoo import classifier

_FRESH = ("head.classification_head.",)
_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))


class SSD(detection.ssd.SSD):  # type: ignore[misc]  # torchvision ships no types
    """SSD300 on VGG-16 (Liu et al. 2016, arXiv:1512.02325).

    Takes and gives what `rcnn.FasterRCNN` does; images are stretched to `size`.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        weights: of the whole network, see `weights.load_detector`.
        weights_backbone: of VGG-16, see `zoo.classifier`.
        trainable_layers: how many of VGG's five stages are trained, counted from the last.
        size: (height, width) that the network sees; at least 300 for its coarsest features.
        highres: a further, coarser level, for `size` 512.
        aspect_ratios: of each level, besides 1; each also the other way round.
        scales: of each level, as a share of the image, and one more; None: evenly from `min_ratio` to `max_ratio`.
        min_ratio: without scales, that of the first level.
        max_ratio: likewise of the last.
        steps: pixels between the places of each level; None: the image's size by the level's.
        clip: whether default boxes are no larger than the image.
        score_thresh: least score of a detection.
        nms_thresh: IoU from which the worse of two detections of a class is left out.
        detections_per_img: at most 100.
        iou_thresh: IoU with an object from which a default box is one.
        topk_candidates: best detections of a class before non-maximum suppression.
        positive_fraction: share of objects among the boxes that the loss is computed on.

    Raises:
        UserError: the arguments contradict each other, or the weights are another network's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        weights: str | None = None,
        weights_backbone: str | None = None,
        trainable_layers: int = 5,
        size: Sequence[int] = (300, 300),
        highres: bool = False,
        aspect_ratios: Sequence[Sequence[float]] = _RATIOS,
        scales: Sequence[float] | None = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        min_ratio: float = 0.15,
        max_ratio: float = 0.9,
        steps: Sequence[int] | None = (8, 16, 32, 64, 100, 300),
        clip: bool = True,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.45,
        detections_per_img: int = 100,
        iou_thresh: float = 0.5,
        topk_candidates: int = 400,
        positive_fraction: float = 0.25,
    ) -> None:
        at_most_100(detections_per_img, "detections_per_img")
        features: Any = classifier("vgg16", 1000, in_channels, weights=weights_backbone).features
        pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
        freeze_first(features, stages([0, *pools[:-1]], len(features)), trainable_layers)
        body = SSDFeatureExtractorVGG(features, highres)
        boxes = default_boxes(aspect_ratios, min_ratio, max_ratio, scales, steps, clip=clip)
        head = SSDHead(widths(body, in_channels, size, boxes), boxes.num_anchors_per_location(), num_classes + 1)
        super().__init__(
            body,
            boxes,
            tuple(size),
            num_classes + 1,
            head=head,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            iou_thresh=iou_thresh,
            topk_candidates=topk_candidates,
            positive_fraction=positive_fraction,
        )
        self.transform = Sizes(size_divisible=1, size=(size[0], size[1]))
        if weights is not None:
            load_detector(self, "ssd300_vgg16", weights, _FRESH)


class SSDLite(detection.ssd.SSD):  # type: ignore[misc]  # torchvision ships no types
    """SSDlite on MobileNet V3 (Sandler et al. 2018, arXiv:1801.04381; Howard et al. 2019, arXiv:1905.02244).

    Args:
        weights: of the whole network, see `weights.load_detector`.
        weights_backbone: of MobileNet V3, see `zoo.classifier`; they need `reduced_tail` to be false.
        trainable_layers: how many of the backbone's six stages are trained, counted from the last.
        norm: see `pyramid.norm_layer`, as for `norm_eps` and `norm_momentum`.
        size: (height, width) that the network sees.
        reduced_tail: half as many channels in the last stage.
        width_mult: factor of the added levels' channels.
        min_depth: least number of these.
        others: as of `SSD`.

    Raises:
        UserError: the arguments contradict each other, or the weights are another network's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        weights: str | None = None,
        weights_backbone: str | None = None,
        trainable_layers: int = 6,
        norm: str = "batch",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
        size: Sequence[int] = (320, 320),
        reduced_tail: bool = True,
        width_mult: float = 1.0,
        min_depth: int = 16,
        aspect_ratios: Sequence[Sequence[float]] = ((2, 3),) * 6,
        scales: Sequence[float] | None = None,
        min_ratio: float = 0.2,
        max_ratio: float = 0.95,
        steps: Sequence[int] | None = None,
        clip: bool = True,
        score_thresh: float = 0.001,
        nms_thresh: float = 0.55,
        detections_per_img: int = 100,
        iou_thresh: float = 0.5,
        topk_candidates: int = 300,
        positive_fraction: float = 0.25,
    ) -> None:
        at_most_100(detections_per_img, "detections_per_img")
        layer = norm_layer(norm, norm_eps, norm_momentum)
        kwargs = {"norm_layer": layer, "reduced_tail": reduced_tail}
        network: Any = classifier("mobilenet_v3_large", 1000, in_channels, weights=weights_backbone, kwargs=kwargs)
        features = network.features
        starts = strided(features)
        freeze_first(features, stages(starts, len(features)), trainable_layers)
        body = SSDLiteFeatureExtractorMobileNet(features, starts[-2], layer, width_mult, min_depth)
        boxes = default_boxes(aspect_ratios, min_ratio, max_ratio, scales, steps, clip=clip)
        counts = boxes.num_anchors_per_location()
        head = SSDLiteHead(widths(body, in_channels, size, boxes), counts, num_classes + 1, layer)
        super().__init__(
            body,
            boxes,
            tuple(size),
            num_classes + 1,
            head=head,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            iou_thresh=iou_thresh,
            topk_candidates=topk_candidates,
            positive_fraction=positive_fraction,
        )
        self.transform = Sizes(size_divisible=1, size=(size[0], size[1]))
        if weights is not None:
            load_detector(self, "ssdlite320_mobilenet_v3_large", weights, _FRESH)


def default_boxes(
    ratios: Sequence[Sequence[float]],
    min_ratio: float,
    max_ratio: float,
    scales: Sequence[float] | None,
    steps: Sequence[int] | None,
    *,
    clip: bool,
) -> DefaultBoxGenerator:
    """SSD's default boxes, see `SSD`.

    Raises:
        UserError: the lists are not as many as the levels.
    """
    for name, values, count in (("scales", scales, len(ratios) + 1), ("steps", steps, len(ratios))):
        if values is not None and len(values) != count:
            raise UserError(f"model.{name} has {len(values)} values: {len(ratios)} levels need {count}")
    lists = [list(each) for each in ratios]
    plain = (None if values is None else list(values) for values in (scales, steps))
    return DefaultBoxGenerator(lists, min_ratio, max_ratio, *plain, clip=clip)


def widths(body: nn.Module, channels: int, size: Sequence[int], boxes: DefaultBoxGenerator) -> list[int]:
    """Channels of each level of features, computed without values.

    Raises:
        UserError: the images are too small, or there are more or fewer levels than default boxes.
    """
    states = {name: value.to("meta") for name, value in [*body.named_parameters(), *body.named_buffers()]}
    body.eval()
    try:
        features = functional_call(body, states, (torch.empty(1, channels, *size, device="meta"),))
    except RuntimeError as error:
        raise UserError(f"model.size={list(size)} is too small for the coarsest features ({error})") from error
    body.train()
    if len(features) != len(boxes.aspect_ratios):
        raise UserError(f"model.aspect_ratios has {len(boxes.aspect_ratios)} lists, the network {len(features)} levels")
    return [level.shape[1] for level in features.values()]
