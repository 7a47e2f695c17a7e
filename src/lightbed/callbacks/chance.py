"""Dropout and the like as a function of the step."""

from typing import Any

from lightning.pytorch import Callback, Trainer

from lightbed.chance import derive, seed_all


class StepSeed(Callback):
    """Seeds all generators before each training step from (seed, step, process).

    So what a step draws does not depend on what was drawn before: a validation more or less, another number of
    workers, or a resume in the middle of an epoch change nothing.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        seed_all(derive(self.seed, "step", progress.processed, trainer.global_rank))
