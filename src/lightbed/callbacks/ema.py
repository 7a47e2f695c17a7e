"""The exponential moving average of the weights."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightbed.errors import UserError


class Ema(Callback):
    """Keeps a moving average of the network's weights, which is what is validated, saved as the model, and tested.

    After each step of the optimizer: average = decay * average + (1 - decay) * weights (Polyak and Juditsky 1992 with
    the exponential form that Tan and Le 2019, section 5, trained with). Batch norm's statistics are averaged as well.
    A checkpoint's `state_dict` is the average; the weights that training goes on with are beside it, in `trained`.

    Args:
        decay: share of the average that stays, in 0..1; 0.999 looks back over some 1,000 steps.
        every_n_steps: steps of the optimizer between two updates.
        warmup: begin with less memory, (1 + n) / (10 + n) after n updates, until that reaches `decay`; without it a
            short run's average is mostly its initial weights.
    """

    def __init__(self, decay: float = 0.999, every_n_steps: int = 1, warmup: bool = True) -> None:
        if not 0 < decay < 1:
            raise UserError(f"callbacks.ema.decay={decay} must lie between 0 and 1")
        if every_n_steps < 1:
            raise UserError(f"callbacks.ema.every_n_steps={every_n_steps} must be at least 1")
        self.decay, self.every_n_steps, self.warmup = decay, every_n_steps, warmup
        self.average: dict[str, Tensor] = {}
        self.step = 0
        self.swapped = False  # the network has the average, and `average` holds its weights

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        found = pl_module.model.state_dict()
        kept = self.average or {name: tensor.clone() for name, tensor in found.items()}
        self.average = {name: tensor.to(found[name].device) for name, tensor in kept.items()}
        self.step, self.swapped = trainer.global_step, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step or trainer.global_step % self.every_n_steps:
            return
        self.step = trainer.global_step
        count = self.step // self.every_n_steps
        self._update(pl_module.model, min(self.decay, (1 + count) / (10 + count)) if self.warmup else self.decay)

    @torch.no_grad()
    def _update(self, model: nn.Module, decay: float) -> None:
        found = model.state_dict()
        moving = [name for name, tensor in found.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in moving], [found[name] for name in moving], 1 - decay)
        for name in found.keys() - set(moving):  # counters
            self.average[name].copy_(found[name])

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        found = model.state_dict()
        weights = {name: tensor.clone() for name, tensor in found.items()}  # all of them: some may share their memory
        for name, tensor in found.items():
            tensor.copy_(self.average[name])
            self.average[name] = weights[name]
        self.swapped = not self.swapped

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn is TrainerFn.FITTING and self.average:
            if trainer.world_size > 1:  # each process has statistics of its own, and a checkpoint those of the first
                for name, _ in pl_module.model.named_buffers():
                    if name in self.average:
                        torch.distributed.broadcast(self.average[name], 0)
            self._swap(pl_module.model)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.swapped and trainer.state.fn is TrainerFn.FITTING:
            self._swap(pl_module.model)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        self._swap(pl_module.model)  # to be tested, also where no checkpoint is loaded for it

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        held = {f"model.{name}": tensor for name, tensor in self.average.items()}
        state = checkpoint["state_dict"]
        checkpoint["trained"] = held if self.swapped else {name: state[name] for name in held}
        if not self.swapped:
            checkpoint["state_dict"] = state | held

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn is not TrainerFn.FITTING or "trained" not in checkpoint:
            return  # the network has the average by now, which is to be tested
        state = checkpoint["state_dict"]
        self.average = {name.removeprefix("model."): state[name].clone() for name in checkpoint["trained"]}
        pl_module.load_state_dict(checkpoint["trained"], strict=False)
