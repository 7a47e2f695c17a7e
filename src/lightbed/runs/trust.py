"""Which targets a config from somebody else's file may name: instantiating any would run their code."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torchmetrics
from torch import nn

from lightbed.errors import UserError

_PACKAGES = ("lightbed", "torch", "torchvision", "torchmetrics", "lightning")
_CLASSES = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torchmetrics.Metric)
_BUILDERS = ("torchvision.models", "lightbed.models")  # modules whose plain functions only build networks
_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")


def check_targets(config: Any, origin: str, classes: tuple[type, ...] = _CLASSES) -> None:
    """Refuse a config that names anything but networks, optimizers, schedules and metrics of the known packages.

    Nothing is imported from outside those packages, and nothing is called.

    Args:
        config: plain containers.
        origin: the file, for the message.
        classes: what a target may be a subclass of.

    Raises:
        UserError: a target is not trusted; it is named with its place.
    """
    for where, node in _nodes(config, ""):
        for key, value in node.items():
            if isinstance(value, str) and "${" in value:
                raise UserError(f"{origin}: {where}{key} holds an interpolation; {_HOW}")
            if str(key).startswith("_") and key not in _KEYS:
                raise UserError(f"{origin}: {where}{key} is not allowed; {_HOW}")
        if "_target_" in node and not _trusted(node["_target_"], classes):
            raise UserError(f"{origin}: {where}_target_={node['_target_']} is not trusted; {_HOW}")


_HOW = "trust=true runs it all the same, if you trust the file's author"


def _nodes(config: Any, where: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    if isinstance(config, Mapping):
        yield where, config
        for key, value in config.items():
            yield from _nodes(value, f"{where}{key}.")
    elif isinstance(config, list):
        for i, value in enumerate(config):
            if isinstance(value, str) and "${" in value:
                raise UserError(f"{where}[{i}] holds an interpolation; {_HOW}")
            yield from _nodes(value, f"{where}[{i}].")


def _trusted(target: Any, classes: tuple[type, ...]) -> bool:
    """Whether `target` is the dotted name of a class of ours, torch's ..., or of a function that builds a network."""
    if not isinstance(target, str) or target.split(".")[0] not in _PACKAGES:
        return False
    found = _find(target)
    home = str(getattr(found, "__module__", ""))
    if home.split(".")[0] not in _PACKAGES:
        return False
    if isinstance(found, type):
        return issubclass(found, classes)
    return any(home == name or home.startswith(name + ".") for name in _BUILDERS) and callable(found)


def _find(target: str) -> Any:
    """The object of that dotted name, found by importing its longest module part; None where there is none."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except Exception:  # not a module at this length, or one that this machine cannot import
            continue
        for name in parts[cut:]:
            found = getattr(found, name, None)
        return found
    return None
