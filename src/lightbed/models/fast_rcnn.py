"""Fast R-CNN: one pass over the image, and a look at each proposal in its features."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import RoIAlign, RoIPool

from lightbed.errors import one_of
from lightbed.models.pyramid import Sizes, at_most_100, norm_layer, staged
from lightbed.models.weights import load_detector
from lightbed.proposals.selective_search import SelectiveSearch, make_search

DIVISIBLE = 32  # what the sides of a batch are padded to a multiple of: the coarsest stage's stride
_FRESH = ("roi_heads.box_predictor.",)


class FastRCNN(nn.Module):
    """Fast R-CNN (Girshick 2015, arXiv:1504.08083), on proposals of selective search.

    The network sees the whole image once; the features inside each proposal are pooled to a grid of fixed size, from
    which class and box are read. All but the proposals is trained end to end. Backgrounds are proposals whose best IoU
    is below `box_bg_iou_thresh`, also those that touch no object, which the paper leaves out.

    In training it takes images and targets, whose labels begin at 1, and gives losses by name; in evaluation it takes
    images and gives boxes, labels and scores, best first. Images come normalised and keep their size.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        mean: that images were normalised with, see `SelectiveSearch`; as for `std`.
        backbone: see `pyramid.pyramid`, as for `weights_backbone` and `trainable_layers`.
        weights: of the whole network, see `weights.load_detector`.
        level: stage that features are taken from: of a ResNet 1 to 4, at 1/4 to 1/32 of the image's size.
        norm: see `pyramid.norm_layer`.
        pool: 'max': the paper's RoI pooling, which snaps a proposal and its cells to whole places of the features;
            'align': He et al. 2017, which interpolates between them.
        representation_size: of the two hidden layers for each proposal.
        box_pool_size: side of the grid that a proposal's features are pooled to.
        box_sampling_ratio: points a side of each cell of that grid, with 'align'.
        box_detections_per_img: at most 100.
        bbox_reg_weights: factors of the boxes' x, y, width and height; None: [10, 10, 5, 5].
        proposals: arguments of `SelectiveSearch`.
        thresholds: as torchvision's `FasterRCNN` has them.

    Raises:
        UserError: the arguments contradict each other, or the weights are another network's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        backbone: str = "resnet18",
        weights: str | None = None,
        weights_backbone: str | None = None,
        trainable_layers: int = 5,
        level: int = 3,
        norm: str = "batch",
        pool: str = "max",
        representation_size: int = 1024,
        box_pool_size: int = 7,
        box_sampling_ratio: int = 2,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.3,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_bg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 64,
        box_positive_fraction: float = 0.25,
        bbox_reg_weights: Sequence[float] | None = None,
        proposals: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        at_most_100(box_detections_per_img, "box_detections_per_img")
        network, taken, (channels,) = staged(
            backbone, in_channels, [level], weights_backbone, norm_layer(norm), trainable_layers
        )
        self.transform = Sizes(size_divisible=DIVISIBLE)
        self.proposals: SelectiveSearch = make_search(mean, std, proposals)
        self.backbone = IntermediateLayerGetter(network, taken)
        self.roi_heads = RoIHeads(
            Pooled(pool, box_pool_size, box_sampling_ratio),
            TwoMLPHead(channels * box_pool_size**2, representation_size),
            FastRCNNPredictor(representation_size, num_classes + 1),
            box_fg_iou_thresh,
            box_bg_iou_thresh,
            box_batch_size_per_image,
            box_positive_fraction,
            None if bbox_reg_weights is None else tuple(bbox_reg_weights),
            box_score_thresh,
            box_nms_thresh,
            box_detections_per_img,
        )
        if weights is not None:
            load_detector(self, None, weights, _FRESH)

    def forward(self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Images (C, h, w) and, in training, targets -> losses by name, or a dict an image."""
        proposals = self.proposals(images)
        batch, targets = self.transform(list(images), targets)
        features = self.backbone(batch.tensors)
        found, losses = self.roi_heads(features, proposals, batch.image_sizes, targets)
        return losses if self.training else found


class Pooled(nn.Module):
    """The features (C, size, size) inside each box, of one map of features.

    Args:
        kind: 'max' or 'align', see `FastRCNN`.
        size: side of the grid.
        sampling_ratio: points a side of each cell, with 'align'.
    """

    def __init__(self, kind: str, size: int, sampling_ratio: int) -> None:
        super().__init__()
        self.kind, self.size, self.sampling_ratio = one_of(kind, ("max", "align"), "model.pool"), size, sampling_ratio

    def forward(self, features: Mapping[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Features (N, C, H, W) of images padded to one size, and boxes (n, 4) of each -> (sum of n, C, size, size)."""
        (values,) = features.values()
        padded = -(-max(width for _, width in sizes) // DIVISIBLE) * DIVISIBLE
        stride = padded // values.shape[-1]
        if self.kind == "max":
            return RoIPool(self.size, 1 / stride)(values, boxes)  # type: ignore[no-any-return]
        return RoIAlign(self.size, 1 / stride, self.sampling_ratio)(values, boxes)  # type: ignore[no-any-return]
