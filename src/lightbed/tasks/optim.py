"""Optimizer and scheduler from partials, with learning rates by part of the model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightbed.errors import UserError

OptimizerPartial = Callable[..., Optimizer]
Rates = Mapping[str, float]


def part_of(name: str, rates: Rates) -> str | None:
    """The entry of `rates` that rules the parameter or module `name`: the longest prefix that ends at a dot."""
    fitting = [part for part in rates if name == part or name.startswith(part + ".")]
    return max(fitting, key=len, default=None)


def parameter_groups(model: nn.Module, rates: Rates | None) -> list[dict[str, Any]]:
    """Parameter groups of `model`: one for each name in `rates` (with its own lr), one for the rest.

    Args:
        model: the network.
        rates: learning rate by part, e.g. `{"features": 0.001, "head": 0.1}`; a part is a prefix of parameter names
            at a dot, so "layer4.0" is one too, and the longest that fits counts. Parts with rate 0 are left out.

    Raises:
        UserError: a name fits no part of the model, a rate is negative, or nothing is left to train.
    """
    rates = rates or {}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        part = part_of(name, rates)
        if parameter.requires_grad or (part and rates[part] == 0):
            (rest if part is None else groups[part]).append(parameter)
    unknown = [name for name, members in groups.items() if not members]
    if unknown:
        parts = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        raise UserError(f"task.rates names {unknown}, but the model's trainable parts are {parts}")
    negative = [name for name, rate in rates.items() if not rate >= 0]
    if negative:
        raise UserError(f"task.rates.{negative[0]}={rates[negative[0]]} must be 0 or more")
    named = [{"params": members, "lr": rates[name], "name": name} for name, members in groups.items() if rates[name]]
    found = named + ([{"params": rest, "name": "rest" if rates else "all"}] if rest else [])
    if not found:
        raise UserError(f"nothing is left to train: task.rates={dict(rates)} freezes the whole model")
    return found


def frozen_modules(model: nn.Module, rates: Rates | None) -> list[nn.Module]:
    """The modules of the parts with rate 0."""
    rates = rates or {}
    return [module for name, module in model.named_modules() if (part := part_of(name, rates)) and rates[part] == 0]


def freeze(model: nn.Module, rates: Rates | None) -> None:
    """Take the gradient off the parameters of the parts with rate 0."""
    rates = rates or {}
    for name, parameter in model.named_parameters():
        if (part := part_of(name, rates)) and rates[part] == 0:
            parameter.requires_grad_(False)


def make_optimizer(model: nn.Module, optimizer: OptimizerPartial, rates: Rates | None) -> Optimizer:
    """The optimizer over the model's parameter groups; parts with rate 0 are frozen.

    Raises:
        UserError: `rates` do not fit the model, or the optimizer does not take its arguments.
    """
    groups = parameter_groups(model, rates)
    freeze(model, rates)
    try:
        return optimizer(groups)
    except IndexError as error:
        raise UserError("optimizer: a list among its arguments is too short") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {error}") from error


def make_scheduler(scheduler: "partial[Any]", optimizer: Optimizer, facts: Mapping[str, Any]) -> Any:
    """The schedule of the optimizer; arguments that say `auto` or `auto:FACT` become the run's own numbers.

    Args:
        scheduler: partial that takes the optimizer.
        optimizer: its groups' rates are the fact `max_lr`, so that one cycle peaks in each group at its own rate.
        facts: numbers by name.

    Raises:
        UserError: `auto` stands where no fact is known, or the arguments do not fit the scheduler.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    keywords = {name: _fill(name, value, {**facts, "max_lr": rates}) for name, value in scheduler.keywords.items()}
    if isinstance(keywords.get("max_lr"), int | float) and len(rates) > 1:
        raise UserError(
            f"scheduler.build.max_lr={keywords['max_lr']} would give all parts of task.rates one rate: leave it auto"
        )
    try:
        return scheduler.func(optimizer, *scheduler.args, **keywords)
    except (TypeError, ValueError) as error:
        raise UserError(f"scheduler.build: {error}") from error


def _fill(name: str, value: Any, facts: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value.partition(":")[0] != "auto":
        return value
    fact = value.partition(":")[2] or name
    if fact not in facts:
        raise UserError(
            f"scheduler.build.{name}={value}: the run knows {', '.join(sorted(facts))} by itself, not {fact}"
        )
    if facts[fact] is None:
        raise UserError(f"scheduler.build.{name}={value} needs an end of training: set trainer.max_epochs")
    return facts[fact]
