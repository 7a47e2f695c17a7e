"""One progress bar for the stage that runs, and one line for each epoch."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

from lightbed.runs.log import say

_SHOWN = ("loss", "accuracy", "iou", "pixel_accuracy", "map")  # of the many metrics, those on an epoch's line


class Progress(ProgressBar):
    """A bar while a stage runs and a line an epoch with its losses, main metric, learning rate and seconds.

    The bar is drawn by time, not by batch, and reads the loss only then: on the small networks that this framework
    trains in seconds, a bar that is touched every step costs a third of the epoch.

    Args:
        every_seconds: how often the bar is drawn; 0 turns it off. Off, too, where the output is no terminal.
    """

    def __init__(self, every_seconds: float = 0.2) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.console = Console()
        self.bar: Bar | None = None
        self.enabled = every_seconds > 0 and self.console.is_terminal
        self.due = self.started = 0.0

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    # -- stages --------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.started = time.monotonic()
        self._open(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", trainer.num_training_batches)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if self.bar is not None and time.monotonic() >= self.due:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self._draw(batch_idx + 1, f"loss {float(loss):.4f}" if isinstance(loss, torch.Tensor) else "")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if not trainer.sanity_checking:
            self._open("validation", sum(trainer.num_val_batches))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._open("test", sum(trainer.num_test_batches))

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:  # noqa: ARG002, E501
        self._step(batch_idx)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:  # noqa: ARG002, E501
        self._step(batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._close()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        self._close()

    def epoch_line(self, epoch: int, epochs: int | None, metrics: dict[str, float]) -> None:
        """Print an epoch's line; called when its row of metrics is complete."""
        self._close()
        width = len(str(epochs))
        shown = [
            name for name in metrics if name.partition("/")[2] in _SHOWN and name.split("/")[0] in ("train", "val")
        ]
        values = "  ".join(f"{name} {metrics[name]:.4f}" for name in sorted(shown))
        say(f"epoch {epoch + 1:>{width}}/{epochs}  {values}  {time.monotonic() - self.started:.1f} s")

    # -- the bar -------------------------------------------------------------------------------------------------------

    def _open(self, text: str, total: int | float) -> None:
        self._close()
        if not self.enabled:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bar(
            *columns, TextColumn("{task.fields[loss]}"), console=self.console, transient=True, auto_refresh=False
        )
        self.bar.add_task(text, total=total if total != float("inf") else None, loss="")
        self.bar.start()
        self.due = time.monotonic() + self.every_seconds

    def _step(self, batch_idx: int) -> None:
        if self.bar is not None and time.monotonic() >= self.due:
            self._draw(batch_idx + 1, "")

    def _draw(self, done: int, loss: str) -> None:
        assert self.bar is not None
        self.bar.update(self.bar.task_ids[0], completed=done, loss=loss)
        self.bar.refresh()
        self.due = time.monotonic() + self.every_seconds

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
