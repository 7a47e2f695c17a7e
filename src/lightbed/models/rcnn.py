"""Faster R-CNN and Mask R-CNN of torchvision, with all their parts to be chosen."""

from collections.abc import Sequence
from typing import Any

from torchvision.models import detection
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from lightbed.models.pyramid import Sizes, anchor_generator, at_most_100, norm_layer, pyramid
from lightbed.models.weights import load_detector

_COCO = {"resnet50": "resnet50_fpn", "mobilenet_v3_large": "mobilenet_v3_large_fpn"}  # ends of torchvision's names
_FRESH = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")


class FasterRCNN(detection.FasterRCNN):  # type: ignore[misc]  # torchvision ships no types
    """Faster R-CNN with a feature pyramid (Ren, He, Girshick, Sun 2015, arXiv:1506.01497).

    In training it takes images and targets, whose labels begin at 1, and gives losses by name; in evaluation it takes
    images and gives boxes, labels and scores, best first. Images come normalised, see `pyramid.Sizes`.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        backbone: see `pyramid.pyramid`, as for `weights_backbone`, `trainable_layers`, `levels` and `norm_pyramid`.
        weights: of the whole network, see `weights.load_detector`.
        norm: see `pyramid.norm_layer`, as for `norm_eps`.
        pyramid_channels: of every level.
        min_size: see `pyramid.Sizes`, as for `max_size` and `size_divisible`.
        anchor_sizes: see `pyramid.anchor_generator`, as for `anchor_ratios`; of one level more than `levels`, the last.
        rpn_conv_depth: convolutions of the region proposal network before its two outputs.
        representation_size: of the two hidden layers for each region.
        box_pool_size: side of the grid that a region's features are pooled to.
        box_sampling_ratio: points a side of each cell of that grid.
        box_detections_per_img: at most 100.
        thresholds: torchvision's further arguments of the proposals (`rpn_...`) and of the regions (`box_...`).

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
        levels: Sequence[int] = (1, 2, 3, 4),
        norm: str = "batch",
        norm_eps: float = 1e-5,
        norm_pyramid: bool = False,
        pyramid_channels: int = 256,
        min_size: int | Sequence[int] | None = None,
        max_size: int = 1333,
        size_divisible: int = 32,
        anchor_sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,)),
        anchor_ratios: Sequence[Any] = (0.5, 1.0, 2.0),
        rpn_conv_depth: int = 1,
        representation_size: int = 1024,
        box_pool_size: int = 7,
        box_sampling_ratio: int = 2,
        box_detections_per_img: int = 100,
        **thresholds: Any,
    ) -> None:
        at_most_100(box_detections_per_img, "box_detections_per_img")
        body = pyramid(
            backbone,
            in_channels,
            levels,
            weights=weights_backbone,
            channels=pyramid_channels,
            norm=norm_layer(norm, norm_eps),
            norm_pyramid=norm_pyramid,
            trainable_layers=trainable_layers,
        )
        anchors = anchor_generator(anchor_sizes, anchor_ratios, len(levels) + 1)
        self.pooled = [str(i) for i in range(len(levels))]
        super().__init__(
            body,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(pyramid_channels, anchors.num_anchors_per_location()[0], rpn_conv_depth),
            box_roi_pool=MultiScaleRoIAlign(self.pooled, box_pool_size, box_sampling_ratio),
            box_head=TwoMLPHead(pyramid_channels * box_pool_size**2, representation_size),
            box_predictor=FastRCNNPredictor(representation_size, num_classes + 1),
            box_detections_per_img=box_detections_per_img,
            **thresholds,
        )
        self.transform = Sizes(min_size, max_size, size_divisible)
        self.add_masks(pyramid_channels, num_classes + 1)
        if weights is not None:
            name = f"{self.family}_{_COCO[backbone]}" if backbone in _COCO else None
            load_detector(self, name, weights, _FRESH)

    family = "fasterrcnn"
    """How torchvision's names of this network begin."""

    def add_masks(self, channels: int, outputs: int) -> None:
        """Nothing: only Mask R-CNN has masks."""


class MaskRCNN(FasterRCNN):
    """Mask R-CNN (He, Gkioxari, Dollár, Girshick 2017, arXiv:1703.06870): Faster R-CNN and a mask for each box.

    Targets also have `masks` (n, H, W), predictions `masks` (n, 1, H, W), probabilities.

    Args:
        mask_layers: channels of the head's convolutions.
        mask_dilation: of these convolutions.
        mask_dim_reduced: channels after doubling the size.
        mask_pool_size: side of the grid that a box's features are pooled to; masks have twice that side.
        mask_sampling_ratio: points a side of each cell of that grid.
        common: the arguments of `FasterRCNN`.
    """

    family = "maskrcnn"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        mask_layers: Sequence[int] = (256, 256, 256, 256),
        mask_dilation: int = 1,
        mask_dim_reduced: int = 256,
        mask_pool_size: int = 14,
        mask_sampling_ratio: int = 2,
        **common: Any,
    ) -> None:
        self.mask_parts = (mask_layers, mask_dilation, mask_dim_reduced, mask_pool_size, mask_sampling_ratio)
        super().__init__(num_classes, in_channels, **common)

    def add_masks(self, channels: int, outputs: int) -> None:
        layers, dilation, reduced, size, sampling = self.mask_parts
        self.roi_heads.mask_roi_pool = MultiScaleRoIAlign(self.pooled, size, sampling)
        self.roi_heads.mask_head = MaskRCNNHeads(channels, tuple(layers), dilation)
        self.roi_heads.mask_predictor = MaskRCNNPredictor(layers[-1], reduced, outputs)
