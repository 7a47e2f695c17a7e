"""FCOS of torchvision, with all its parts to be chosen."""

from collections.abc import Sequence

from torchvision.models import detection
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from lightbed.errors import UserError
from lightbed.models.pyramid import Sizes, anchor_generator, at_most_100, norm_layer, pyramid
from lightbed.models.weights import load_detector

_FRESH = ("head.classification_head.cls_logits.",)


class FCOS(detection.FCOS):  # type: ignore[misc]  # torchvision ships no types
    """FCOS, a detector without anchors (Tian, Shen, Chen, He 2019, arXiv:1904.01355).

    Takes and gives what `rcnn.FasterRCNN` does. Its head has group norm.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        backbone: see `pyramid.pyramid`, as for `weights_backbone`, `trainable_layers`, `levels` and `norm_pyramid`.
        weights: of the whole network, see `weights.load_detector`.
        norm: see `pyramid.norm_layer`, as for `norm_eps`.
        pyramid_channels: of every level and of the head; a multiple of 32, at least 64.
        min_size: see `pyramid.Sizes`, as for `max_size` and `size_divisible`.
        strides: pixels between the places of each level, of two levels more than `levels`. A level finds boxes whose
            farthest side is 4 to 8 strides from the place, the first also smaller, the last also larger ones.
        num_convs: convolutions in each branch of the head.
        center_sampling_radius: strides around an object's centre in which places learn it.
        score_thresh: least score of a detection.
        nms_thresh: IoU from which the worse of two detections of a class is left out.
        detections_per_img: at most 100.
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
        pyramid_channels: int = 256,
        min_size: int | Sequence[int] | None = None,
        max_size: int = 1333,
        size_divisible: int = 32,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        num_convs: int = 4,
        center_sampling_radius: float = 1.5,
        score_thresh: float = 0.2,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
    ) -> None:
        at_most_100(detections_per_img, "detections_per_img")
        if pyramid_channels % 32 or pyramid_channels < 64:  # 32 groups, and one value alone has no deviation
            raise UserError(
                f"model.pyramid_channels={pyramid_channels} must be a multiple of 32, at least 64, for its group norm"
            )
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
        if len(strides) != len(levels) + 2:
            raise UserError(f"model.strides={list(strides)} must be {len(levels) + 2} numbers, one a level")
        super().__init__(
            body,
            num_classes + 1,
            anchor_generator=anchor_generator([[stride] for stride in strides], [1.0], len(strides)),
            head=FCOSHead(pyramid_channels, 1, num_classes + 1, num_convs),
            center_sampling_radius=center_sampling_radius,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            topk_candidates=topk_candidates,
        )
        self.transform = Sizes(min_size, max_size, size_divisible)
        if weights is not None:
            load_detector(self, "fcos_resnet50_fpn" if backbone == "resnet50" else None, weights, _FRESH)
