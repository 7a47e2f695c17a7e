"""R-CNN: a classifier looks at each proposal alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from lightbed.errors import UserError, one_of
from lightbed.proposals.detector import ProposalDetector, at_least
from lightbed.proposals.second_stage import Fitting, SecondStage

_AT_ONCE = 512  # crops that the classifier sees in one pass, at most
_PIXELS = 2**21  # and of all of them together: what a network as large as the paper's has room for

Batches = Callable[[], Iterable[tuple[list[Tensor], list[dict[str, Tensor]]]]]


class RCNN(ProposalDetector):
    """R-CNN (Girshick, Donahue, Darrell, Malik 2014, arXiv:1311.2524), on proposals of selective search.

    Each proposal is cut out with some context, warped to a square and classified. The training has the paper's two
    stages. In the first the classifier is trained on warped proposals and objects with a softmax over the classes and
    background; that is what the model's loss is. In the second, `settle`, the network stands still: a linear SVM a
    class is fitted to its features, objects against proposals that overlap them little, and a regression a class to
    move proposals onto their objects. A score is the SVM's margin as a probability; for where that differs from the
    paper see `OneVersusRest`.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        classifier: any network for classification; its last linear layer is taken off, whose inputs are the features.
        crop_size: side in pixels that proposals are warped to.
        context: pixels of the warped square, on each side, that show what is around the proposal; what would lie
            outside of the image is 0, the mean.
        box_features: name of the classifier's part whose output (n, C, h, w) boxes are regressed from.
        box_grid: side of the grid that this output is averaged to.
        scorer: 'svm', or 'softmax' for the first stage's own scores.
        svm_cost: see `SecondStage`, as for `svm_bg_iou_thresh`, `box_ridge` and `box_reg_iou_thresh`.
        common: the arguments of `ProposalDetector`.

    Raises:
        UserError: the arguments contradict each other, or the classifier is none that this can be done with.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
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
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not 0 <= 2 * context < crop_size:
            raise UserError(f"model.context={context}: twice that must be less than model.crop_size={crop_size}")
        at_least(box_grid, 1, "box_grid")
        self.crop_size, self.context = crop_size, context
        self.box_features, self.box_grid = box_features, box_grid
        self.scorer = one_of(scorer, ("svm", "softmax"), "model.scorer")
        self.sampler = BalancedPositiveNegativeSampler(self.box_batch_size_per_image, self.box_positive_fraction)
        width = take_off(classifier)
        self.classifier = classifier
        self.softmax = nn.Linear(width, num_classes + 1)
        self.second = SecondStage(
            num_classes,
            width,
            self._places(in_channels),
            svm_cost=svm_cost,
            svm_bg_iou_thresh=svm_bg_iou_thresh,
            box_ridge=box_ridge,
            box_reg_iou_thresh=box_reg_iou_thresh,
        )

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
        if not kept or not isinstance(kept[0], Tensor) or kept[0].ndim != 4:
            raise UserError(f"model.box_features={self.box_features} gives no map (n, C, h, w) of features")
        # in whole precision, for what is fitted to them
        return features.float(), F.adaptive_avg_pool2d(kept[0].float(), self.box_grid).flatten(1)

    def look(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """`describe` of the boxes (n, 4) of an image, at least one."""
        step = max(1, min(_AT_ONCE, _PIXELS // self.crop_size**2))
        crops = (warp(image, boxes[i : i + step], self.crop_size, self.context) for i in range(0, len(boxes), step))
        parts = [self.describe(some) for some in crops]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    # -- first stage ---------------------------------------------------------------------------------------------------

    def _loss(self, images: Sequence[Tensor], proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        """Cross entropy of the softmax over some proposals of each image, objects among them."""
        if torch.is_grad_enabled():
            self.second.settled.zero_()  # what was fitted to the features of before is of use no more
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
    def settle(self, batches: Batches) -> None:
        """Fit the SVMs and the boxes' regressions to the network's features of all training images, in evaluation mode.

        Args:
            batches: gives, as often as it is called, lists of images and of targets, as `forward` takes them.
        """
        device = self.softmax.weight.device
        features = [torch.zeros(0, self.softmax.in_features, device=device)]
        labels = [torch.zeros(0, dtype=torch.int64, device=device)]
        for images, targets in batches():
            for image, target in zip(images, targets, strict=True):
                if len(target["boxes"]):
                    features.append(self.look(image, target["boxes"])[0])
                    labels.append(target["labels"])
        fitting = Fitting(self.second, torch.cat(features), torch.cat(labels))
        for images, targets in batches():
            for image, boxes, target in zip(images, self.proposals(images), targets, strict=True):
                fitting.show(*self.look(image, boxes), boxes, target)
        fitting.finish()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def scores(self, features: Tensor) -> Tensor:
        """Features (n, D) -> probabilities (n, K): the SVMs', or before they are fitted the softmax's."""
        if self.scorer == "softmax" or not self.second.ready:
            return F.softmax(self.softmax(features), 1)[:, 1:]
        return self.second.probabilities(features)

    def _detect(self, image: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        features, places = self.look(image, boxes)
        with torch.autocast(image.device.type, enabled=False):  # what is fitted was so in whole precision
            scores = self.scores(features)  # (n, K)
            moved = self.second.move(places, boxes)  # (n, K, 4)
        rows, labels = (scores > self.box_score_thresh).nonzero(as_tuple=True)
        found, kept = clip_boxes_to_image(moved[rows, labels], image.shape[-2:]), scores[rows, labels]
        whole = (found[:, 2:] > found[:, :2]).all(1)
        found, kept, labels = found[whole], kept[whole], labels[whole]
        best = batched_nms(found, kept, labels, self.box_nms_thresh)[: self.box_detections_per_img]
        return {"boxes": found[best], "labels": labels[best] + 1, "scores": kept[best]}


def take_off(classifier: nn.Module) -> int:
    """Take a classifier's last linear layer off, in place; returns how many features it has then.

    Raises:
        UserError: there is none.
    """
    linear = [(name, part) for name, part in classifier.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise UserError(f"model.classifier: {type(classifier).__name__} has no linear layer that could be taken off")
    name, last = linear[-1]
    classifier.set_submodule(name, nn.Identity())
    return last.in_features


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
