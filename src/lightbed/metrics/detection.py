"""Average precision of a detector's boxes and masks, and what it finds at one score."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightbed.metrics import coco_ap
from lightbed.metrics.coco_ap import CROWD, NOTHING, RIGHT, WRONG
from lightbed.types import Prediction, Target

_log = logging.getLogger(__name__)
_BY_SIZE = ("map_small", "map_medium", "map_large")


class DetectionScores(Metric):
    """COCO's average precision, and precision, recall and F1 at one score.

    Values are those of pycocotools, whatever the batch size and the number of processes, with at most 100 detections of
    a class in an image and areas as the annotation has them. What has no truth has no value, where pycocotools says -1:
    `map`, `map_50`, `map_75` and `mar_100` are NaN without any object, and the others are left out. With
    masks, the same values of the masks have `mask_` in front.

    `precision`, `recall` and `f1` count the boxes of all classes together, at IoU 0.5, that score `threshold` or more.
    `detections` is the mean number in an image, of any score, and `highest_score` the best one of all.

    After `compute`, `best_threshold` is the score at which F1 is highest (`threshold`, where no detection is right),
    `confusion` int64 (K + 1, K + 1) the boxes at `threshold` by what they show (row) and what they are called (column),
    the last of both being background; `curves` has what a precision-recall picture needs, by 'boxes' and 'masks'.
    How long all that took is in `seconds`, and in the log.

    Args:
        num_classes: K.
        masks: compare masks, too.
        classes: names; with them, `compute` also gives `map/NAME` of each class that has objects.
        kwargs: torchmetrics' own.
    """

    full_state_update = False
    higher_is_better = True
    verdicts: list[Tensor]
    mask_verdicts: list[Tensor]
    scores: list[Tensor]
    rows: list[Tensor]
    truths: Tensor
    images: Tensor
    given: Tensor

    def __init__(
        self, num_classes: int, *, masks: bool = False, classes: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.masks = num_classes, masks
        self.classes = list(classes) if classes is not None else None
        self.threshold = 0.5
        for name in ("verdicts", "mask_verdicts", "scores", "rows"):
            self.add_state(name, [], dist_reduce_fx="cat")
        for name, shape in (("truths", (num_classes, len(coco_ap.AREAS))), ("images", ()), ("given", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        shape = (0, len(coco_ap.AREAS), len(coco_ap.IOUS))
        # a process without any image gathers the same kinds of tensors as the others
        self.verdicts = [torch.zeros(shape, dtype=torch.uint8, device=self.device)]
        self.mask_verdicts = [torch.zeros(shape, dtype=torch.uint8, device=self.device)]
        self.scores = [torch.zeros(0, device=self.device)]
        self.rows = [torch.zeros((0, 4), dtype=torch.int64, device=self.device)]  # image, place in it, label, shown
        self.best_threshold = self.threshold if hasattr(self, "threshold") else 0.5
        self.confusion = np.zeros((self.num_classes + 1,) * 2, np.int64)
        self.curves: dict[str, dict[str, np.ndarray]] = {}
        self.seconds = 0.0

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add the predictions and the truth of some images, on any device.

        Of detections with the same score, those of the image with the lower `index` come first; where the targets have
        none, images count in the order in which they come.
        """
        start = time.perf_counter()
        for prediction, target in zip(predictions, targets, strict=True):
            self._add(prediction, target)
        self.seconds += time.perf_counter() - start

    def _add(self, prediction: Prediction, target: Target) -> None:
        order = _kept(_array(prediction["scores"]), _array(prediction["labels"]))
        scores, labels = _array(prediction["scores"])[order], _array(prediction["labels"])[order]
        boxes, true_boxes = _boxes(prediction)[order], _boxes(target)
        truth = _array(target["labels"])
        crowd = _array(target["crowd"]).astype(bool) if "crowd" in target else np.zeros(len(truth), bool)
        same = labels[:, None] == truth
        ious = coco_ap.box_ious(boxes, true_boxes, crowd)
        bits = true_bits = np.zeros((0, 0), np.uint64)
        if self.masks:
            bits, true_bits = _bits(prediction["masks"])[order], _bits(target["masks"])
        own = coco_ap.mask_areas(true_bits) if self.masks else coco_ap.box_areas(true_boxes)
        areas = _array(target["area"]).astype(np.float64) if "area" in target else own
        ignored = coco_ap.out_of_range(areas) | crowd[:, None]

        out = coco_ap.out_of_range(coco_ap.box_areas(boxes))
        self._append("verdicts", coco_ap.judge(np.where(same, ious, 0.0), labels, crowd, ignored, out))
        if self.masks:
            mask_ious = coco_ap.mask_ious(bits, true_bits, crowd, same)
            out = coco_ap.out_of_range(coco_ap.mask_areas(bits))
            self._append("mask_verdicts", coco_ap.judge(mask_ious, labels, crowd, ignored, out))
        image = int(target["index"]) if "index" in target else int(self.images)
        shown = coco_ap.shown(ious, labels, truth, crowd)
        place = np.arange(len(labels))
        self._append("scores", scores)
        self._append("rows", np.stack([np.full_like(place, image), place, labels, shown], axis=1))
        counted = np.zeros(self.truths.shape, np.int64)
        np.add.at(counted, truth, ~ignored)
        self.truths += torch.from_numpy(counted).to(self.truths.device)
        self.images += 1
        self.given += len(prediction["scores"])

    def _append(self, name: str, values: np.ndarray) -> None:
        getattr(self, name).append(torch.from_numpy(values).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """The scores by name."""
        start = time.perf_counter()
        rows, scores = _whole(self.rows), _whole(self.scores)
        image, place, labels, shown = rows.T
        order = np.lexsort((place, image, -scores))  # as if all images had come one after the other
        scores, labels, shown = scores[order], labels[order], shown[order]
        truths = _array(self.truths)
        kinds = {"boxes": _whole(self.verdicts)[order]}
        if self.masks:
            kinds["masks"] = _whole(self.mask_verdicts)[order]
        values: dict[str, float] = {}
        self.curves = {}
        for kind, verdicts in kinds.items():
            found = coco_ap.average_precision(labels, verdicts, truths)
            prefix = "mask_" if kind == "masks" else ""
            values |= {f"{prefix}{name}": value for name, value in self._values(found).items()}
            self.curves[kind] = _curves(found)
        values |= self._at_threshold(scores, kinds["boxes"][:, 0, 0], int(truths[:, 0].sum()))
        self.confusion = _confusion(labels, shown, scores >= self.threshold, truths[:, 0])
        values["detections"] = float(self.given) / max(int(self.images), 1)
        values["highest_score"] = float(scores[0]) if len(scores) else 0.0
        self.seconds += time.perf_counter() - start
        _log.info("evaluation of %s images: %.2f seconds", f"{int(self.images):,}", self.seconds)
        return {name: torch.tensor(value, device=self.device) for name, value in values.items()}

    def _values(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """COCO's figures, and those of each class; what has no truth left out."""
        values = coco_ap.summary(found)
        values = {name: value for name, value in values.items() if name not in _BY_SIZE or not np.isnan(value)}
        if self.classes is not None:
            each = found["precision"][:, 0].mean(1)
            values |= {f"map/{self.classes[k]}": float(each[k]) for k in np.flatnonzero(~np.isnan(each))}
        return values

    def _at_threshold(self, scores: np.ndarray, verdicts: np.ndarray, truths: int) -> dict[str, float]:
        """Precision, recall and F1 of the detections that score `threshold`; a ratio without a denominator is 0."""
        best = coco_ap.best_f1(scores, verdicts, truths)
        self.best_threshold = self.threshold if best is None else best
        called = verdicts[scores >= self.threshold]
        right, wrong = int((called == RIGHT).sum()), int((called == WRONG).sum())
        return {
            "precision": right / max(right + wrong, 1),
            "recall": right / max(truths, 1),
            "f1": 2 * right / max(right + wrong + truths, 1),
        }


def _kept(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Positions of an image's detections from the best to the last, at most 100 of a class."""
    order = np.argsort(-scores, kind="stable")
    rounds = coco_ap.rounds(labels[order])
    if len(rounds) <= coco_ap.MOST:
        return order
    kept: np.ndarray = order[np.sort(np.concatenate(rounds[: coco_ap.MOST]))]
    return kept


def _curves(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `draw.classes.precision_recall` takes: over rising thresholds, so from the highest recall to the lowest.

    A recall that is never reached, with precision 0, stands at the highest one that is, so that the curve ends there.
    """
    precision = found["curve"][:, ::-1]
    reached = (precision > 0).sum(1, keepdims=True)
    highest = np.where(reached > 1, coco_ap.RECALLS[reached - 1], 1.0)
    recall = np.where(np.isnan(precision), np.nan, np.minimum(coco_ap.RECALLS[::-1], highest))
    return {"precision": precision, "recall": recall, "average_precision": found["precision"][:, 0, 0]}


def _confusion(labels: np.ndarray, shown: np.ndarray, called: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Counts int64 (K + 1, K + 1), row = what is there, column = what it is called, the last of both background."""
    count = len(truths)
    matrix = np.zeros((count + 1, count + 1), np.int64)
    labels, shown = labels[called & (shown != CROWD)], shown[called & (shown != CROWD)]
    np.add.at(matrix, (np.where(shown == NOTHING, count, shown), labels), 1)
    matrix[:count, count] = truths - matrix[:count].sum(1)  # what is not found
    return matrix


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().numpy()
    return array


def _boxes(values: Prediction | Target) -> np.ndarray:
    return _array(values["boxes"]).astype(np.float64).reshape(-1, 4)


def _bits(masks: Tensor) -> np.ndarray:
    return coco_ap.packed(_array(masks).astype(bool, copy=False))


def _whole(parts: list[Tensor]) -> np.ndarray:
    return _array(dim_zero_cat(parts))
