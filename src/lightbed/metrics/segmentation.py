"""Pixel accuracy and intersection over union from one confusion matrix."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightbed.metrics.classification import per_class_scores, scores

VOID = 255


def pixel_confusion(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix int64 (K, K), row = truth, column = prediction, of int64 tensors of one shape; void left out."""
    # void goes to one more cell instead of being selected away, which would wait for the device
    cells = torch.where(truth == VOID, num_classes**2, truth * num_classes + predicted)
    counts = torch.bincount(cells.flatten(), minlength=num_classes**2 + 1)
    return counts[:-1].view(num_classes, num_classes)


def class_iou(matrix: Tensor) -> Tensor:
    """Intersection over union of each class, float64 (K,), over all pixels; NaN for a class that never occurs."""
    counts = matrix.double()
    both = counts.diag()
    return both / (counts.sum(0) + counts.sum(1) - both)  # 0 / 0 is NaN


def image_accuracy(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the pixel accuracies of images (N, H, W), float64 (), and the number of images that are not all void."""
    valid = truth != VOID
    right = ((predicted == truth) & valid).sum((1, 2)).double()
    pixels = valid.sum((1, 2)).double()
    return (right / pixels.clamp(min=1)).sum(), (pixels > 0).sum()


class SegmentationScores(Metric):
    """Scores of a segmenter; its states are the confusion matrix `matrix` (K, K) and the images' accuracies.

    `pixel_accuracy` is the mean over images, `accuracy` counts all pixels alike. `iou`, `precision`, `recall` and `f1`
    are means over the classes that occur in truth or prediction, each class's value over all pixels.

    Args:
        num_classes: K.
        classes: names; with them, `compute` also gives `iou/NAME`, `precision/NAME` and `recall/NAME` of each class
            that occurs.
        kwargs: torchmetrics' own.
    """

    full_state_update = False
    higher_is_better = True
    matrix: Tensor
    accuracies: Tensor
    images: Tensor

    def __init__(self, num_classes: int, classes: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.classes = list(classes) if classes is not None else None
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("accuracies", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (N, K, H, W) or classes int64 (N, H, W), and truth int64 (N, H, W) with 255 for void."""
        # on a CPU `max` is four times as fast as `argmax` across a dimension that is not the last
        predicted = predictions.max(1).indices if predictions.ndim == 4 else predictions.long()
        self.matrix += pixel_confusion(predicted, targets, self.num_classes)
        accuracy, images = image_accuracy(predicted, targets)
        self.accuracies += accuracy
        self.images += images

    def compute(self) -> dict[str, Tensor]:
        """The scores by name."""
        ious = class_iou(self.matrix)
        occurs = ~ious.isnan()
        pixel_accuracy = self.accuracies / self.images.clamp(min=1)
        values = {"pixel_accuracy": pixel_accuracy.float(), **scores(self.matrix)}
        values["iou"] = torch.where(occurs, ious, 0.0).sum().div(occurs.sum().clamp(min=1)).float()
        if self.classes is not None:
            precision, recall, _ = per_class_scores(self.matrix)
            for name, column in (("iou", ious), ("precision", precision), ("recall", recall)):
                values |= {f"{name}/{self.classes[i]}": column[i].float() for i in occurs.nonzero().flatten().tolist()}
        return values
