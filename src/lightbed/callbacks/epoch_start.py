"""Where the running epoch began, for a run that may have to begin it again."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightbed.runs.checkpoint import settle


class EpochStart(Checkpoint):
    """Keeps checkpoints/epoch.ckpt, the state after the last whole epoch, while a fit goes on.

    A checkpoint that was written after a whole epoch is read as one of epochs with as many batches as they have now:
    its counters are those of an epoch's end, whatever the batch size is.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        trainer.save_checkpoint(self._path(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        settle(trainer)
        self._path(trainer).unlink(missing_ok=True)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if not progress["is_last_batch"]:
            return
        then, now = progress["current"]["processed"], data.training_batches()
        for counters in (progress["total"], progress["current"]):
            for name, count in counters.items():
                counters[name] = count // then * now
        if "position" in checkpoint:
            checkpoint["position"]["batches"] = now

    def _path(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / "epoch.ckpt"
