"""curves.png at the end of a fit, also of one that failed or was interrupted."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightbed.folders import run_name
from lightbed.monitor import mode_of
from lightbed.runs.history import read_history


class Curves(Callback):
    """Draws loss and main metric over epochs, from metrics.csv, into `curves.png`; the task's best epoch is marked."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.draw(trainer, pl_module.monitor)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        self.draw(trainer, pl_module.monitor)

    def draw(self, trainer: Trainer, monitor: str) -> None:
        """Write the picture, if there is an epoch to draw."""
        from lightbed.draw.curves import curves
        from lightbed.draw.figure import pixels, save

        folder = Path(trainer.default_root_dir)
        rows = read_history(folder / "metrics.csv") if trainer.is_global_zero else []
        if rows:
            save(pixels(curves(rows, monitor, mode_of(monitor), run_name(folder))), folder / "curves.png")
