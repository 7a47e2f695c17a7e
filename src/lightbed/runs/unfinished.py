"""The metrics of an epoch that is not over: what a checkpoint in its middle must hold besides weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

States = dict[str, dict[str, Any]]


def metric_states(module: nn.Module) -> States:
    """The states of all metrics in `module` that have seen something, by name; tensors and lists of tensors, on the CPU."""
    found: States = {}
    for name, metric in _metrics(module):
        if metric.update_called:
            states = {key: _copied(getattr(metric, key)) for key in metric._defaults}
            plain = {key: getattr(metric, key) for key in getattr(metric, "carried", ())}
            found[name] = {"updates": metric._update_count, "states": states, "plain": plain}
    return found


def restore_metrics(module: nn.Module, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the states of `metric_states` back."""
    for name, metric in _metrics(module):
        if name in states:
            for key, value in states[name]["states"].items():
                moved = value.to(metric.device) if isinstance(value, Tensor) else [v.to(metric.device) for v in value]
                setattr(metric, key, moved)
            for key, value in states[name]["plain"].items():
                setattr(metric, key, value)
            metric._update_count, metric._computed = states[name]["updates"], None


def _metrics(module: nn.Module) -> Iterator[tuple[str, Metric]]:
    """All metrics in `module` with their names."""
    for part in module.modules():
        if isinstance(part, MetricCollection):
            part.items(keep_base=True)  # those that compute alike share one state; now each has a copy of it
    yield from ((name, part) for name, part in module.named_modules() if isinstance(part, Metric))


def _copied(value: Any) -> Any:
    parts = [value] if isinstance(value, Tensor) else value
    copies = [part.detach().to("cpu", copy=True) for part in parts]
    return copies[0] if isinstance(value, Tensor) else copies
