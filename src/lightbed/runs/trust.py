"""Which targets a config from somebody else's file may name: instantiating any would run their code."""

import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
import torchmetrics
import torchvision
from torch import nn

from lightbed.errors import UserError

_CLASSES = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torchmetrics.Metric)
# Packages whose classes of those kinds only compute. Not all of torchmetrics: some of its text and image metrics fetch
# models from hubs. Not all of torch and lightning: they hold loaders, compilers and launchers.
_HOMES = (
    *("lightbed.models", "lightbed.tasks", "lightbed.metrics", "lightbed.transforms", "lightbed.data"),
    "lightbed.callbacks",
    *("torch.nn", "torch.optim", "torchvision.models", "torchvision.ops", "torchvision.transforms"),
    *(f"torchmetrics.{part}" for part in ("classification", "segmentation", "detection", "aggregation", "regression")),
)
_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
_ADDRESS = re.compile(r"://|^[\s<]*(url:)?(file|ftp|https?|data):\S", re.IGNORECASE)  # what urllib opens
HOW = "trust=true runs it all the same, if you trust the file's author"


def check_targets(config: Any, origin: str, classes: tuple[type, ...] = _CLASSES) -> None:
    """Refuse a config that names anything but networks, optimizers, schedules and metrics of the known packages.

    Addresses are refused, too: no file shall say what is reached from this machine. Nothing is imported from outside
    those packages, and nothing is called.

    Args:
        config: plain containers.
        origin: the file, for the message.
        classes: what a target may be a subclass of.

    Raises:
        UserError: a target is not trusted; it is named with its place.
    """
    for where, node in _nodes(config, ""):
        place = f"{origin}: {where or 'the config'}"
        if isinstance(node, str):
            if "${" in node:
                raise UserError(f"{place} holds an interpolation; {HOW}")
            if _ADDRESS.search(node):  # data.url and the like
                raise UserError(f"{place} holds an address that would be reached; {HOW}")
            continue
        for key in node:
            if str(key).startswith("_") and key not in _KEYS:
                raise UserError(f"{place}.{key} is not allowed; {HOW}")
        if "_target_" in node and not _trusted(node["_target_"], classes):
            raise UserError(f"{place}._target_={node['_target_']} is not trusted; {HOW}")


def check_config(config: Mapping[str, Any], origin: str) -> None:
    """Refuse a training's whole config that names what is not trusted, or that would make another trainer.

    Raises:
        UserError: likewise.
    """
    from lightning.pytorch import Callback

    from lightbed.data.base import DataModule

    parts = ("model", "task", "optimizer", "scheduler", "augment")
    check_targets({name: config.get(name) for name in parts}, origin)
    data = config.get("data") or {}
    check_targets({"data": {**data, "transform": None}}, origin, (DataModule,))
    check_targets({"data": {"transform": data.get("transform")}}, origin)
    check_targets({"callbacks": config.get("callbacks")}, origin, (Callback,))
    trainer = dict(config.get("trainer") or {})
    if (target := trainer.pop("_target_", None)) != "lightning.pytorch.Trainer":
        raise UserError(f"{origin}: trainer._target_={target} is not trusted; {HOW}")
    check_targets({"trainer": trainer}, origin, ())
    others = {name: value for name, value in config.items() if name not in (*parts, "data", "callbacks", "trainer")}
    check_targets(others, origin, ())


def check_links(folder: Path) -> None:
    """Refuse a folder that has links in it: what a run writes there would land elsewhere.

    Raises:
        UserError: of the first.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                raise UserError(f"{path} is a link to {path.readlink()}, where the run would write; {HOW}")


def _nodes(config: Any, where: str) -> Iterator[tuple[str, Mapping[Any, Any] | str]]:
    """Every dict and every text in a config, keys included, with its place."""
    if isinstance(config, str):
        yield where, config
    elif isinstance(config, Mapping):
        yield where, config
        for key, value in config.items():
            inner = f"{where}.{key}" if where else str(key)
            yield inner, str(key)
            yield from _nodes(value, inner)
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from _nodes(value, f"{where}[{i}]")


def _trusted(target: Any, classes: tuple[type, ...]) -> bool:
    """Whether `target` is the public dotted name of a class of these, or of a function that builds a network."""
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return False
    short = target.startswith("torchmetrics.") and target.count(".") == 1  # torchmetrics.Accuracy and the like
    if any(part.startswith("_") for part in target.split(".")) or not (short or _at_home(target, _HOMES)):
        return False
    found = _find(target)
    home = str(getattr(found, "__module__", ""))
    if not _at_home(home, _HOMES):
        return False
    if inspect.isclass(found):
        return issubclass(found, classes)
    return inspect.isfunction(found) and issubclass(nn.Module, classes) and _builds(found, home)


def _at_home(name: str, homes: tuple[str, ...]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in homes)


def _builds(function: Any, home: str) -> bool:
    """Whether a function is one of torchvision's registered builders, or one of ours that says it returns a network."""
    name = function.__name__
    if home.startswith("torchvision."):
        return name in torchvision.models.list_models() and torchvision.models.get_model_builder(name) is function
    kind = get_type_hints(function).get("return")
    return home.startswith("lightbed.models.") and inspect.isclass(kind) and issubclass(kind, nn.Module)


def _find(target: str) -> Any:
    """The class or function of that dotted name; None where there is none.

    Modules are reached from their package downwards, never through another module's attributes.
    """
    *modules, name = target.split(".")
    found: Any = None
    for cut in range(1, len(modules) + 1):
        try:
            found = importlib.import_module(".".join(modules[:cut]))
        except ImportError:
            return None  # what stands there is a name in a module: only classes and functions themselves are trusted
    return vars(found).get(name)
