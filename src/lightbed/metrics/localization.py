"""Scores of the class and the box of the one object in an image."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightbed.metrics.classification import confusion, scores

IOU = 0.5  # over which a box is right


def paired_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union (N,) of boxes xyxy (N, 4), each with its partner; 0 where both have no area."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (one, other)]
    union = areas[0] + areas[1] - both
    return torch.where(union > 0, both / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


class LocalizationScores(Metric):
    """Scores of a localizer; its states are the confusion matrix `matrix` (K, K), the sum of IoUs and the hits.

    `accuracy`, `precision`, `recall` and `f1` are of the class, see `ConfusionScores`; `iou` is the mean over images,
    whatever the class; `accuracy_50` is the share of images whose class is right and whose IoU is over 0.5.
    """

    full_state_update = False
    higher_is_better = True
    matrix: Tensor
    overlap: Tensor
    hits: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("overlap", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> None:
        """Add a batch: logits (N, K) and boxes xyxy (N, 4), and the true labels int64 (N,) and boxes xyxy (N, 4)."""
        (logits, boxes), (labels, truth) = predictions, targets
        predicted, ious = logits.argmax(1), paired_iou(boxes, truth)
        self.matrix.add_(confusion(predicted, labels, self.num_classes))
        self.overlap += ious.double().sum()
        self.hits += ((predicted == labels) & (ious > IOU)).sum()

    def compute(self) -> dict[str, Tensor]:
        """The scores by name."""
        matrix = self.matrix.cpu()
        images = matrix.sum().clamp(min=1)
        values = scores(matrix)
        values["iou"] = (self.overlap.cpu() / images).float()
        values["accuracy_50"] = (self.hits.cpu() / images).float()
        return values
