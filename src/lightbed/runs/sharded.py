"""`trainer=fsdp`: the network's weights shared out among processes, and checkpoints that are one file all the same."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from lightbed.callbacks.ema import Ema
from lightbed.callbacks.unfreezing import Unfreezing
from lightbed.errors import UserError
from lightbed.runs.checkpoint import read_checkpoint

_MIXED = "mixed torch.Tensor and DTensor"  # what torch says of weights that are used while they are shared out
_REFUSED = {Ema: "ema, whose average is not shared out", Unfreezing: "unfreezing, whose parts are decided once"}


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for torch's FSDP2, over all processes.

    Lightning's FSDPStrategy is for FSDP1, which flattens the weights of a part into one: they lose the names by which
    `task.rates` and checkpoints go. Weights, and what the optimizer keeps of each, are put together for a checkpoint,
    which is therefore the one file that any other run leaves: it is tested, served and begun with like those.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Set up for a stage.

        Raises:
            UserError: a part of the run does not go with weights that are shared out.
        """
        for kind, what in _REFUSED.items():
            if any(isinstance(callback, kind) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                raise UserError(f"trainer.strategy=fsdp does not go with callbacks.{what}: use trainer=ddp")
        super().setup(trainer)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of the whole optimizer by names of weights, on the first process; all must call it."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        inner: Any = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self.model, inner, options=options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Load a checkpoint, of which each process takes its shares; gives what else is in it."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        content = read_checkpoint(Path(checkpoint_path))
        options = StateDictOptions(full_state_dict=True)
        task = self.lightning_module
        assert task is not None
        assert self.model is not None
        set_model_state_dict(self.model, content["state_dict"], options=options)
        if task.trainer.state.fn is TrainerFn.FITTING:
            for optimizer, state in zip(self.optimizers, content["optimizer_states"], strict=True):
                set_optimizer_state_dict(self.model, optimizer, state, options=options)
        return content


def make_strategy(name: Any) -> Any:
    """The strategy that `trainer.strategy` names, where it is not one that Lightning knows by this name."""
    return Sharded() if name == "fsdp" else name


@contextmanager
def told(config: Mapping[str, Any]) -> Iterator[None]:
    """Say in one line that a network cannot be shared out.

    Raises:
        UserError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if _MIXED not in str(error):
            raise
        raise UserError(
            f"model._target_={config['model'].get('_target_')} uses its weights past the forward of its parts, so "
            "trainer.strategy=fsdp cannot share them out: use trainer=ddp"
        ) from error
