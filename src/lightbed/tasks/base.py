"""What every task shares: stages, losses and metrics, optimizer and schedule, preprocessing, the checkpoint's card."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric, MetricCollection

from lightbed.errors import UserError, nearest, one_of
from lightbed.metrics.further import check_further
from lightbed.metrics.mean import LossMean
from lightbed.monitor import mode_of
from lightbed.tasks.optim import (
    OptimizerPartial,
    freeze,
    frozen_modules,
    make_optimizer,
    make_scheduler,
    schedule_facts,
    spelled,
)
from lightbed.tasks.sharding import shard
from lightbed.transforms.augment import Augment
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import STAGES, Prediction, Share, Step


class Task(L.LightningModule):
    """Trains, validates and tests a network; a subclass adds its metrics, `step` and `predict`.

    Args:
        model: any network whose output is what the subclass documents.
        classes: class names, in the order of the network's outputs.
        optimizer: partial that takes parameter groups; None for a task that only predicts or tests.
        scheduler: partial that takes the optimizer; arguments that say `auto` are filled in (`total_steps`,
            `epochs`, `steps_per_epoch`, `max_lr`, `mode`).
        interval: 'epoch' or 'step': when the schedule moves.
        rates: learning rate by part of the model, see `parameter_groups`. A part with rate 0 is frozen: its weights
            stay, and its batch norm and dropout behave as in evaluation. The names in `parts` stand for their parts.
        preprocess: applied to every batch on the device; None where batches arrive normalised, in float.
        augment: applied to training batches on the device, before `preprocess`.
        monitor: the logged name that chooses the best checkpoint and steers a plateau schedule.
        metrics: further torchmetrics by name, see `metric_inputs` for what they are given.
        compile: compile the network in training (`torch.compile`); names in checkpoints stay.
        channels_last: let images and filters lie with their channels side by side, which is faster on GPUs.

    Raises:
        UserError: the options contradict each other.
    """

    pictured: str = ""
    """What the grid of predictions says below its title; empty: how many are right."""

    parts: dict[str, list[str]]
    """Where the network began with trained weights: its parts that were `loaded`, and those that are `new`."""

    learns: tuple[str, ...] = ()
    """What of a target it looks at; data that can give several kinds gives these, where its config says `auto`."""

    logged: tuple[str, ...] = ()
    """Names of what its own metrics compute, losses and scores of single classes apart."""

    pictured_at_once: int | None = None
    """How many random images the grid has at most, where each takes more room than one picture."""

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
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.classes = list(classes)
        self.optimizer, self.scheduler, self.rates = optimizer, scheduler, rates
        self.interval = one_of(interval, ("epoch", "step"), "scheduler.interval")
        self.preprocess, self.augment = preprocess, augment
        self.monitor = monitor
        self.extra_metrics = dict(metrics or {})
        self.compiled, self.channels_last = compile, channels_last
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.colours: dict[str, list[int]] = {}  # RGB of classes in pictures, by name, where the data says them
        self.provenance: dict[str, Any] = {}
        self.parts: dict[str, list[str]] = {}
        self.validated = False
        self.check_loss: Callable[[Tensor, Mapping[str, Tensor], Any], bool] | None = None  # see `callbacks.finite`
        self.share: Callable[[Step, int], Share] | None = None  # see `callbacks.together`

    # -- what a subclass says ------------------------------------------------------------------------------------------

    def make_metric(self, stage: str) -> Metric:
        """The stage's metric: `update(predictions, targets)`, and `compute()` gives a dict of scalars by name."""
        raise NotImplementedError

    def step(self, batch: Any, stage: str) -> Step:
        """Losses, predictions and targets of one batch."""
        raise NotImplementedError

    def predict(self, images: Any) -> list[Prediction]:
        """What the network sees in preprocessed images, one dict an image; in evaluation mode, without gradient."""
        raise NotImplementedError

    def averaging(self, name: str) -> str:  # noqa: ARG002 - a subclass knows its metrics
        """How the metric `name` is averaged, for the table of results; empty where there is nothing to say."""
        return ""

    def metric_inputs(self, predictions: Any, targets: Any) -> tuple[Any, Any]:
        """What further torchmetrics are given, of a step's predictions and targets."""
        return predictions, targets

    def forward(self, images: Any) -> Any:
        """The network's raw output."""
        return self.model(images)

    def configure_model(self) -> None:
        """Settle which weights train, and share them out where the strategy does; Lightning calls it for each stage.

        That is before several processes agree on gradients to wait for, which frozen weights have none of.
        """
        freeze(self.model, spelled(self.rates or {}, self.parts))
        if self._device_mesh is not None:
            if self.channels_last:
                raise UserError("trainer.strategy=fsdp does not go with task.channels_last=true: use trainer=ddp")
            shard(self.model, self._device_mesh["data_parallel"])

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
            images, target = self.augment(images, target, self.current_epoch, then=self.preprocess)
        elif self.preprocess is not None:
            listed = isinstance(images, list)
            images = [self.preprocess(image) for image in images] if listed else self.preprocess(images)
        first = images[0] if isinstance(images, list) else images
        if isinstance(first, Tensor) and not first.is_floating_point():
            raise UserError(
                f"images are {first.dtype}: give floating point, or give the task preprocess=Preprocess(...)"
            )
        if self.channels_last and first is images:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, target

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if device.type == "cpu":
            return batch  # Lightning would walk through all its parts
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # set by Lightning 40 times a step; a module's own way takes ten times as long
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return self._record(batch, "train", batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self._record(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self._record(batch, "test")

    def _record(self, batch: Any, stage: str, batch_idx: int = 0) -> Tensor | None:
        step = self.step(batch, stage)
        losses = list(step.losses.values())
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        parts = {f"loss_{name}": value.detach() for name, value in step.losses.items()} if len(losses) > 1 else {}
        if stage == "train" and self.check_loss is not None and not self.check_loss(total, parts, batch):
            return None  # Lightning then leaves the step out
        logged = {"loss": total.detach(), **parts}
        if stage == "train" and self.share is not None:
            share = self.share(step, batch_idx)
            logged, total = {name: value * share.logged for name, value in logged.items()}, total * share.gradient
            if not share.images:
                return total
        getattr(self, f"{stage}_losses").update(logged, len(batch[0]))
        if step.predictions is None:
            return total
        self.metric(stage).update(step.predictions, step.targets)
        if self.extra_metrics:
            getattr(self, f"{stage}_extra").update(*self.metric_inputs(step.predictions, step.targets))
        return total

    def on_fit_start(self) -> None:
        if self.compiled:
            self.model.compile()  # in place, so that the names of the weights stay

    def on_train_start(self) -> None:
        self._rest_frozen()  # a run that goes on in the middle of an epoch has no start of it

    def on_train_epoch_start(self) -> None:
        self._reset("train")
        self._rest_frozen()

    def _rest_frozen(self) -> None:
        for module in frozen_modules(self.model, spelled(self.rates or {}, self.parts)):
            module.eval()

    def on_validation_epoch_start(self) -> None:
        self._reset("val")

    def on_test_epoch_start(self) -> None:
        self._reset("test")

    def on_train_epoch_end(self) -> None:
        self._log("train")
        groups = self.trainer.optimizers[0].param_groups if self.trainer.optimizers else []
        names = ["lr"] if len(groups) == 1 else [f"lr/{group.get('name', i)}" for i, group in enumerate(groups)]
        self.log_dict({name: float(group["lr"]) for name, group in zip(names, groups, strict=True)})
        self._step_plateau()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:  # two batches of a sanity check are no result
            self._log("val")
            self.validated = True

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def _reset(self, stage: str) -> None:
        for part in ("losses", "metric", "extra"):
            getattr(self, f"{stage}_{part}").reset()

    def _log(self, stage: str) -> None:
        metric: Any = self.metric(stage)
        seen = metric.update_called  # else its steps gave losses alone
        values = {**getattr(self, f"{stage}_losses").compute(), **(metric.compute() if seen else {})}
        if self.extra_metrics and seen:
            further = getattr(self, f"{stage}_extra").compute()
            check_further(further, values)
            values |= further
        # the values are those of all devices already: torchmetrics gathered them
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, rank_zero_only=False)

    # -- optimizer -----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimizer over the model's parameter groups and, if there is one, its schedule."""
        if self.optimizer is None:
            raise UserError(
                f"{type(self).__name__} was built without an optimizer; give optimizer=partial(Adam, lr=...)"
            )
        optimizer = make_optimizer(self.model, self.optimizer, self.rates, self.parts)
        if self.scheduler is None:
            return optimizer
        facts = schedule_facts(self.trainer, mode_of(self.monitor))
        schedule = make_scheduler(self.scheduler, optimizer, facts)
        # Lightning would step a plateau schedule after the epoch's checkpoint, and not at all in a resumed epoch
        settings = {"scheduler": schedule, "interval": self.interval, "reduce_on_plateau": False}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            return
        try:
            super().lr_scheduler_step(scheduler, metric)
        except (ArithmeticError, ValueError) as error:
            what = f"{type(scheduler).__name__}: {type(error).__name__}: {error}"
            raise UserError(f"scheduler cannot be stepped ({what}): change scheduler.build") from error

    def _step_plateau(self) -> None:
        """Show a plateau schedule the monitored value, where this epoch has one."""
        fresh = self.validated or not self.monitor.startswith("val/")
        self.validated = False
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau) and fresh:
                config.scheduler.step(self.monitored())

    def monitored(self) -> float:
        """The newest value of the monitored name.

        Raises:
            UserError: nothing of that name is logged.
        """
        values = self.trainer.callback_metrics
        if self.monitor not in values:
            known = [name for name in values if "/" in name]
            raise UserError(f"task.monitor={self.monitor} is not logged: {nearest(self.monitor, known)}")
        return float(values[self.monitor])

    # -- the checkpoint's card -----------------------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """What a checkpoint says of itself besides weights: plain values only, so that `weights_only=True` loads it."""
        return {
            "format": 1,
            "task": type(self).__name__.lower(),
            "classes": self.classes,
            "colours": self.colours,
            "preprocess": self.preprocess.describe() if self.preprocess else None,
            **({"parts": self.parts} if self.parts else {}),
            **self.provenance,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lightbed"] = self.card()
