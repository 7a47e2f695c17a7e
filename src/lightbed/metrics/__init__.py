"""Metrics that torchmetrics lacks: a pure function first, a thin class around it second."""

from lightbed.metrics.classification import ConfusionScores, MultilabelScores
from lightbed.metrics.curves import PrecisionRecall
from lightbed.metrics.mean import LossMean

__all__ = ["ConfusionScores", "LossMean", "MultilabelScores", "PrecisionRecall"]
