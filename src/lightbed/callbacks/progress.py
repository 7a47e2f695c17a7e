"""One progress bar for the stage that runs, and one line for each epoch."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lightbed.runs.log import say

_SHOWN = (
    "loss",
    "accuracy",
    "iou",
    "pixel_accuracy",
    "map",
)  # of the many metrics, those on an epoch's line, in this order


class Progress(ProgressBar):
    """A bar while a stage runs, and a line an epoch with its losses, main metric and seconds.

    The bar is drawn by time, not by batch, and reads the loss only then: on the small networks that this framework
    trains in seconds, a bar that is touched every step costs a third of the epoch. A stage that ends before the bar is
    due has none.

    Args:
        every_seconds: how often the bar is drawn; 0 turns it off. Off, too, where the output is no terminal.
    """

    def __init__(self, every_seconds: float = 0.2) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.console = Console()
        self.bar: Bar | None = None
        self.text, self.total = "", 0.0
        self.running = False
        self.enabled = every_seconds > 0 and self.console.is_terminal
        self.due = 0.0

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    # -- stages --------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a resumed run may be in the middle of an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._open(_count(trainer.current_epoch, trainer.max_epochs), trainer.num_training_batches)

    def on_train_batch_end(self, *args: Any, **_: Any) -> None:
        if self.running and time.monotonic() >= self.due:
            _, _, outputs, _, batch_idx = args
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self._draw(batch_idx + 1, f"loss {float(loss):.4f}" if isinstance(loss, torch.Tensor) else "")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if not trainer.sanity_checking:
            self._open("validation", sum(trainer.num_val_batches))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._open("test", sum(trainer.num_test_batches))

    def on_validation_batch_end(self, *args: Any, **_: Any) -> None:
        self._step(args[4])  # trainer, module, outputs, batch, number of the batch

    def on_test_batch_end(self, *args: Any, **_: Any) -> None:
        self._step(args[4])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._close()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._close()  # where no history prints a line for each epoch

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        self._close()

    def epoch_line(self, row: dict[str, float], epochs: int | None, *, best: bool) -> None:
        """Print the line of a complete row of the history.

        Args:
            row: see `runs.history`.
            epochs: how many there will be; None or -1 where that is open.
            best: whether the row's monitored value is the best so far.
        """
        self._close()
        names = [f"{stage}/{name}" for stage in ("train", "val") for name in _SHOWN]
        values = [f"{name} {row[name]:.4f}" for name in names if name in row]
        line = [_count(int(row["epoch"]), epochs), *values, _time(row["seconds"]), *(["best"] if best else [])]
        say("  ".join(line))

    # -- the bar -------------------------------------------------------------------------------------------------------

    def _open(self, text: str, total: float) -> None:
        self._close()
        self.text, self.total, self.running = text, total, self.enabled
        self.due = time.monotonic() + self.every_seconds

    def _step(self, batch_idx: int) -> None:
        if self.running and time.monotonic() >= self.due:
            self._draw(batch_idx + 1, "")

    def _draw(self, done: int, loss: str) -> None:
        if self.bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Bar(
                *columns, TextColumn("{task.fields[loss]}"), console=self.console, transient=True, auto_refresh=False
            )
            self.bar.add_task(self.text, total=self.total if self.total != float("inf") else None, loss="")
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=done, loss=loss, refresh=True)
        self.due = time.monotonic() + self.every_seconds

    def _close(self) -> None:
        self.running = False
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _time(seconds: float) -> str:
    """`4.2 s`, or from six seconds on `0.70 min`."""
    return f"{seconds:.1f} s" if seconds < 5.95 else f"{seconds / 60:.2f} min"


def _count(epoch: int, epochs: int | None) -> str:
    """`epoch  3/15`, counted from 1."""
    if epochs is None or epochs < 0:
        return f"epoch {epoch + 1}"
    return f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
