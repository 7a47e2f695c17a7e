"""Accuracy, precision, recall and F1 from one confusion matrix, at next to no cost a step."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightbed.errors import one_of

AVERAGES = ("macro", "micro", "weighted", "binary")


def confusion(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix int64 (K, K), row = truth, column = prediction, of two int64 tensors of one shape."""
    return torch.bincount(truth * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def scores(matrix: Tensor, average: str = "macro") -> dict[str, Tensor]:
    """Accuracy, precision, recall and F1 of a confusion matrix.

    A class that never occurs in truth or prediction is left out of the mean ('macro', 'weighted'), and a ratio
    without a denominator is 0, as in scikit-learn with `zero_division=0`.

    Args:
        matrix: int64 (K, K), row = truth, column = prediction.
        average: 'macro' (mean over classes), 'weighted' (mean weighted by each class's images), 'micro' (all images
            together: all four are then accuracy), 'binary' (of class 1 alone).
    """
    counts = matrix.double()
    true, predicted, truth = counts.diag(), counts.sum(0), counts.sum(1)
    accuracy = _ratio(true.sum(), counts.sum())
    if average == "micro":
        values = [accuracy, accuracy, accuracy]
    else:
        per_class = torch.stack(per_class_scores(matrix))
        if average == "binary":
            weight = torch.zeros_like(truth)
            weight[1] = 1
        else:
            weight = truth if average == "weighted" else ((truth + predicted) > 0).double()
        values = list(_ratio((per_class * weight).sum(1), weight.sum()))
    names = ("accuracy", "precision", "recall", "f1")
    return {name: value.float() for name, value in zip(names, [accuracy, *values], strict=True)}


def per_class_scores(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 of each class, float64 (K,) each, from a confusion matrix (row = truth)."""
    counts = matrix.double()
    true, predicted, truth = counts.diag(), counts.sum(0), counts.sum(1)
    return _ratio(true, predicted), _ratio(true, truth), _ratio(2 * true, predicted + truth)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1e-30), torch.zeros_like(part))


class ConfusionScores(Metric):
    """Accuracy, precision, recall and F1 of a classifier; its one state is the confusion matrix `matrix` (K, K).

    Accuracy counts all images; `average` says how precision, recall and F1 are averaged, see `scores`.
    """

    full_state_update = False
    higher_is_better = True
    matrix: Tensor

    def __init__(self, num_classes: int, average: str = "macro", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.average = one_of(average, AVERAGES, "task.average")
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: logits or probabilities (N, K), or one column (N, 1) of logits for two classes; targets (N,)."""
        binary = predictions.shape[1] == 1
        predicted = (predictions[:, 0] > 0).long() if binary else predictions.argmax(1)
        self.matrix += confusion(predicted, targets, self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """The four scores by name."""
        return scores(self.matrix.cpu(), self.average)  # in float64, which not every device has


class MultilabelScores(Metric):
    """Scores of a multi-label classifier, a label called present when its logit is over 0 (probability over 0.5).

    `accuracy` is over all (image, label) pairs; `exact_match` is the share of images with every label right;
    precision, recall and F1 are averaged over labels ('macro') or pooled over all pairs ('micro').
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor
    exact: Tensor
    images: Tensor

    def __init__(self, num_classes: int, average: str = "macro", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.average = one_of(average, ("macro", "micro"), "task.average")
        self.add_state("counts", torch.zeros(4, num_classes, dtype=torch.int64), dist_reduce_fx="sum")  # tp fp fn tn
        self.add_state("exact", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (N, K) and targets (N, K) of 0 and 1."""
        called, truth = predictions > 0, targets > 0.5
        cells = (called & truth, called & ~truth, ~called & truth, ~called & ~truth)
        self.counts += torch.stack([cell.sum(0) for cell in cells])
        self.exact += (called == truth).all(1).sum()
        self.images += len(targets)

    def compute(self) -> dict[str, Tensor]:
        """The five scores by name."""
        cells = self.counts.cpu().double()
        pooled = cells.sum(1, keepdim=True) if self.average == "micro" else cells
        tp, fp, fn, _ = pooled
        values = {
            "accuracy": _ratio((cells[0] + cells[3]).sum(), cells.sum()),
            "exact_match": _ratio(self.exact.cpu().double(), self.images.cpu().double()),
            "precision": _ratio(tp, tp + fp).mean(),
            "recall": _ratio(tp, tp + fn).mean(),
            "f1": _ratio(2 * tp, 2 * tp + fp + fn).mean(),
        }
        return {name: value.float() for name, value in values.items()}
