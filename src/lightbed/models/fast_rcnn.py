"""Fast R-CNN: one pass over the image, and a look at each proposal in its features."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import RoIAlign, RoIPool

from lightbed.errors import one_of
from lightbed.models.pyramid import Sizes, norm_layer, staged
from lightbed.models.weights import load_detector
from lightbed.proposals.detector import ProposalDetector

DIVISIBLE = 32  # what the sides of a batch are padded to a multiple of: the coarsest stage's stride
_FRESH = ("roi_heads.box_predictor.",)


class FastRCNN(ProposalDetector):
    """Fast R-CNN (Girshick 2015, arXiv:1504.08083), on proposals of selective search.

    The network sees the whole image once; the features inside each proposal are pooled to a grid of fixed size, from
    which class and box are read. All but the proposals is trained end to end. The heads are torchvision's, which differ
    from the paper: backgrounds are proposals whose best IoU is below `box_bg_iou_thresh`, also those that touch no
    object, where the paper leaves out those below 0.1; true boxes are among the proposals in training; and targets of
    boxes are multiplied by `bbox_reg_weights` instead of normalised, with a smooth L1 loss that is quadratic up to 1/9
    instead of 1.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        backbone: see `pyramid.pyramid`, as for `weights_backbone` and `trainable_layers`.
        weights: of the whole network, see `weights.load_detector`.
        level: stage that features are taken from: of a ResNet 1 to 4, at 1/4 to 1/32 of the image's size.
        norm: see `pyramid.norm_layer`.
        pool: 'max': the paper's RoI pooling, which snaps a proposal and its cells to whole places of the features;
            'align': He et al. 2017, which interpolates between them.
        representation_size: of the two hidden layers for each proposal.
        box_pool_size: side of the grid that a proposal's features are pooled to.
        box_sampling_ratio: points a side of each cell of that grid, with 'align'.
        box_bg_iou_thresh: IoU with each object below which a proposal is background.
        bbox_reg_weights: factors of the boxes' x, y, width and height; None: [10, 10, 5, 5].
        common: the arguments of `ProposalDetector`.

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
        level: int = 3,
        norm: str = "batch",
        pool: str = "max",
        representation_size: int = 1024,
        box_pool_size: int = 7,
        box_sampling_ratio: int = 2,
        box_bg_iou_thresh: float = 0.5,
        bbox_reg_weights: Sequence[float] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        network, taken, (channels,) = staged(
            backbone, in_channels, [level], weights_backbone, norm_layer(norm), trainable_layers
        )
        self.transform = Sizes(size_divisible=DIVISIBLE)
        self.backbone = IntermediateLayerGetter(network, taken)
        self.roi_heads = RoIHeads(
            Pooled(pool, box_pool_size, box_sampling_ratio),
            TwoMLPHead(channels * box_pool_size**2, representation_size),
            FastRCNNPredictor(representation_size, num_classes + 1),
            self.box_fg_iou_thresh,
            box_bg_iou_thresh,
            self.box_batch_size_per_image,
            self.box_positive_fraction,
            None if bbox_reg_weights is None else tuple(bbox_reg_weights),
            self.box_score_thresh,
            self.box_nms_thresh,
            self.box_detections_per_img,
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
