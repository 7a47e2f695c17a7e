"""A run cut short that still meets all that a whole one meets, and what its steps take."""

import os
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

_LEAST, _MOST = 3, 30  # training steps an epoch
_SECONDS = 2.0  # in which more than the least are taken
_PATIENCE = 15.0  # seconds after which two steps are enough, and one epoch
_EVALUATED, _IMAGES = 3, 64  # batches of validation and test, fewer where they are of many images
_STAGES = {"train": "in the training", "val": "in the validation", "test": "in the test"}


class Probe(Callback):
    """Ends epochs after a few batches and the fit after one or two epochs, and measures what they take.

    Schedules, order and monitored names stay those of the whole run: it is `limit_train_batches` of an epoch that has
    begun that changes, so that epoch ends as its last batch would end it.

    Args:
        tell: is told a label and a line of text at the end of each stage.
    """

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self.tell = tell
        self.doing = "at the start of the training"  # for who asks what has failed
        self.batches: dict[str, int] = {}  # of each split, as many as a whole epoch of the run has
        self.marks: dict[str, list[list[float]]] = {name: [] for name in _STAGES}  # when batches began and ended
        self.losses: list[float] = []
        self.closed = 0.0  # when an epoch was over
        self.begun = time.monotonic()
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # of the machine, before these steps
        self.epochs, self.every = 0, 1  # of the run, and between two validations

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.epochs = trainer.max_epochs or 0
        for split in ("val", "test"):
            limit = getattr(trainer, f"limit_{split}_batches")
            if split not in data.splits or split in self.batches or not limit:
                continue
            whole = len(data.eval_loader(split))
            self.batches[split] = min(whole, limit) if isinstance(limit, int) else int(whole * limit)
            # where the share of a run is no batch at all, Lightning shall say so as it would there
            few = max(1, min(_EVALUATED, _IMAGES // data.eval_batch_size))
            setattr(trainer, f"limit_{split}_batches", min(self.batches[split], few) or limit)
        if stage == "fit":
            self.every = trainer.check_val_every_n_epoch or 1
            if self.every <= self.epochs or self.epochs == -1:  # else the run has no validation
                trainer.check_val_every_n_epoch = 1
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None

    # -- training ------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.closed = self._now()
        self.batches.setdefault("train", int(trainer.num_training_batches))
        self.doing = _STAGES["train"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if batch_idx == 0:
            self.marks["train"].append([self._now()])
        spent = time.monotonic() - self.marks["train"][-1][0]
        count = batch_idx + 1
        enough = count >= (_LEAST if trainer.world_size > 1 else _MOST)  # processes must agree, and clocks do not
        if trainer.world_size == 1:
            enough |= (count >= _LEAST and spent > _SECONDS) or (count >= _LEAST - 1 and spent > _PATIENCE)
        if enough and count < trainer.num_training_batches:
            # as if the configuration had said so, for all that looks at it: accumulation, validation, schedule, order
            trainer.limit_train_batches = trainer.fit_loop.max_batches = trainer.val_check_batch = count

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        self.marks["train"][-1].append(self._now())
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self.losses.append(float(loss))
        if batch_idx + 1 < trainer.num_training_batches:
            return
        self.doing = "at the end of an epoch"
        if trainer.current_epoch == 0:
            text = f"{batch_idx + 1} of {self.batches['train']:,} steps of an epoch"
            if self.losses:
                text += f", loss {self.losses[0]:.4g} at first and {self.losses[-1]:.4g} at last"
            self.tell("training", text)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.current_epoch or time.monotonic() - self.begun > _PATIENCE:
            trainer.should_stop = True
        self.doing = "at the end of an epoch, where checkpoints are saved"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.closed = self._now()

    # -- validation and test -------------------------------------------------------------------------------------------

    def on_validation_batch_start(self, *args: Any, **_: Any) -> None:
        self._begin("val", args[3])

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.marks["val"][-1].append(self._now())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if len(self.marks["val"]) == 1:
            self._evaluated(trainer, "val")
        self.doing = "at the end of the validation"

    def on_test_batch_start(self, *args: Any, **_: Any) -> None:
        self._begin("test", args[3])

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self.marks["test"][-1].append(self._now())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._evaluated(trainer, "test")
        self.doing = "at the end of the test, where pictures are drawn"

    def _begin(self, stage: str, batch_idx: int) -> None:
        if batch_idx == 0:
            self.marks[stage].append([self._now()])
            self.doing = _STAGES[stage]

    def _evaluated(self, trainer: Trainer, stage: str) -> None:
        logged = [name.split("/") for name in trainer.callback_metrics]
        names = [parts[1] for parts in logged if parts[0] == stage and len(parts) == 2]  # those of classes apart
        count = len(self.marks[stage][-1]) - 1
        self.tell(
            "validation" if stage == "val" else stage,
            f"{count} of {self.batches[stage]:,} batches, logs {', '.join(names) or 'nothing'}",
        )

    # -- what was measured ---------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Training steps that were taken."""
        return sum(len(marks) - 1 for marks in self.marks["train"])

    def pace(self, stage: str) -> float:
        """Seconds a batch, reading included; the first of each epoch only counts where there is no other."""
        warm = [end - start for marks in self.marks[stage] for start, end in pairwise(marks[1:])]
        cold = [end - start for marks in self.marks[stage][-1:] for start, end in pairwise(marks)]
        measured = warm or cold
        return sum(measured) / len(measured) if measured else 0.0

    def seconds(self, epochs: int, *, settles: bool) -> tuple[float, float]:
        """Seconds of a whole epoch with its validation, and of so many epochs with the test.

        Args:
            epochs: of the run.
            settles: whether the time before a validation is spent on the training images, see `Detector.settle`.
        """
        test = self.batches.get("test", 0) * self.pace("test")
        if not self.marks["train"]:
            return 0.0, test
        train = self.batches["train"] * self.pace("train")
        last, rest, val = self.marks["train"][-1], 0.0, 0.0
        seen = next((marks for marks in reversed(self.marks["val"]) if last[-1] <= marks[0] <= self.closed), None)
        if seen is None:
            rest = self.closed - last[-1]
        else:
            before = seen[0] - last[-1]
            share = self.batches["train"] / (len(last) - 1) if settles else 1.0
            val = before * share + self.batches["val"] * self.pace("val")
            rest = self.closed - seen[-1]
        whole = epochs * (train + rest) + epochs // self.every * val
        return train + rest + val, whole + test

    def _now(self) -> float:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        return time.monotonic()
