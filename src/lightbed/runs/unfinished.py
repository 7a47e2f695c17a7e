"""The metrics of an epoch that is not over: what a checkpoint in its middle must hold besides weights."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

_BEGUN_ANEW = ("val_", "test_")  # a resumed run's validation and test are whole ones

States = dict[str, dict[str, Any]]


def metric_states(task: nn.Module) -> States:
    """The states of the task's training metrics that have seen something, by name, on the CPU."""
    found: States = {}
    for name, metric in _metrics(task):
        if metric.update_called:
            states = {key: _copied(getattr(metric, key), torch.device("cpu")) for key in metric._defaults}
            plain = {key: getattr(metric, key) for key in getattr(metric, "carried", ())}
            found[name] = {"updates": metric._update_count, "states": states, "plain": plain}
    return found


def restore_metrics(task: nn.Module, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the states of `metric_states` back."""
    for name, metric in _metrics(task):
        if name in states:
            for key, value in states[name]["states"].items():
                setattr(metric, key, _copied(value, metric.device))
            for key, value in states[name]["plain"].items():
                setattr(metric, key, value)
            metric._update_count, metric._computed = states[name]["updates"], None


def metric_memory(task: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What metrics of all stages remember beyond an epoch in attributes that are no states, as MinMaxMetric does."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, part in task.named_modules():
        if isinstance(part, Metric):
            own = {key: value for key, value in vars(part).items() if isinstance(value, Tensor)}
            kept = {key: value for key, value in own.items() if key not in part._defaults and key[0] != "_"}
            if kept:
                found[name] = {key: _copied(value, torch.device("cpu")) for key, value in kept.items()}
    return found


def restore_memory(task: nn.Module, memory: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put what `metric_memory` found back."""
    for name, part in task.named_modules():
        for key, value in memory.get(name, {}).items():
            setattr(part, key, _copied(value, getattr(part, key).device))


def _metrics(task: nn.Module) -> Iterator[tuple[str, Metric]]:
    for part in task.modules():
        if isinstance(part, MetricCollection):
            part.items(keep_base=True)  # those that compute alike share one state; now each has a copy of it
    for name, part in task.named_modules():
        if isinstance(part, Metric) and not name.startswith(_BEGUN_ANEW):
            yield name, part


def _copied(value: Any, device: torch.device) -> Any:
    """A copy of a state: a tensor, or a list of tensors and plain values."""
    if isinstance(value, list):
        return [_copied(item, device) for item in value]
    return value.detach().to(device, copy=True) if isinstance(value, Tensor) else value
