"""Parts of the network that begin to train later."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from lightbed.errors import UserError
from lightbed.runs.log import say
from lightbed.tasks.optim import part_of, spelled


class Unfreezing(Callback):
    """Freezes parts of the network until an epoch of their own (gradual unfreezing, Howard and Ruder 2018).

    What is frozen is a function of the epoch, so a run that is resumed has it right. A frozen part's weights stay, and
    its batch norm and dropout behave as in evaluation. The optimizer knows all parts from the start and passes over
    those that have no gradient.

    Args:
        parts: epoch (from 0) from which each part trains, e.g. `{"features.4": 2, "features": 5}`; a part is a prefix
            of parameter names at a dot, and the longest that fits counts; `loaded` is all that had trained weights.
    """

    def __init__(self, parts: Mapping[str, int]) -> None:
        self.parts = dict(parts)
        for name, epoch in self.parts.items():
            if not isinstance(epoch, int) or epoch < 0:
                raise UserError(f"callbacks.unfreezing.parts.{name}={epoch} must be an epoch, a whole number from 0")

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        model, strategy = pl_module.model, trainer.strategy
        rates = spelled(pl_module.rates or {}, pl_module.parts)
        names = [name for name, _ in model.named_parameters()]
        for part in spelled(self.parts, pl_module.parts):
            mine = [name for name in names if part_of(name, {part: 0.0})]
            if not mine:
                known = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
                raise UserError(f"callbacks.unfreezing.parts names {part}, but the model's parts are {known}")
            if any(rates.get(part_of(name, rates) or "") == 0 for name in mine):
                raise UserError(f"callbacks.unfreezing.parts.{part}: a rate of 0 in task.rates freezes it for good")
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise UserError(
                "callbacks.unfreezing on several devices needs trainer.strategy=ddp_find_unused_parameters_true"
            )

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._apply(pl_module, trainer.current_epoch)  # a run may go on in the middle of an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        self._apply(pl_module, epoch)
        new = [part for part, first in self.parts.items() if first == epoch and epoch > 0]
        if new and trainer.is_global_zero:
            say(f"epoch {epoch + 1}: {', '.join(new)} trains from now on")

    def _apply(self, task: Any, epoch: int) -> None:
        model = task.model
        first = spelled({part: float(number) for part, number in self.parts.items()}, task.parts)
        for name, parameter in model.named_parameters():
            if (part := part_of(name, first)) is not None:
                parameter.requires_grad_(epoch >= first[part])
        for name, module in model.named_modules():
            if (part := part_of(name, first)) is not None:
                module.training = epoch >= first[part]
