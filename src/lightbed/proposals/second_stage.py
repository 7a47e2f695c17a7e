"""The second stage of R-CNN: what is fitted to the features of a network that stands still."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from lightbed.proposals.detector import positive, share
from lightbed.proposals.svm import OneVersusRest, ridge

_NORM = 20.0  # mean norm that features are scaled to for the SVMs, as in R-CNN's own code, so that its C fits


class SecondStage(nn.Module):
    """A linear SVM and a regression of boxes for each of K classes, as buffers, so that a checkpoint holds them.

    Boxes are told as in the paper: by how much the centre moves, in widths and heights of the proposal, and the
    logarithm of the factor that its sides grow by.

    Args:
        num_classes: K.
        features: numbers D that the SVMs see of a proposal.
        places: numbers B that its box is regressed from.
        svm_cost: C of the SVMs.
        svm_bg_iou_thresh: IoU with each object of a class below which a proposal is a negative of that class.
        box_ridge: strength of the ridge regression.
        box_reg_iou_thresh: IoU with an object from which a proposal is one that the regression learns from.

    Raises:
        UserError: one of these is out of its range.
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
        features: int,
        places: int,
        *,
        svm_cost: float,
        svm_bg_iou_thresh: float,
        box_ridge: float,
        box_reg_iou_thresh: float,
    ) -> None:
        super().__init__()
        self.svm_cost, self.box_ridge = positive(svm_cost, "svm_cost"), positive(box_ridge, "box_ridge")
        self.svm_bg_iou_thresh = positive(share(svm_bg_iou_thresh, "svm_bg_iou_thresh"), "svm_bg_iou_thresh")
        self.box_reg_iou_thresh = positive(share(box_reg_iou_thresh, "box_reg_iou_thresh"), "box_reg_iou_thresh")
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        for name, shape in (
            ("svm_weight", (num_classes, features)),
            ("svm_bias", (num_classes,)),
            ("svm_scale", ()),
            ("svm_platt", (num_classes, 2)),
            ("box_weight", (num_classes, places + 1, 4)),
            ("settled", ()),
        ):
            self.register_buffer(name, torch.zeros(shape))

    @property
    def ready(self) -> Tensor:
        """Whether all is fitted to the network as it is: less than 1 is an average with what was not, see `Ema`."""
        return self.settled == 1

    def probabilities(self, features: Tensor) -> Tensor:
        """Features (n, D) -> the SVMs' margins as probabilities (n, K)."""
        margins = features * self.svm_scale @ self.svm_weight.T + self.svm_bias
        return torch.sigmoid(margins * self.svm_platt[:, 0] + self.svm_platt[:, 1])

    def move(self, places: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (n, 4) as the regression of each class moves them, (n, K, 4), before it is fitted as they are.

        `places` is (n, B).
        """
        codes = torch.einsum("nb,kbc->nkc", places, self.box_weight[:, :-1]) + self.box_weight[:, -1]
        moved: Tensor = self.coder.decode_single((codes * self.ready).flatten(1), boxes)
        return moved.view(len(boxes), -1, 4)


class Fitting:
    """Fits a `SecondStage`: to all objects, and to the proposals of the images that are shown.

    Args:
        stage: what is fitted.
        features: (m, D) of all objects.
        labels: int64 (m,), their classes, from 1 on.
    """

    def __init__(self, stage: SecondStage, features: Tensor, labels: Tensor) -> None:
        self.stage, self.count = stage, len(stage.svm_weight)
        norm = float(features.norm(dim=1).mean()) if len(features) else 0.0
        self.scale = _NORM / norm if norm > 0 else 1.0
        objects, classes = self._scaled(features), labels.cpu().numpy() - 1
        self.svms = OneVersusRest([objects[classes == k] for k in range(self.count)], stage.svm_cost)
        size = stage.box_weight.shape[1] - 1
        self.moves = [[(np.zeros((0, size), np.float32), np.zeros((0, 4), np.float32))] for _ in range(self.count)]

    def _scaled(self, features: Tensor) -> np.ndarray:
        scaled: np.ndarray = (features * self.scale).cpu().numpy()
        return scaled

    def show(self, features: Tensor, places: Tensor, boxes: Tensor, target: Mapping[str, Tensor]) -> None:
        """Take in an image's proposals: features (n, D), places (n, B) and boxes (n, 4); its objects in `target`."""
        truth, labels = target["boxes"], target["labels"] - 1
        ious = box_iou(boxes, truth)
        covered = ious.new_zeros(len(boxes), self.count)
        for k in set(labels.tolist()):
            covered[:, k] = ious[:, labels == k].amax(1)
        self.svms.show(self._scaled(features), (covered < self.stage.svm_bg_iou_thresh).cpu().numpy())
        if not len(truth):
            return
        best, which = ious.max(1)
        near = best >= self.stage.box_reg_iou_thresh
        codes = self.stage.coder.encode_single(truth[which[near]], boxes[near])
        seen, moved, own = (values.cpu().numpy() for values in (places[near], codes, labels[which[near]]))
        for k in set(own.tolist()):
            self.moves[k].append((seen[own == k], moved[own == k]))

    def finish(self) -> None:
        """Fit all, into the stage's buffers."""
        self.svms.finish()
        stage = self.stage
        found = {"svm_weight": self.svms.weights, "svm_bias": self.svms.biases, "svm_platt": self.svms.probabilities()}
        for name, values in found.items():
            getattr(stage, name).copy_(torch.from_numpy(values))
        for own, weight in zip(self.moves, stage.box_weight, strict=True):
            places, codes = (np.concatenate([pair[i] for pair in own]) for i in (0, 1))
            weight.copy_(torch.from_numpy(ridge(places, codes, stage.box_ridge)))
        stage.svm_scale.fill_(self.scale)
        stage.settled.fill_(1)
