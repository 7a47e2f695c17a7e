"""R-CNN: a classifier looks at each proposal alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from lightbed.errors import UserError, one_of
from lightbed.models.pyramid import at_most_100
from lightbed.proposals.selective_search import SelectiveSearch, make_search
from lightbed.proposals.svm import OneVersusRest, ridge

_AT_ONCE = 512  # crops that the classifier sees in one pass
_BLOCK = 64  # images between two fits of the SVMs
_NORM = 20.0  # mean norm that features are scaled to for the SVMs, as in R-CNN's own code, so that its C fits


class RCNN(nn.Module):
    """R-CNN (Girshick, Donahue, Darrell, Malik 2014, arXiv:1311.2524), on proposals of selective search.

    Each proposal is cut out with some context, warped to a square and classified. The training has the paper's two
    stages. In the first the classifier is trained on warped proposals with a softmax over the classes and background;
    that is what the model's loss is. In the second, `settle`, the network stands still: a linear SVM a class is fitted
    to its features, objects against proposals that overlap them little, and a regression a class to move proposals onto
    their objects. These are buffers, so a checkpoint holds them. A score is the SVM's margin as a probability.

    In training it takes images and targets, whose labels begin at 1, and gives losses by name; in evaluation it takes
    images and gives boxes, labels and scores, best first. Images come normalised and keep their size.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        mean: that images were normalised with, see `SelectiveSearch`; as for `std`.
        classifier: any network for classification; its last linear layer is taken off, whose inputs are the features.
        crop_size: side in pixels that proposals are warped to.
        context: pixels of the warped square, on each side, that show what is around the proposal; what would lie
            outside of the image is 0, the mean.
        box_features: name of the classifier's part whose output (n, C, h, w) boxes are regressed from.
        box_grid: side of the grid that this output is averaged to.
        scorer: 'svm', or 'softmax' for the first stage's own scores.
        svm_cost: C of the SVMs.
        svm_bg_iou_thresh: IoU with each object of a class below which a proposal is a negative of that class.
        box_ridge: strength of the ridge regression.
        box_reg_iou_thresh: IoU with an object from which a proposal is one that regression learns from.
        proposals: arguments of `SelectiveSearch`.
        thresholds: see `FastRCNN`.

    Raises:
        UserError: the arguments contradict each other, or the classifier is none that this can be done with.
    """

    svm_weight: Tensor
    svm_bias: Tensor
    svm_scale: Tensor
    svm_platt: Tensor
    box_weight: Tensor
    settled: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        classifier: nn.Module,
        crop_size: int = 227,
        context: int = 16,
        box_features: str = "features",
        box_grid: int = 6,
        scorer: str = "svm",
        svm_cost: float = 0.001,
        svm_bg_iou_thresh: float = 0.3,
        box_ridge: float = 1000.0,
        box_reg_iou_thresh: float = 0.6,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.3,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 64,
        box_positive_fraction: float = 0.25,
        proposals: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        at_most_100(box_detections_per_img, "box_detections_per_img")
        if not 0 <= 2 * context < crop_size:
            raise UserError(f"model.context={context}: twice that must be less than model.crop_size={crop_size}")
        self.crop_size, self.context = crop_size, context
        self.proposals: SelectiveSearch = make_search(mean, std, proposals)
        linear = [(name, part) for name, part in classifier.named_modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise UserError(
                f"model.classifier: {type(classifier).__name__} has no linear layer that could be taken off"
            )
        name, last = linear[-1]
        classifier.set_submodule(name, nn.Identity())
        self.classifier, self.box_features, self.box_grid = classifier, box_features, box_grid
        self.softmax = nn.Linear(last.in_features, num_classes + 1)
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.sampler = BalancedPositiveNegativeSampler(box_batch_size_per_image, box_positive_fraction)
        self.scorer = one_of(scorer, ("svm", "softmax"), "model.scorer")
        self.svm_cost, self.svm_bg_iou_thresh = svm_cost, svm_bg_iou_thresh
        self.box_ridge, self.box_reg_iou_thresh = box_ridge, box_reg_iou_thresh
        self.box_score_thresh, self.box_nms_thresh = box_score_thresh, box_nms_thresh
        self.box_detections_per_img, self.box_fg_iou_thresh = box_detections_per_img, box_fg_iou_thresh
        places = self._places(in_channels)
        for buffer, shape in (
            ("svm_weight", (num_classes, last.in_features)),
            ("svm_bias", (num_classes,)),
            ("svm_scale", ()),
            ("svm_platt", (num_classes, 2)),
            ("box_weight", (num_classes, places + 1, 4)),
            ("settled", ()),
        ):
            self.register_buffer(buffer, torch.zeros(shape))

    @torch.no_grad()
    def _places(self, in_channels: int) -> int:
        """How many numbers boxes are regressed from.

        Raises:
            UserError: the classifier has no such part, or that gives no map, or the last linear layer is another's.
        """
        if self.box_features not in dict(self.classifier.named_modules()):
            parts = ", ".join(name for name, _ in self.classifier.named_children())
            raise UserError(f"model.box_features={self.box_features}: the classifier has {parts}")
        self.classifier.eval()
        features, maps = self.describe(torch.zeros(1, in_channels, self.crop_size, self.crop_size))
        self.classifier.train()
        if features.shape[1:] != (self.softmax.in_features,):
            raise UserError("model.classifier: what it gives without its last linear layer are no features of an image")
        return maps.shape[1]

    def forward(self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Images (C, h, w) and, in training, targets -> losses by name, or a dict an image."""
        proposals = self.proposals(images)
        if self.training:
            return {"loss_classifier": self._loss(images, proposals, targets or [])}
        return [self._detect(image, boxes) for image, boxes in zip(images, proposals, strict=True)]

    def describe(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (n, C, size, size) -> features (n, D), and (n, B), in which the places of the crop are kept apart."""
        kept: list[Tensor] = []
        handle = self.classifier.get_submodule(self.box_features).register_forward_hook(
            lambda module, inputs, output: kept.append(output)  # noqa: ARG005 - torch's signature
        )
        try:
            features = self.classifier(crops)
        finally:
            handle.remove()
        # in whole precision, for what is fitted to them
        return features.float(), F.adaptive_avg_pool2d(kept[0].float(), self.box_grid).flatten(1)

    def look(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """`describe` of the boxes (n, 4) of an image."""
        starts = range(0, len(boxes), _AT_ONCE)
        crops = (warp(image, boxes[i : i + _AT_ONCE], self.crop_size, self.context) for i in starts)
        parts = [self.describe(some) for some in crops]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    # -- first stage ---------------------------------------------------------------------------------------------------

    def _loss(self, images: Sequence[Tensor], proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        """Cross entropy of the softmax over some proposals of each image, objects among them."""
        crops, labels = [], []
        for image, found, target in zip(images, proposals, targets, strict=True):
            boxes = torch.cat([found, target["boxes"]])
            label = self.labels(boxes, target)
            positive, negative = self.sampler([label])
            chosen = (positive[0] | negative[0]).nonzero()[:, 0]
            crops.append(warp(image, boxes[chosen], self.crop_size, self.context))
            labels.append(label[chosen])
        logits = self.softmax(self.classifier(torch.cat(crops)))
        return F.cross_entropy(logits, torch.cat(labels))

    def labels(self, boxes: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """The label of the object that each box (n, 4) covers best, int64 (n,); 0 where it covers none."""
        if not len(target["boxes"]):
            return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        best, which = box_iou(boxes, target["boxes"]).max(1)
        return torch.where(best >= self.box_fg_iou_thresh, target["labels"][which], 0)

    # -- second stage --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def settle(self, batches: Iterable[tuple[list[Tensor], list[dict[str, Tensor]]]]) -> None:
        """Fit the SVMs and the boxes' regressions to the network's features of all training images, in evaluation mode.

        Args:
            batches: lists of images and of targets, as `forward` takes them in training.
        """
        count = len(self.svm_weight)
        svms = OneVersusRest(count, self.svm_cost)
        moves: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(count)]
        self.settled.zero_()
        seen = 0
        for images, targets in batches:
            for image, boxes, target in zip(images, self.proposals(images), targets, strict=True):
                features, places = self.look(image, torch.cat([target["boxes"], boxes]))
                if not self.svm_scale:  # from the first image on
                    self.svm_scale.fill_(_NORM / float(features.norm(dim=1).mean().clamp(min=1e-6)))
                self._mine(svms, features * self.svm_scale, boxes, target)
                self._moves(moves, places[len(target["boxes"]) :], boxes, target)
                seen += 1
                if seen % _BLOCK == 0:
                    svms.fit()
        if not seen:
            return
        svms.fit()
        found = {"svm_weight": svms.weights, "svm_bias": svms.biases, "svm_platt": svms.probabilities()}
        for name, values in found.items():
            getattr(self, name).copy_(torch.as_tensor(values))
        for own, weight in zip(moves, self.box_weight, strict=True):
            seen_at, moved = (torch.cat([pair[i] for pair in own]).cpu().numpy() for i in (0, 1))
            weight.copy_(torch.from_numpy(ridge(seen_at, moved, self.box_ridge)))
        self.settled.fill_(1)

    def _mine(self, svms: OneVersusRest, features: Tensor, boxes: Tensor, target: Mapping[str, Tensor]) -> None:
        """Show the SVMs an image, whose objects' features come before those of its proposals."""
        objects, others = features.double().cpu().numpy(), len(target["boxes"])
        labels = (target["labels"] - 1).cpu()
        count = len(self.svm_weight)
        covered = torch.zeros(len(boxes), count)
        ious = box_iou(boxes, target["boxes"]).cpu()
        for k in set(labels.tolist()):
            covered[:, k] = ious[:, labels == k].amax(1)
        positives = [objects[:others][(labels == k).numpy()] for k in range(count)]
        svms.add(positives, objects[others:], (covered < self.svm_bg_iou_thresh).numpy())

    def _moves(
        self, moves: list[list[tuple[Tensor, Tensor]]], places: Tensor, boxes: Tensor, target: Mapping[str, Tensor]
    ) -> None:
        """Add the proposals near an object of each class, and how they must be moved onto it."""
        ious = box_iou(boxes, target["boxes"]) if len(target["boxes"]) else boxes.new_zeros(len(boxes), 1)
        best, which = ious.max(1)
        near = best >= self.box_reg_iou_thresh
        labels = target["labels"][which[near]] - 1 if len(target["boxes"]) else which[near]
        codes = self.coder.encode_single(target["boxes"][which[near]], boxes[near])
        for k, own in enumerate(moves):
            own.append((places[near][labels == k], codes[labels == k]))

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def scores(self, features: Tensor) -> Tensor:
        """Features (n, D) -> probabilities (n, K): the SVMs', or before they are fitted the softmax's."""
        if self.scorer == "softmax" or not self.settled:
            return F.softmax(self.softmax(features), 1)[:, 1:]
        margins = features * self.svm_scale @ self.svm_weight.T + self.svm_bias
        return torch.sigmoid(margins * self.svm_platt[:, 0] + self.svm_platt[:, 1])

    def move(self, places: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (n, 4) as the regression of each class moves them, (n, K, 4)."""
        codes = torch.einsum("nb,kbc->nkc", places, self.box_weight[:, :-1]) + self.box_weight[:, -1]
        moved: Tensor = self.coder.decode_single(codes.flatten(1), boxes)
        return moved.view(len(boxes), -1, 4)

    def _detect(self, image: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        features, places = self.look(image, boxes)
        scores, moved = self.scores(features), self.move(places, boxes)  # (n, K), (n, K, 4)
        rows, labels = (scores > self.box_score_thresh).nonzero(as_tuple=True)
        found, kept = clip_boxes_to_image(moved[rows, labels], image.shape[-2:]), scores[rows, labels]
        whole = (found[:, 2:] > found[:, :2]).all(1)
        found, kept, labels = found[whole], kept[whole], labels[whole]
        best = batched_nms(found, kept, labels, self.box_nms_thresh)[: self.box_detections_per_img]
        return {"boxes": found[best], "labels": labels[best] + 1, "scores": kept[best]}


def warp(image: Tensor, boxes: Tensor, size: int, context: int) -> Tensor:
    """Boxes (n, 4), xyxy in pixels, of an image (C, h, w), each warped to a square (n, C, size, size).

    The box fills the square but for `context` pixels on each side, which show what is around it at the same scale; what
    lies outside of the image is 0. Pixels are interpolated bilinearly.
    """
    height, width = image.shape[-2:]
    grow = size / (size - 2 * context)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * grow
    whole = boxes.new_tensor([width, height])
    # torch counts -1..1 from edge to edge of the image
    shift, scale = centres / whole * 2 - 1, sides / whole
    theta = boxes.new_zeros(len(boxes), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0], scale[:, 1], shift
    grid = F.affine_grid(theta, [len(boxes), image.shape[0], size, size], align_corners=False)
    return F.grid_sample(image.expand(len(boxes), -1, -1, -1), grid, align_corners=False)
