"""The only place that makes objects from configs."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightbed.data.base import DataModule
from lightbed.errors import UserError, nearest
from lightbed.make import SPECIAL_KEYS, locate, make, parameters
from lightbed.tasks.base import Task
from lightbed.transforms.augment import Augment
from lightbed.transforms.preprocess import Preprocess

__all__ = [
    "Config",
    "locate",
    "make",
    "make_data",
    "make_model",
    "make_task",
    "parameters",
    "resolve",
    "with_facts",
    "with_targets",
]

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
    node = with_targets(config["data"], config["task"]) if "task" in config else config["data"]
    transform = node.get("transform")
    arguments = {"transform": make(transform, "augment.sample")} if transform else {}
    data: DataModule = make({**node, "transform": None}, "data", **arguments)
    data.prepare_data()
    data.setup()
    return data


def with_targets(data: Config, task: Config) -> Config:
    """The data's node with `targets: auto` and `objects: auto` as what the task looks at; only some data has these."""
    if "auto" not in (data.get("targets"), data.get("objects")):
        return data
    kind = locate(task.get("_target_"), "task._target_")
    learns = list(getattr(kind, "learns", ()))
    found = {"targets": learns or ["label"], "objects": "largest" if "box" in learns else "all"}
    return {**data, **{key: value for key, value in found.items() if data.get(key) == "auto"}}


def make_model(config: Config) -> nn.Module:
    """The network of a config whose `auto` values are filled in."""
    model = make(config["model"], "model")
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model._target_={config['model']['_target_']} gives a {type(model).__name__}, not an nn.Module"
        )
    return model


def with_facts(config: Config, data: DataModule, more: int = 0) -> Config:
    """The config with the model's and metrics' `auto` values and the class weights taken from the data.

    `more` counts so many classes more than there are, to see what depends on their number.
    """
    facts = data.facts()
    facts["num_classes"] += more
    task = dict(config["task"])
    _match_labels(task.get("kind"), data)
    outputs = {**facts, "num_classes": 1} if task.get("kind") == "binary" else facts
    if isinstance(task.get("class_weights"), str):
        task["class_weights"] = data.class_weights(task["class_weights"])
    task["metrics"] = fill_auto(task.get("metrics") or {}, facts, "task.metrics")
    return {**config, "task": task, "model": fill_auto(_asked(config["model"]), outputs, "model")}


def _match_labels(kind: str | None, data: DataModule) -> None:
    """Refuse a table of several labels an image for a task of one, which torch would train on silently."""
    if data.multilabel and kind not in (None, "multilabel"):
        raise UserError(f"task.kind={kind} knows one label an image but data.multilabel=true: use task.kind=multilabel")
    if not data.multilabel and kind == "multilabel":
        raise UserError("task.kind=multilabel needs data of several labels an image, e.g. data.multilabel=true")


def _asked(model: Config) -> Config:
    """The model's node without those `auto` facts that its constructor has no argument for.

    Raises:
        UserError: another key is no argument of the constructor.
    """
    target = locate(model.get("_target_"), "model._target_")
    takes = parameters(target)
    if takes is None:  # a function that hands its arguments on to the class that it says it returns
        kind = getattr(target, "__annotations__", {}).get("return")
        known = parameters(kind) if isinstance(kind, type) and kind is not nn.Module else None
        return {key: value for key, value in model.items() if known is None or key in known or value != "auto"}
    takes = [*takes, *SPECIAL_KEYS]
    unknown = [key for key, value in model.items() if key not in takes and value != "auto"]
    if unknown:
        hint = f"{nearest(unknown[0], takes[: -len(SPECIAL_KEYS)])}; model=custom begins without arguments"
        raise UserError(f"model.{unknown[0]}: {model['_target_']} takes no argument {unknown[0]}: {hint}")
    return {key: value for key, value in model.items() if key in takes}


def make_task(config: Config, classes: list[str], preprocess: Preprocess, *, training: bool = True) -> Task:
    """The task of a config whose `auto` values are filled in, with its network, metrics and preprocessing.

    Args:
        config: resolved, see `with_facts`.
        classes: class names.
        preprocess: of the data or of a checkpoint.
        training: also make optimizer, scheduler and augmentation.
    """
    node = {key: value for key, value in config["task"].items() if key not in ("name", "metrics")}
    model = config["model"] if training else _without_weights(config["model"])
    metrics = {name: make(metric, f"task.metrics.{name}") for name, metric in (config["task"]["metrics"] or {}).items()}
    arguments: dict[str, Any] = {"model": make_model({"model": model}), "num_classes": len(classes)}
    arguments |= {"classes": classes, "preprocess": preprocess, "metrics": metrics}
    if training:
        arguments["optimizer"] = make(config["optimizer"], "optimizer")
        schedule = config["scheduler"]
        arguments["interval"] = schedule["interval"]
        arguments["scheduler"] = make(schedule["build"], "scheduler.build") if schedule["build"] else None
        arguments["augment"] = make_augment(config)
    task: Task = make(node, "task", **arguments)
    return task


def _without_weights(node: Any) -> Any:
    """A model's node that fetches no trained weights, for a checkpoint holds its own, and writes where no file says."""
    if isinstance(node, list):
        return [_without_weights(inner) for inner in node]
    if not isinstance(node, Mapping):
        return node
    kept = {key: _without_weights(value) for key, value in node.items()}
    unused = [key for key in kept if key.startswith("weights") or key == "cache_dir"]
    kept |= {key: None for key in unused if isinstance(kept[key], str)}
    return kept | {key: False for key, value in kept.items() if key.startswith("pretrained") and value is True}


def make_augment(config: Config) -> Augment | None:
    """The batched augmentation of the augment group, keyed by the run's seed; None where it is empty."""
    named = config["augment"]["batch"].items()
    steps = [make(step, f"augment.batch.{name}") for name, step in named if step is not None]
    return Augment(steps, config["seed"], config["augment"]["visible"]) if steps else None


def set_threads(count: int) -> None:
    """CPU threads of torch."""
    if not isinstance(count, int) or count < 1:
        raise UserError(f"threads={count} must be a whole number, 1 or more")
    torch.set_num_threads(count)
