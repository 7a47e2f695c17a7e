"""Precision-recall curves from histograms of scores."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def histogram(scores: Tensor, truth: Tensor, bins: int) -> Tensor:
    """How often each score occurs, int64 (2, K, bins): row 0 where the class is absent, row 1 where it is present.

    Args:
        scores: probabilities float32 (N, K); bin i holds i/(bins-1) <= score < (i+1)/(bins-1), up to rounding.
        truth: bool (N, K).
        bins: number of thresholds, the last one at 1.
    """
    count, classes = scores.shape
    index = (scores * (bins - 1)).long().clamp(0, bins - 1)  # (N, K)
    column = torch.arange(classes, device=scores.device).expand(count, classes)
    flat = (truth.long() * classes + column) * bins + index
    return torch.bincount(flat.flatten(), minlength=2 * classes * bins).view(2, classes, bins)


def precision_recall(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall float64 (K, bins) at each threshold: everything that scores at least it is called positive.

    Where nothing is called positive, precision is 1; a class that never occurs has recall NaN.
    """
    false, true = counts.flip(-1).cumsum(-1).flip(-1).double()  # at or over each threshold
    called = true + false
    return torch.where(called > 0, true / called.clamp(min=1), 1.0), true / true[:, :1]


class PrecisionRecall(Metric):
    """Precision and recall of each class over score thresholds, and average precision, in constant memory.

    torchmetrics' own curve asks for gigabytes in deterministic mode on the CPU, where its bincount is a comparison with
    every bin.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, num_classes: int, bins: int = 1001, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = bins
        self.add_state("counts", torch.zeros(2, num_classes, bins, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, truth: Tensor) -> None:
        """Add a batch: probabilities (N, K) and truth bool (N, K)."""
        self.counts += histogram(scores, truth, self.bins)

    def compute(self) -> dict[str, Tensor]:
        """`precision` and `recall` (K, bins), `average_precision` (K,): the step-wise area under each class's curve."""
        precision, recall = precision_recall(self.counts.cpu())  # in float64, which not every device has
        ends = torch.cat([recall[:, 1:], torch.zeros_like(recall[:, :1])], dim=1)
        return {"precision": precision, "recall": recall, "average_precision": ((recall - ends) * precision).sum(1)}
