"""What every task shares: stages, losses and metrics, optimizer and schedule, preprocessing, the checkpoint's card."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightbed.errors import UserError
from lightbed.metrics.mean import LossMean
from lightbed.tasks.optim import OptimizerPartial, fill, parameter_groups
from lightbed.transforms.augment import Augment
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import STAGES, Prediction, Step


class Task(L.LightningModule):
    """Trains, validates and tests a network; a subclass adds its metrics, `step` and `predict`.

    Args:
        model: any network whose output is what the subclass documents.
        classes: class names, in the order of the network's outputs.
        optimizer: partial that takes parameter groups; None for a task that only predicts or tests.
        scheduler: partial that takes the optimizer; arguments that say `auto` are filled in (`total_steps`,
            `epochs`, `steps_per_epoch`).
        interval: 'epoch' or 'step': when the schedule moves.
        rates: learning rate by part of the model, see `parameter_groups`.
        preprocess: applied to every batch on the device; None where batches arrive normalised.
        augment: applied to training batches on the device, before `preprocess`.
        monitor: the logged name that chooses the best checkpoint and steers a plateau schedule.
        metrics: further torchmetrics by name, updated with the same predictions and targets as the task's own.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        *,
        optimizer: OptimizerPartial | None = None,
        scheduler: "partial[Any] | None" = None,
        interval: str = "epoch",
        rates: Mapping[str, float] | None = None,
        preprocess: Preprocess | None = None,
        augment: Augment | None = None,
        monitor: str = "val/loss",
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.classes = list(classes)
        self.optimizer, self.scheduler, self.interval, self.rates = optimizer, scheduler, interval, rates
        self.preprocess, self.augment = preprocess, augment
        self.monitor = monitor
        self.extra_metrics = dict(metrics or {})
        self.provenance: dict[str, Any] = {}

    # -- what a subclass says ------------------------------------------------------------------------------------------

    def make_metric(self, stage: str) -> Metric:
        """The stage's metric: `update(predictions, targets)`, and `compute()` gives a dict of scalars by name."""
        raise NotImplementedError

    def step(self, batch: Any, stage: str) -> Step:
        """Losses, predictions and targets of one batch."""
        raise NotImplementedError

    def predict(self, images: Any) -> list[Prediction]:
        """What the network sees in preprocessed images, one dict an image; runs in evaluation mode, without gradient."""
        raise NotImplementedError

    def averaging(self, name: str) -> str:  # noqa: ARG002 - a subclass knows its metrics
        """How the metric `name` is averaged, for the table of results; empty where there is nothing to say."""
        return ""

    def forward(self, images: Any) -> Any:
        """The network's raw output."""
        return self.model(images)

    # -- stages --------------------------------------------------------------------------------------------------------

    def add_metrics(self) -> None:
        """Give each stage its losses and metrics; a subclass calls it last in its constructor."""
        for stage in STAGES:
            setattr(self, f"{stage}_losses", LossMean())
            setattr(self, f"{stage}_metric", self.make_metric(stage))
            extra = MetricCollection({name: metric.clone() for name, metric in self.extra_metrics.items()})
            setattr(self, f"{stage}_extra", extra)

    def metric(self, stage: str) -> Metric:
        """The stage's own metric, e.g. for a confusion matrix after testing."""
        return getattr(self, f"{stage}_metric")  # type: ignore[no-any-return]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002 - Lightning's signature
        if isinstance(batch, Tensor):  # images alone: the layer table's example
            return batch if self.preprocess is None else self.preprocess(batch)
        images, target = batch
        if self.augment is not None and self.trainer.training:
            images, target = self.augment(images, target, self.current_epoch)
        return (images if self.preprocess is None else self.preprocess(images)), target

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        return self._record(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self._record(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self._record(batch, "test")

    def _record(self, batch: Any, stage: str) -> Tensor:
        step = self.step(batch, stage)
        losses = list(step.losses.values())
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        parts = {f"loss_{name}": value.detach() for name, value in step.losses.items()} if len(losses) > 1 else {}
        getattr(self, f"{stage}_losses").update({"loss": total.detach(), **parts}, len(batch[0]))
        self.metric(stage).update(step.predictions, step.targets)
        if self.extra_metrics:
            getattr(self, f"{stage}_extra").update(step.predictions, step.targets)
        return total

    def on_train_epoch_start(self) -> None:
        self._reset("train")

    def on_validation_epoch_start(self) -> None:
        self._reset("val")

    def on_test_epoch_start(self) -> None:
        self._reset("test")

    def on_train_epoch_end(self) -> None:
        self._log("train")
        groups = self.trainer.optimizers[0].param_groups if self.trainer.optimizers else []
        names = ["lr"] if len(groups) == 1 else [f"lr/{group.get('name', i)}" for i, group in enumerate(groups)]
        self.log_dict({name: float(group["lr"]) for name, group in zip(names, groups, strict=True)})

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:  # two batches of a sanity check are no result
            self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def _reset(self, stage: str) -> None:
        for part in ("losses", "metric", "extra"):
            getattr(self, f"{stage}_{part}").reset()

    def _log(self, stage: str) -> None:
        values = dict(getattr(self, f"{stage}_losses").compute())
        values |= self.metric(stage).compute()
        if self.extra_metrics:
            values |= getattr(self, f"{stage}_extra").compute()
        # the values are those of all devices already: torchmetrics gathered them
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, rank_zero_only=False)

    # -- optimizer -----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimizer over the model's parameter groups and, if there is one, its schedule."""
        if self.optimizer is None:
            raise UserError(
                f"{type(self).__name__} was built without an optimizer; give optimizer=partial(Adam, lr=...)"
            )
        optimizer = self.optimizer(parameter_groups(self.model, self.rates))
        if self.scheduler is None:
            return optimizer
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs
        facts = {"total_steps": steps, "epochs": epochs, "steps_per_epoch": max(1, steps // max(1, epochs or 1))}
        schedule = fill(self.scheduler, facts)(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": self.interval, "monitor": self.monitor},
        }

    # -- the checkpoint's card -----------------------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """What a checkpoint says of itself besides weights: plain values only, so that `weights_only=True` loads it."""
        return {
            "format": 1,
            "task": type(self).__name__.lower(),
            "classes": self.classes,
            "preprocess": self.preprocess.describe() if self.preprocess else None,
            **self.provenance,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lightbed"] = self.card()
