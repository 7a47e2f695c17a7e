"""A search's trial tells its curve, and ends early where it is behind."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightbed.errors import Pruned
from lightbed.runs.history import History, Row

if TYPE_CHECKING:
    from optuna.trial import Trial


class Pruning(Callback):
    """Reports each epoch's monitored value to the study of the sweep, and ends the run where its pruner says so.

    A run that is repeated elsewhere, or goes on when its trial is over, is left alone.

    Args:
        trial: number of the trial.
        monitor: logged name of the value.
    """

    def __init__(self, trial: int, monitor: str) -> None:
        self.number, self.monitor = trial, monitor
        self.trial: Trial | None = None
        self.told: set[int] = set()
        self.behind = ""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        for logger in trainer.loggers:
            if isinstance(logger, History) and trainer.is_global_zero:
                self.trial = open_trial(Path(trainer.default_root_dir).parent, self.number)
                if self.trial is not None:  # it may go on, with epochs that are told already
                    self.told = set(self.trial.study.trials[self.number].intermediate_values)
                logger.listeners.append(self.report)

    def report(self, row: Row) -> None:
        """Tell the study an epoch's value, and ask whether to go on."""
        epoch = int(row["epoch"])
        if self.trial is None or self.monitor not in row or epoch in self.told:
            return
        self.told.add(epoch)
        self.trial.report(row[self.monitor], epoch)
        if self.trial.should_prune():
            self.behind = f"{self.monitor} {row[self.monitor]:.4f} after epoch {epoch + 1} is behind other trials"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        # by now the epoch before is written, and all processes are at the same place
        behind: Any = trainer.strategy.broadcast(self.behind) if trainer.world_size > 1 else self.behind
        if behind:
            raise Pruned(behind)


def open_trial(sweep: Path, number: int) -> "Trial | None":
    """The trial of a run in this sweep's folder; None where it is over, or there is no search."""
    from lightbed.sweeps.search import STUDY, running_trial

    return running_trial(sweep, number) if (sweep / STUDY).is_file() else None
