"""RetinaNet of torchvision, with all its parts to be chosen."""

from collections.abc import Sequence
from typing import Any

from torchvision.models import detection
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from lightbed.errors import one_of
from lightbed.models.pyramid import Sizes, anchor_generator, at_most_100, norm_layer, pyramid
from lightbed.models.weights import load_detector

LOSSES = ("l1", "smooth_l1", "giou", "diou", "ciou")
_SIZES = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
_FRESH = ("head.classification_head.cls_logits.",)


class RetinaNet(detection.RetinaNet):  # type: ignore[misc]  # torchvision ships no types
    """RetinaNet with a feature pyramid (Lin, Goyal, Girshick, He, Dollár 2017, arXiv:1708.02002).

    Takes and gives what `rcnn.FasterRCNN` does.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        backbone: see `pyramid.pyramid`, as for `weights_backbone`, `trainable_layers`, `levels` and `norm_pyramid`.
        weights: of the whole network, see `weights.load_detector`.
        norm: see `pyramid.norm_layer`, as for `norm_eps`.
        norm_head: group norm in the head, whose weights all levels share.
        pyramid_channels: of every level and of the head.
        min_size: see `pyramid.Sizes`, as for `max_size` and `size_divisible`.
        anchor_sizes: see `pyramid.anchor_generator`, as for `anchor_ratios`; of two levels more than `levels`, the
            last ones, each half as large as the one before.
        box_loss: one of `LOSSES`.
        score_thresh: least score of a detection.
        nms_thresh: IoU from which the worse of two detections of a class is left out.
        detections_per_img: at most 100.
        fg_iou_thresh: IoU with an object from which an anchor is one.
        bg_iou_thresh: and below which it is background.
        topk_candidates: best detections of each level before non-maximum suppression.

    Raises:
        UserError: the arguments contradict each other, or the weights are another network's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet18",
        weights: str | None = None,
        weights_backbone: str | None = None,
        trainable_layers: int = 5,
        levels: Sequence[int] = (2, 3, 4),
        norm: str = "batch",
        norm_eps: float = 1e-5,
        norm_pyramid: bool = False,
        norm_head: bool = False,
        pyramid_channels: int = 256,
        min_size: int | Sequence[int] | None = None,
        max_size: int = 1333,
        size_divisible: int = 32,
        anchor_sizes: Sequence[Sequence[float]] = _SIZES,
        anchor_ratios: Sequence[Any] = (0.5, 1.0, 2.0),
        box_loss: str = "l1",
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
        topk_candidates: int = 1000,
    ) -> None:
        at_most_100(detections_per_img, "detections_per_img")
        body = pyramid(
            backbone,
            in_channels,
            levels,
            LastLevelP6P7(pyramid_channels, pyramid_channels),
            weights=weights_backbone,
            channels=pyramid_channels,
            norm=norm_layer(norm, norm_eps),
            norm_pyramid=norm_pyramid,
            trainable_layers=trainable_layers,
        )
        anchors = anchor_generator(anchor_sizes, anchor_ratios, len(levels) + 2)
        count = anchors.num_anchors_per_location()[0]
        head = RetinaNetHead(pyramid_channels, count, num_classes + 1, norm_layer("group") if norm_head else None)
        head.regression_head._loss_type = one_of(box_loss, LOSSES, "model.box_loss")
        super().__init__(
            body,
            num_classes + 1,
            anchor_generator=anchors,
            head=head,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            fg_iou_thresh=fg_iou_thresh,
            bg_iou_thresh=bg_iou_thresh,
            topk_candidates=topk_candidates,
        )
        self.transform = Sizes(min_size, max_size, size_divisible)
        if weights is not None:
            load_detector(self, "retinanet_resnet50_fpn" if backbone == "resnet50" else None, weights, _FRESH)
