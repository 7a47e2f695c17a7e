"""Optimizer and scheduler from partials, with learning rates by part of the model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightbed.errors import UserError

OptimizerPartial = Callable[..., Optimizer]


def parameter_groups(model: nn.Module, rates: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """Parameter groups of `model`: one for each name in `rates` (with its own lr), one for the rest.

    Args:
        model: the network.
        rates: learning rate by part, e.g. `{"features": 0.001, "head": 0.1}`; a part is a prefix of parameter names
            at a dot, so "layer4.0" is one too. A rate of 0 freezes the part's weights.

    Raises:
        UserError: a name fits no part of the model.
    """
    rates = rates or {}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    rest = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        fitting = [part for part in rates if name == part or name.startswith(part + ".")]
        # the longest prefix is the most specific
        (groups[max(fitting, key=len)] if fitting else rest).append(parameter)
    unknown = [name for name, members in groups.items() if not members]
    if unknown:
        parts = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        raise UserError(f"task.rates names {unknown}, but the model's trainable parts are {parts}")
    named = [{"params": members, "lr": rates[name], "name": name} for name, members in groups.items()]
    return named + ([{"params": rest, "name": "rest" if rates else "all"}] if rest else [])


def fill(scheduler: "partial[Any]", facts: Mapping[str, Any]) -> "partial[Any]":
    """The scheduler partial with each argument that says `auto` replaced by the run's own number.

    Raises:
        UserError: an argument says `auto` but is not one of `facts`.
    """
    filled = {}
    for name, value in scheduler.keywords.items():
        if isinstance(value, str) and value.split(":")[0] == "auto":
            fact = value.partition(":")[2] or name
            if fact not in facts:
                raise UserError(f"scheduler.{name}={value}: the run knows {sorted(facts)} by itself, not {fact}")
            filled[name] = facts[fact]
    return partial(scheduler.func, *scheduler.args, **(scheduler.keywords | filled))


def mode_of(name: str) -> str:
    """Whether a logged value is better high ('max') or low ('min'), by its name: losses are better low."""
    return "min" if "loss" in name.partition("/")[2] else "max"
