"""A network whose weights several processes share (FSDP2: Zhao et al. 2023, arXiv:2304.11277, a weight at a time)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

LEAST = 1_000_000  # weights of a part that is gathered and let go by itself; small ones would wait for each other
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # whose parts may be called one by one, past the container


def shard(model: nn.Module, mesh: "DeviceMesh", least: int = LEAST) -> None:
    """Let each process of `mesh` keep its share of each weight, of its gradient and of what the optimizer adds.

    A part of the network that has parts itself, no container, and at least `least` weights which no part inside it has
    taken, is gathered when it is called and let go afterwards; the rest is gathered with the whole network. A layer
    alone is not, for networks also use weights past it, as attention does.
    """
    from torch.distributed.fsdp import fully_shard

    if is_sharded(model):
        return  # by the fit before a test
    for part in reversed(list(model.modules())):  # inner ones first
        has_parts = next(part.children(), None) is not None
        own = sum(parameter.numel() for parameter in part.parameters() if not _shared(parameter))
        if part is not model and has_parts and not isinstance(part, _CONTAINERS) and own >= least:
            fully_shard(part, mesh=mesh)
    # let go after each forward, too: what is loaded after a first look at the layers would not be seen otherwise
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether all processes must take part when the network is used."""
    return any(_shared(parameter) for parameter in model.parameters())


def whole(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with each shared tensor put together again; all processes must call it."""
    return {name: value.full_tensor() if _shared(value) else value for name, value in state.items()}


def _shared(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")  # a DTensor, without importing its module
