"""The two checkpoints of a run: last.ckpt to go on from, best.ckpt to use."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightbed.errors import UserError


class Checkpoints(Checkpoint):
    """Writes checkpoints/last.ckpt after epochs, and checkpoints/best.ckpt when the monitored value is the best so far.

    Lightning runs callbacks of this base class after all others, so their state of the epoch is in the file.

    Args:
        monitor: logged name that is compared, after each validation.
        mode: 'max' or 'min'.
        every_n_epochs: how often last.ckpt is written; the last epoch always is.
    """

    def __init__(self, monitor: str, mode: str, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise UserError(f"callbacks.checkpoint.every_n_epochs={every_n_epochs} must be at least 1")
        self.monitor, self.mode, self.every_n_epochs = monitor, mode, every_n_epochs
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.validated = False
        self.saved_step: int | None = None  # in last.ckpt

    def path(self, trainer: Trainer, name: str) -> Path:
        """Where the checkpoint `name` of this run is."""
        return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.validated and self._is_best(trainer):
            trainer.save_checkpoint(self.path(trainer, "best"))
        self.validated = False
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            trainer.save_checkpoint(self.path(trainer, "last"))
            self.saved_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        # early stopping or every_n_epochs may have left the last epoch unwritten
        if self.saved_step != trainer.global_step:
            trainer.save_checkpoint(self.path(trainer, "last"))

    def _is_best(self, trainer: Trainer) -> bool:
        if self.monitor not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if "/" in name)
            raise UserError(f"task.monitor={self.monitor} is not logged; there is {', '.join(known)}")
        value = float(trainer.callback_metrics[self.monitor])
        better = self.best is None or (value > self.best if self.mode == "max" else value < self.best)
        if better and value == value:  # NaN is never the best
            self.best, self.best_epoch = value, trainer.current_epoch
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]
