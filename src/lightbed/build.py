"""The only place that makes objects from configs."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightbed.data.base import DataModule
from lightbed.errors import UserError
from lightbed.tasks.base import Task
from lightbed.transforms.augment import Augment
from lightbed.transforms.preprocess import Preprocess

Config = dict[str, Any]


def resolve(cfg: DictConfig) -> Config:
    """The composed config as plain containers, every interpolation resolved.

    Raises:
        UserError: a key that must be given is missing.
    """
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        raise UserError(f"please give {', '.join(f'{key}=...' for key in sorted(missing))}")
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def make(config: Any, where: str, **arguments: Any) -> Any:
    """The object that `config` (with `_target_`) describes; lists and dicts inside are plain ones.

    Args:
        config: plain containers.
        where: the config key, for error messages.
        arguments: further keyword arguments, objects included.

    Raises:
        UserError: the target does not exist or does not take these arguments.
    """
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise UserError(f"{where} needs a _target_: the class or function to call")
    known = {key: value for key, value in config.items()}
    try:
        return instantiate(known, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        told = f"{type(cause).__name__}: {cause}" if cause is not None else str(error).splitlines()[0]
        raise UserError(f"{where}: {config['_target_']} cannot be made: {told}") from error


def fill_auto(config: Any, facts: Mapping[str, Any], where: str) -> Any:
    """A copy of `config` in which each value `auto` is the data's fact of that key's name, `auto:FACT` the fact FACT.

    Raises:
        UserError: there is no such fact.
    """
    if isinstance(config, Mapping):
        return {key: _fill(key, value, facts, f"{where}.{key}") for key, value in config.items()}
    if isinstance(config, list):
        return [fill_auto(value, facts, where) for value in config]
    return config


def _fill(key: str, value: Any, facts: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, str) and value.partition(":")[0] == "auto":
        fact = value.partition(":")[2] or key
        if fact not in facts:
            raise UserError(f"{where}={value}: the data knows {', '.join(sorted(facts))}, not {fact}")
        return facts[fact]
    return fill_auto(value, facts, where)


def make_data(config: Config) -> DataModule:
    """The DataModule of a resolved config, its files fetched and its splits open."""
    transform = config["data"].get("transform")
    arguments = {"transform": make(transform, "augment.sample")} if transform else {}
    data: DataModule = make({**config["data"], "transform": None}, "data", **arguments)
    data.prepare_data()
    data.setup()
    return data


def make_model(config: Config) -> nn.Module:
    """The network of a config whose `auto` values are filled in."""
    model = make(config["model"], "model")
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model._target_={config['model']['_target_']} gives a {type(model).__name__}, not an nn.Module"
        )
    return model


def with_facts(config: Config, data: DataModule) -> Config:
    """The config with the model's and metrics' `auto` values and the class weights taken from the data."""
    facts = data.facts()
    task = dict(config["task"])
    outputs = {**facts, "num_classes": 1} if task.get("kind") == "binary" else facts
    if task.get("class_weights") == "balanced":
        counts = data.class_counts().double()
        task["class_weights"] = (counts.sum() / (len(counts) * counts.clamp(min=1))).tolist()
    task["metrics"] = fill_auto(task.get("metrics") or {}, facts, "task.metrics")
    return {**config, "task": task, "model": fill_auto(config["model"], outputs, "model")}


def make_task(config: Config, classes: list[str], preprocess: Preprocess, *, training: bool = True) -> Task:
    """The task of a config whose `auto` values are filled in, with its network, metrics and preprocessing.

    Args:
        config: resolved, see `with_facts`.
        classes: class names.
        preprocess: of the data or of a checkpoint.
        training: also make optimizer, scheduler and augmentation.
    """
    settings = {key: value for key, value in config["task"].items() if key not in ("name", "metrics")}
    metrics = {name: make(metric, f"task.metrics.{name}") for name, metric in config["task"]["metrics"].items()}
    arguments: dict[str, Any] = {"model": make_model(config), "num_classes": len(classes), "classes": classes}
    arguments |= {"preprocess": preprocess, "metrics": metrics}
    if training:
        arguments["optimizer"] = make(config["optimizer"], "optimizer")
        schedule = config["scheduler"]
        arguments["interval"] = schedule["interval"]
        arguments["scheduler"] = make(schedule["build"], "scheduler.build") if schedule["build"] else None
        arguments["augment"] = make_augment(config)
    # objects go in after Hydra's own look at the config, which would copy them
    target = make({"_target_": settings.pop("_target_"), "_partial_": True}, "task")
    try:
        return target(**settings, **arguments)  # type: ignore[no-any-return]
    except TypeError as error:
        raise UserError(f"task: {error}") from error


def make_augment(config: Config) -> Augment | None:
    """The batched augmentation of the augment group, keyed by the run's seed; None where it is empty."""
    steps = [make(step, f"augment.batch[{i}]") for i, step in enumerate(config["augment"]["batch"])]
    return Augment(steps, config["seed"]) if steps else None


def set_threads(count: int) -> None:
    """CPU threads of torch."""
    if count < 1:
        raise UserError(f"threads={count} must be at least 1")
    torch.set_num_threads(count)
