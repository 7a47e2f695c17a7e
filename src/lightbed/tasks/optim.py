"""Optimizer and scheduler from partials, with learning rates by part of the model."""

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, TypeVar

import lightning.pytorch as L
from torch import nn
from torch.optim import Optimizer

from lightbed.errors import UserError

OptimizerPartial = Callable[..., Optimizer]
Rates = Mapping[str, float]
PARTS = ("loaded", "new")  # of a network that began with trained weights, see `runs.transfer`
T = TypeVar("T")


def part_of(name: str, rates: Rates) -> str | None:
    """The entry of `rates` that rules the parameter or module `name`: the longest prefix that ends at a dot."""
    fitting = [part for part in rates if name == part or name.startswith(part + ".")]
    return max(fitting, key=len, default=None)


def spelled(values: Mapping[str, T], parts: Mapping[str, Sequence[str]]) -> dict[str, T]:
    """`values` by part of the model, with each name in `parts` replaced by the parts that it stands for.

    A part that is named itself keeps its own value.
    """
    found = {part: value for name, value in values.items() if name in parts for part in parts[name]}
    return found | {name: value for name, value in values.items() if name not in parts}


def cover(chosen: Set[str], names: Sequence[str]) -> list[str]:
    """The fewest beginnings of dotted names that hold all of `chosen` and no other of `names`, in their order."""
    found: list[str] = []
    for name in names:
        if name not in chosen or any(name == part or name.startswith(part + ".") for part in found):
            continue
        parts = name.split(".")
        starts = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        alone = (s for s in starts if all(n in chosen for n in names if n == s or n.startswith(s + ".")))
        found.append(next(alone))
    return found


def parameter_groups(
    model: nn.Module, rates: Rates | None, parts: Mapping[str, Sequence[str]] | None = None
) -> list[dict[str, Any]]:
    """Parameter groups of `model`: one for each name in `rates` (with its own lr), one for the rest.

    Args:
        model: the network.
        rates: learning rate by part, e.g. `{"features": 0.001, "head": 0.1}`; a part is a prefix of parameter names
            at a dot, so "layer4.0" is one too, and the longest that fits counts. Parts with rate 0 are left out.
        parts: names that stand for several parts, which then are one group: `loaded` and `new`.

    Raises:
        UserError: a name fits no part of the model, a rate is negative, or nothing is left to train.
    """
    given, parts = rates or {}, parts or {}
    rates, group_of = spelled(given, parts), spelled({name: name for name in given}, parts)
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in given}
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        part = part_of(name, rates)
        if parameter.requires_grad or (part and rates[part] == 0):
            (rest if part is None else groups[group_of[part]]).append(parameter)
    unknown = [name for name, members in groups.items() if not members and name not in parts]
    if unknown:
        known = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        hint = "; loaded and new are told apart where weights=... gives trained ones" if {*unknown} & {*PARTS} else ""
        raise UserError(f"task.rates names {unknown}, but the model's trainable parts are {known}{hint}")
    negative = [name for name, rate in given.items() if not rate >= 0]
    if negative:
        raise UserError(f"task.rates.{negative[0]}={given[negative[0]]} must be 0 or more")
    named = [
        {"params": members, "lr": given[name], "name": name}
        for name, members in groups.items()
        if given[name] and members
    ]
    found = named + ([{"params": rest, "name": "rest" if rates else "all"}] if rest else [])
    if not found:
        why = (
            f"task.rates={dict(rates)} freezes the whole model"
            if rates
            else "the model has no parameters with gradient"
        )
        raise UserError(f"nothing is left to train: {why}")
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


def make_optimizer(
    model: nn.Module,
    optimizer: OptimizerPartial,
    rates: Rates | None,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> Optimizer:
    """The optimizer over the model's parameter groups; parts with rate 0 are frozen.

    Raises:
        UserError: `rates` do not fit the model, or the optimizer does not take its arguments.
    """
    groups = parameter_groups(model, rates, parts)
    freeze(model, spelled(rates or {}, parts or {}))
    try:
        return optimizer(groups)
    except IndexError as error:
        raise UserError("optimizer: a list among its arguments is too short") from error
    except TypeError as error:  # torch compares before it looks
        given = {name: "null" if value is None else value for name, value in getattr(optimizer, "keywords", {}).items()}
        told = ", ".join(f"{name}={value}" for name, value in given.items())
        raise UserError(f"optimizer: {error}; it was given {told or 'nothing'}") from error
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error


def schedule_facts(trainer: L.Trainer, mode: str) -> dict[str, Any]:
    """What `auto` stands for in a schedule's arguments; None of what a training without a set end does not have."""
    steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs
    ends = steps != float("inf") and epochs is not None and epochs > 0
    return {
        "total_steps": int(steps) if ends else None,
        "epochs": epochs if ends else None,
        "steps_per_epoch": max(1, int(steps) // max(1, epochs or 1)) if ends else None,
        "mode": mode,
    }


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
