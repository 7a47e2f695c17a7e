"""A loss that is no number: named at its step, before it reaches the weights."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightbed.errors import RunError, one_of
from lightbed.runs.log import say
from lightbed.runs.record import writing
from lightbed.tasks.sharding import whole

_MOST = 10  # batches left out one after another


class Finite(Callback):
    """Looks at the loss of each training step before its gradients are computed, and at validation's.

    A validation loss that is no number is told once and stops nothing: no weights come from it, such an epoch is never
    the best one, and early stopping may end the run for it.

    The first batch whose loss is NaN or infinite is written to not_finite.pt in the run folder, as the network saw it,
    with the weights of that moment and the losses by name; `torch.load` reads it with `weights_only=True`.

    Args:
        nan: 'stop' ends the run at that step, before metrics, weights and checkpoints know of it; 'skip' leaves the
            batch out, and ends the run when ten of them follow each other; for a run in one process.
    """

    def __init__(self, nan: str = "stop") -> None:
        self.skips = one_of(nan, ("stop", "skip"), "trainer.nan") == "skip"
        self.in_a_row = 0
        self.saved = False  # the first such batch, of this run
        self.told = False  # of validation's loss
        self.buffers: list[tuple[Tensor, Tensor]] = []  # in place and as they were before the step

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.check_loss = partial(self.check, trainer, pl_module)  # type: ignore[assignment]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        pl_module.check_loss = None  # type: ignore[assignment]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if self.skips:  # a batch norm's statistics take in a batch before its loss is known
            self.buffers = [(buffer, buffer.clone()) for buffer in pl_module.model.buffers()]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        losses = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/loss")}
        wrong = [f"{name} is {value:g}" for name, value in losses.items() if not math.isfinite(value)]
        if wrong and not self.told and trainer.state.fn is TrainerFn.FITTING:
            self.told = True
            say(
                f"{', '.join(wrong)} after epoch {trainer.current_epoch + 1}, where the training losses are finite: "
                "the run goes on, and where such a value is monitored, the epoch is not its best; look for batch norm "
                "with few images, damaged validation images or a loss without any target"
            )

    def check(
        self, trainer: Trainer, task: LightningModule, total: Tensor, parts: Mapping[str, Tensor], batch: Any
    ) -> bool:
        """Whether the step may go on.

        Raises:
            RunError: the loss is not finite, and the run ends for it.
        """
        value = total.item()
        first = self._first(trainer, total, not math.isfinite(value))
        if first is None:
            self.in_a_row = 0
            return True
        losses = {"loss": value, **{name: part.item() for name, part in parts.items()}}
        if trainer.world_size > 1:  # all processes tell of the same
            losses = trainer.strategy.broadcast(losses, first)
        self._note(trainer, task, batch, losses, mine=first == trainer.global_rank)
        return False

    def _first(self, trainer: Trainer, total: Tensor, bad: bool) -> int | None:
        """The first process whose loss is no number, in which case all of them stop; None where there is none."""
        if trainer.world_size == 1:
            return 0 if bad else None
        told = torch.full_like(total.detach(), trainer.global_rank if bad else trainer.world_size, dtype=torch.int64)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MIN)
        found = int(told)
        return found if found < trainer.world_size else None

    def _note(
        self, trainer: Trainer, task: LightningModule, batch: Any, losses: dict[str, float], *, mine: bool
    ) -> None:
        """Count, save and tell of a step whose loss is no number.

        Raises:
            RunError: the run ends for it.
        """
        loop: Any = trainer.fit_loop.epoch_loop
        where = f"batch {loop.batch_idx + 1} of epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1:,}"
        wrong = {name: number for name, number in losses.items() if not math.isfinite(number)} or losses
        told_losses = ", ".join(f"{name} is {number:g}" for name, number in wrong.items())
        path, first = Path(trainer.default_root_dir) / "not_finite.pt", not self.saved
        state = whole(task.state_dict()) if first else {}
        if first and mine:
            self._save(path, trainer, state, batch, losses)
        self.saved = True
        self.in_a_row += 1
        if not self.skips or self.in_a_row >= _MOST:
            again = f" for the {_MOST}th batch one after another" if self.skips else ""
            how = "" if self.skips or trainer.world_size > 1 else ", or leave such batches out by trainer.nan=skip"
            error = RunError(
                f"{told_losses} in {where}{again}; the first such batch and the weights are in {path}: lower "
                f"optimizer.lr, or clip gradients by trainer.gradient_clip_val=1{how}"
            )
            error.agreed = trainer.world_size > 1
            raise error
        for buffer, before in self.buffers:
            buffer.copy_(before)
        say(f"left out, for its {told_losses}: {where}" + (f"; see {path}" if first else ""))

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self.in_a_row, "saved": self.saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.in_a_row, self.saved = state_dict["in_a_row"], state_dict["saved"]

    def _save(self, path: Path, trainer: Trainer, state: dict[str, Any], batch: Any, losses: dict[str, float]) -> None:
        images, target = batch
        content = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "losses": losses,
            "images": images,
            "target": target,
            "state_dict": state,
        }
        with writing(path):
            torch.save(content, path)
