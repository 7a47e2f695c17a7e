"""The two checkpoints of a run: last.ckpt to go on from, to the same bits, and best.ckpt to use."""

import math
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from lightbed.errors import UserError
from lightbed.runs.checkpoint import check_readable, settle
from lightbed.runs.log import say
from lightbed.runs.results import near
from lightbed.runs.signals import Request, Stop
from lightbed.runs.unfinished import metric_memory, metric_states, restore_memory, restore_metrics

_GO_ON, _SAVE, _STOP = 0, 1, 2
_PATIENCE = 0.01  # share of an epoch that a run waits for the disk at its end
# What Lightning's counter of validation batches says in the middle of the first one: a resumed run validates anew
_BEGUN = {"ready": 1, "started": 1, "processed": 0, "completed": 0}


class Checkpoints(Checkpoint):
    """Writes checkpoints/last.ckpt, and checkpoints/best.ckpt when the monitored value is the best so far.

    A run that is resumed from last.ckpt goes on to the same bits. It is therefore written only at safe points: between
    two steps of the optimizer, never with gradients half accumulated, and before a validation or after it, never in
    between. At the first SIGTERM or Ctrl-C it is written at the next safe point, and the run ends.

    Lightning runs callbacks of this base class after all others, so their state is in the file.

    Args:
        monitor: logged name that is compared, after each validation.
        mode: 'max' or 'min'.
        every_n_epochs: how often last.ckpt is written; the last epoch always is.
        every_n_steps: also after so many steps of the optimizer; None: not.
        every_minutes: also after so many minutes; None: not.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        for name, value in (("n_epochs", every_n_epochs), ("n_steps", every_n_steps)):
            if value is not None and value < 1:
                raise UserError(f"callbacks.checkpoint.every_{name}={value} must be at least 1")
        if every_minutes is not None and not every_minutes > 0:
            raise UserError(f"callbacks.checkpoint.every_minutes={every_minutes} must be more than 0")
        self.monitor, self.mode, self.every_n_epochs = monitor, mode, every_n_epochs
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.validated = False
        self.request = Request()
        self.saved_step, self.saved_at = 0, 0.0  # of last.ckpt
        self.behind = False  # it lacks the last epoch
        self.validating = self.in_epoch = False  # what a checkpoint that is written now must say
        self.loaded: dict[str, Any] | None = None  # the position in the checkpoint that the run goes on from

    def path(self, trainer: Trainer, name: str) -> Path:
        """Where the checkpoint `name` of this run is."""
        return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"

    # -- when ----------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.loaded is not None:
            self._take_position(trainer, pl_module, self.loaded)
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()
        if not self.every_n_steps and not self.every_minutes and trainer.world_size == 1:
            self._wait_for_request()
        self.request.listen()  # after Lightning, whose own handler ends the run without a checkpoint

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        loop: Any = trainer.fit_loop.epoch_loop
        follows = loop._num_ready_batches_reached() or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        if not follows and not loop._should_accumulate():  # else Lightning would pass over what follows the batch
            self._look(trainer)

    def _wait_for_request(self) -> None:
        """Let Lightning pass over the ends of batches until there is a request; a call of each costs time."""
        hook = "on_train_batch_end"
        self.__dict__[hook] = None  # see `runs.overhead.skip_empty_hooks`
        self.request.noted = lambda: self.__dict__.pop(hook, None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        loop: Any = trainer.fit_loop.epoch_loop
        fitting = trainer.state.fn is TrainerFn.FITTING and not trainer.sanity_checking
        self.validating = fitting and not loop._should_accumulate()
        if self.validating:
            self._look(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # processes may have different numbers of batches, so several of them cannot agree here
        if self.validating and trainer.world_size == 1 and (self.request.number or self.every_minutes):
            self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.validated, self.validating = not trainer.sanity_checking, False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        complete_row(trainer)
        if self.validated and self._is_best(trainer):
            trainer.save_checkpoint(self.path(trainer, "best"))
        self.validated = False
        wanted = self._wanted(trainer)
        self.behind = (trainer.current_epoch + 1) % self.every_n_epochs != 0 and not wanted
        if not self.behind:
            self._save_last(trainer)
        self._stop_if(trainer, wanted)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.request.close()
        if self.behind:
            self._save_last(trainer)
        settle(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        self.request.close()

    def _wanted(self, trainer: Trainer) -> int:
        """Whether last.ckpt is due, and whether the run is to stop; all processes of a run come to the same answer."""
        steps = self.every_n_steps and trainer.global_step - self.saved_step >= self.every_n_steps
        minutes = self.every_minutes and time.monotonic() - self.saved_at >= 60 * self.every_minutes
        wanted = _STOP if self.request.number else _SAVE if steps or minutes else _GO_ON
        if trainer.world_size > 1:  # signals and clocks differ between processes
            told = torch.tensor(float(wanted), device=trainer.strategy.root_device)
            wanted = int(trainer.strategy.reduce(told, reduce_op="max"))
        return wanted

    def _look(self, trainer: Trainer) -> None:
        """At a safe point inside an epoch: write last.ckpt if it is due, and stop if that was asked for."""
        wanted = self._wanted(trainer)
        if wanted and self.saved_step < trainer.global_step:
            self.in_epoch = True
            self._save_last(trainer)
        self._stop_if(trainer, wanted)

    def _stop_if(self, trainer: Trainer, wanted: int) -> None:
        if wanted == _STOP:
            settle(trainer)
            folder = shlex.quote(str(near(Path(trainer.default_root_dir))))
            if trainer.is_global_zero:
                say(f"stopped after step {trainer.global_step:,}; it goes on with lightbed train resume={folder}")
            raise Stop(self.request.number or signal.SIGTERM)

    # -- what ----------------------------------------------------------------------------------------------------------

    def _save_last(self, trainer: Trainer) -> None:
        path = self.path(trainer, "last")
        first = not path.exists()
        trainer.save_checkpoint(path)
        # at the end of a short epoch the disk catches up while the next one begins: a kill then costs that epoch, too
        patience = None if first or self.in_epoch else _PATIENCE * (time.monotonic() - self.saved_at)
        settle(trainer, patience)
        self.in_epoch = False
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()
        if first and trainer.is_global_zero:
            check_readable(path)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states: list[Any] | None = None
        if self.in_epoch:
            states = [metric_states(pl_module)]
            if trainer.world_size > 1:
                states = [None] * trainer.world_size
                torch.distributed.all_gather_object(states, metric_states(pl_module))
        batches = trainer.num_training_batches
        checkpoint["position"] = {
            "processes": trainer.world_size,
            "batches": batches if math.isfinite(batches) else None,  # None, too, where nothing was trained
            "metrics": states,  # of each process
            "memory": metric_memory(pl_module),
            "validated": self.validated,  # in this epoch, before its end
            "values": {name: value.detach().cpu() for name, value in _values(trainer).items()},
        }
        if self.in_epoch and self.validating:
            loops = checkpoint["loops"]["fit_loop"]
            progress = loops["epoch_loop.val_loop.batch_progress"]
            loops["epoch_loop.val_loop.batch_progress"] = {**progress, "total": dict(_BEGUN), "current": dict(_BEGUN)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        if trainer.state.fn is TrainerFn.FITTING:
            self.loaded = checkpoint.get("position")

    def _take_position(self, trainer: Trainer, pl_module: LightningModule, position: dict[str, Any]) -> None:
        """Go on with the metrics of the unfinished epoch, if the epochs still have the same batches.

        Raises:
            UserError: they have not.
        """
        for name, now in (("processes", trainer.world_size), ("batches", trainer.num_training_batches)):
            if position[name] not in (None, now):
                where = "" if name == "processes" else " an epoch"
                raise UserError(
                    f"the run had {position[name]} {name}{where}, now there are {now}: it cannot go on to the same "
                    "result; give it the same devices and data, or begin a new run"
                )
        if position["metrics"] is not None:
            restore_metrics(pl_module, position["metrics"][trainer.global_rank])
        restore_memory(pl_module, position.get("memory", {}))
        # what a validation inside the epoch has found; checkpoints of before do not say it
        self.validated = pl_module.validated = position.get("validated", False)
        _values(trainer).update(position.get("values", {}))

    def _is_best(self, trainer: Trainer) -> bool:
        if self.monitor not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if "/" in name)
            raise UserError(f"task.monitor={self.monitor} is not logged; there is {', '.join(known)}")
        value = float(trainer.callback_metrics[self.monitor])
        if trainer.world_size > 1:  # a metric of one's own may not be the same everywhere, but all write or none
            value = trainer.strategy.broadcast(value)
        better = self.best is None or (value > self.best if self.mode == "max" else value < self.best)
        if better and value == value:  # NaN is never the best
            self.best, self.best_epoch = value, trainer.current_epoch
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]


def _values(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The newest logged values, which callbacks look at; nothing is computed for them."""
    return trainer._logger_connector._callback_metrics


def complete_row(trainer: Trainer) -> None:
    """Let the loggers have the epoch's values now, before the checkpoint says that the epoch is over.

    Lightning hands them over after it, so a run that is killed in between would never log them.
    """
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
    connector.on_epoch_end()
    loop._batches_that_stepped -= 1  # as Lightning does there
    connector.update_train_epoch_metrics()
    loop._batches_that_stepped += 1
