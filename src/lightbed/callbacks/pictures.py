"""What a tested network gets right and wrong, as pictures."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from lightbed.chance import permutation
from lightbed.data.source import KeyedReader
from lightbed.draw import classes as class_figures
from lightbed.draw import grid, panels
from lightbed.draw.boxes import confident
from lightbed.draw.figure import RIGHT, pixels, save
from lightbed.errors import UserError
from lightbed.folders import run_name
from lightbed.metrics.classification import ConfusionScores, MultilabelScores
from lightbed.metrics.curves import PrecisionRecall
from lightbed.metrics.detection import DetectionScores
from lightbed.metrics.localization import LocalizationScores
from lightbed.metrics.segmentation import SegmentationScores
from lightbed.tasks.base import Task
from lightbed.tasks.sharding import is_sharded
from lightbed.types import STAGES, Prediction, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = tuple[str, Callable[..., "Figure"]]


class Pictures(Callback):
    """Draws pictures/ after a test, or after a validation on its own: a grid of predictions, and what metrics show.

    Which picture a prediction or a metric gives follows from its kind: see `draw.panels.PANELS` and `metric_pictures`.
    They go to TensorBoard, too.

    Args:
        count: images in the grid; 0 draws none.
        samples: positions in the split that are drawn, instead of `count` random ones; what is predicted of each goes
            into a file of its own, too, from which a multirun's summary puts those of all jobs side by side.
        seed: chooses the random ones.
        threshold: least score of the boxes that are drawn; None for the one that the task found best in validation.
    """

    def __init__(
        self,
        count: int = 36,
        samples: Sequence[int] | None = None,
        seed: int = 0,
        threshold: float | None = None,
    ) -> None:
        if count < 0:
            raise UserError(f"callbacks.pictures.count={count} must be at least 0")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"callbacks.pictures.threshold={threshold} must lie in 0..1: it is compared with scores")
        self.count, self.samples, self.seed, self.threshold = count, samples, seed, threshold

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        splits = getattr(data, "splits", {})
        evaluated = next((name for name in ("test", "val") if name in splits), None)
        if evaluated:  # wrong positions are told before the fit
            self.positions(len(splits[evaluated]), evaluated)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, "test", trainer.test_dataloaders)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # not the validations in a fit
            self._draw(trainer, pl_module, "val", trainer.val_dataloaders)

    def _draw(self, trainer: Trainer, task: Any, stage: str, loader: Any) -> None:
        # all processes take part: metrics are gathered from them
        found = [drawn for metric in stage_metrics(task, stage) for drawn in metric_pictures(metric)]
        reader = getattr(loader, "dataset", None)
        first = trainer.is_global_zero
        if not isinstance(reader, KeyedReader) or not (first or is_sharded(task.model)):
            return
        name, split, images = run_name(Path(trainer.default_root_dir)), reader.split or stage, len(reader)
        text = f"{split} split, {images:,} images"
        score = trainer.callback_metrics.get(f"{stage}/{task.monitor.partition('/')[2]}")
        if score is not None:
            text += f", {task.monitor.partition('/')[2].replace('_', ' ')} {float(score):.4f}"
        for file, figure in found if first else []:
            _write(trainer, file, figure(task.classes, name, text))
        positions = self.positions(images, split, task.pictured_at_once)
        least = float(getattr(task, "threshold", 0.0)) if self.threshold is None else self.threshold
        seen = [
            (image, confident(found, least), target) for image, found, target in predictions(task, reader, positions)
        ]
        if not first:
            return
        drawn = [panels.draw(*each, task.classes, task.colours) for each in seen]
        if drawn:
            right = sum(panel.color == RIGHT for panel in drawn)
            told = task.pictured or f"{right} of them right"
            text = f"{len(drawn)} of {images:,} images of the {split} split, {told}"
            _write(trainer, "predictions", grid.image_grid(drawn, "Predictions", name, text))
        for position, (image, found, _) in zip(positions, seen if self.samples is not None else [], strict=False):
            alone = panels.draw(image, found, None, task.classes, task.colours)
            save(alone.image, Path(trainer.default_root_dir) / "pictures" / f"sample_{position}.png", alone.title)

    def positions(self, length: int, split: str, most: int | None = None) -> list[int]:
        """Positions in a split of `length` images that are drawn; of random ones at most `most`."""
        if self.samples is None:
            count = self.count if most is None else min(self.count, most)
            return permutation(length, self.seed, "pictures", split)[:count].tolist()
        wrong = [i for i in self.samples if not 0 <= i < length]
        if wrong:
            raise UserError(f"callbacks.pictures.samples={wrong} are not in 0..{length - 1} of the {split} split")
        return list(self.samples)


def predictions(
    task: Task, reader: KeyedReader, positions: Sequence[int], batch_size: int = 64
) -> Iterator[tuple[Tensor, Prediction, Target]]:
    """The images at these positions of a reader's source, what the task sees in them, and what is there."""
    for start in range(0, len(positions), batch_size):
        samples, _ = reader.read(0, torch.tensor(positions[start : start + batch_size]))
        if task.preprocess is not None:
            samples = [(task.preprocess.fit(image), target) for image, target in samples]
        batch = task.transfer_batch_to_device(reader.collate(samples), task.device, 0)
        found = task.predict(task.on_after_batch_transfer(batch, 0)[0])
        for (image, target), prediction in zip(samples, found, strict=True):
            yield image, prediction, target


def stage_metrics(task: LightningModule, stage: str) -> list[Metric]:
    """The metrics of a task that belong to `stage`, or to no stage by their name, and have seen data."""
    others = tuple(f"{name}_" for name in STAGES if name != stage)
    children = task.named_children()
    return [m for name, m in children if isinstance(m, Metric) and m.update_called and not name.startswith(others)]


@singledispatch
def metric_pictures(metric: Metric) -> list[Drawn]:  # noqa: ARG001
    """The pictures that a kind of metric gives: file names, and functions (class names, run name, text) -> figure."""
    return []


@metric_pictures.register(ConfusionScores)
@metric_pictures.register(LocalizationScores)
@metric_pictures.register(SegmentationScores)
def _confusion(metric: ConfusionScores | LocalizationScores | SegmentationScores) -> list[Drawn]:
    with metric.sync_context():
        matrix = metric.matrix.cpu().numpy().copy()
    counted = "pixels" if isinstance(metric, SegmentationScores) else "images"

    def figure(classes: Sequence[str], *below: str) -> "Figure":
        return class_figures.confusion_matrix(matrix, classes, "Confusion matrix", *below, counted=counted)

    return [("confusion_matrix", figure)]


@metric_pictures.register(MultilabelScores)
def _labels(metric: MultilabelScores) -> list[Drawn]:
    with metric.sync_context():
        counts = metric.counts.cpu().numpy().copy()

    def figure(classes: Sequence[str], *below: str) -> "Figure":
        return class_figures.label_scores(counts, classes, "Labels", *below)

    return [("labels", figure)]


@metric_pictures.register(PrecisionRecall)
def _curve(metric: PrecisionRecall) -> list[Drawn]:
    curves = {name: value.cpu().numpy() for name, value in metric.compute().items()}

    def figure(classes: Sequence[str], *below: str) -> "Figure":
        return class_figures.precision_recall(curves, classes, "Precision and recall", *below)

    return [("precision_recall", figure)]


@metric_pictures.register(DetectionScores)
def _detections(metric: DetectionScores) -> list[Drawn]:
    # all of it was found when the metric was computed
    matrix, curves = metric.confusion, metric.curves

    def confusion(classes: Sequence[str], *below: str) -> "Figure":
        title = f"Confusion matrix, scores from {metric.threshold:.2f}"
        names = [*classes, "background"]
        return class_figures.confusion_matrix(matrix, names, title, *below, counted="objects", background=True)

    def curve(kind: str, classes: Sequence[str], *below: str) -> "Figure":
        title = f"Precision and recall of {kind} at IoU 0.5"
        return class_figures.precision_recall(curves[kind], classes, title, *below)

    names = {"boxes": "precision_recall", "masks": "precision_recall_masks"}
    return [("confusion_matrix", confusion), *((names[kind], partial(curve, kind)) for kind in curves)]


def _write(trainer: Trainer, name: str, figure: "Figure") -> None:
    image = pixels(figure)
    save(image, Path(trainer.default_root_dir) / "pictures" / f"{name}.png")
    for logger in trainer.loggers:
        if hasattr(logger, "log_picture"):
            logger.log_picture(name, torch.from_numpy(image), trainer.global_step)
