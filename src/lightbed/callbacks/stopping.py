"""Early stopping that says what it does."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason

from lightbed.errors import UserError, nearest
from lightbed.runs.log import say


class Stopping(EarlyStopping):
    """Lightning's EarlyStopping, with faults told in one line, before training where they can be known.

    Args:
        monitor: logged name that must improve.
        options: Lightning's own: `mode`, `patience`, `min_delta`, `check_finite`.
    """

    def __init__(self, monitor: str, **options: Any) -> None:
        super().__init__(monitor, **options)
        if self.patience < 1:
            raise UserError(f"callbacks.early_stopping.patience={self.patience} must be at least 1")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.monitor.startswith("val/") and "val" not in getattr(data, "splits", {"val"}):
            raise UserError(
                f"callbacks.early_stopping.monitor={self.monitor}, but the data has no validation split: "
                "set data.val_fraction, or monitor a training value"
            )
        if self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True  # it had stopped before, and the run was resumed: Lightning would train on

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        reasons = {
            EarlyStoppingReason.PATIENCE_EXHAUSTED: f"has not improved on {float(self.best_score):.4f} "
            f"for {self.wait_count} validation{'s' * (self.wait_count != 1)}",
            EarlyStoppingReason.NON_FINITE_METRIC: "is not finite",
        }
        if self.stopping_reason in reasons and trainer.is_global_zero:
            say(f"stopped early: {self.monitor} {reasons[self.stopping_reason]}")

    def _validate_condition_metric(self, logs: dict[str, Any]) -> bool:
        if self.monitor not in logs:
            known = [name for name in logs if "/" in name]
            raise UserError(
                f"callbacks.early_stopping.monitor={self.monitor} is not logged: {nearest(self.monitor, known)}"
            )
        return True
