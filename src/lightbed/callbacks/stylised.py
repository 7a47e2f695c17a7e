"""Pictures of an image while it is being stylised."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightbed.draw.figure import save
from lightbed.draw.panel import as_pixels
from lightbed.errors import UserError


class Stylised(Callback):
    """Writes pictures/stylised_NNNNN.png (NNNNN: steps so far) after epochs; TensorBoard has them in one strip.

    Args:
        every_n_epochs: how often; the last one always is written, as pictures/stylised.png.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise UserError(f"callbacks.stylised.every_n_epochs={every_n_epochs} must be at least 1")
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._write(trainer, pl_module, f"stylised_{trainer.global_step:05}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._write(trainer, pl_module, "stylised")

    def _write(self, trainer: Trainer, task: Any, name: str) -> None:
        image = as_pixels(task.stylised())
        save(image, Path(trainer.default_root_dir) / "pictures" / f"{name}.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_picture"):
                logger.log_picture("stylised", torch.from_numpy(image), trainer.global_step)
