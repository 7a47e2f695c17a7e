"""What Lightning's Trainer would refuse in words of its own, after the data is read, or take in silence."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from lightbed.errors import UserError, nearest
from lightbed.make import locate

_COUNTS = {"max_epochs": -1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "num_nodes": 1}
"""Keys that count something, and the least that they may be; -1 epochs are any number, until trainer.max_time."""


def check_counts(config: Mapping[str, Any], *keys: str) -> None:
    """Refuse counts of less than one, which would be taken for none given.

    Raises:
        UserError: of the first such key.
    """
    for key in keys:
        value = config[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{key}={value} must be a whole number, 1 or more, or null for the run's own")


def check_monitor(config: Mapping[str, Any]) -> None:
    """Refuse a monitored name that nothing logs, which would be seen after an epoch only.

    A class or callback of the user's own may log what it likes.

    Args:
        config: of a training.

    Raises:
        UserError: the name is none of a stage that is watched, or the task has no such metric; the nearest are told.
    """
    task, callbacks = config["task"], {name: part for name, part in config["callbacks"].items() if part}
    own = vars(locate(task["_target_"], "task._target_"))
    foreign = any(not str(part.get("_target_")).startswith("lightbed.") for part in callbacks.values())
    scores = {*own.get("logged", ()), *(task.get("metrics") or {})}
    watched = {"task.monitor": task} | {f"callbacks.{name}.monitor": part for name, part in callbacks.items()}
    for key, name in ((key, part["monitor"]) for key, part in watched.items() if part.get("monitor") is not None):
        stage, _, metric = str(name).partition("/")
        if stage not in ("train", "val") or not metric:
            raise UserError(f"{key}={name} must be val/NAME or train/NAME, e.g. val/loss")
        if foreign or not own.get("logged") or metric in scores or metric.startswith("loss") or "/" in metric:
            continue
        known = [f"{stage}/{score}" for score in ("loss", *sorted(scores))]
        raise UserError(f"{key}={name} is not logged: {nearest(str(name), known)}")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what no run can use, by the names that it has in the config.

    Args:
        settings: the config's node `trainer`.

    Raises:
        UserError: a count is none, or Lightning has no such accelerator or strategy; the nearest ones are told.
    """
    for key, least in _COUNTS.items():
        value = settings.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UserError(f"trainer.{key}={value} must be a whole number, {least} or more")
    clip = settings.get("gradient_clip_val")
    if clip is not None and not clip > 0:
        raise UserError(f"trainer.gradient_clip_val={clip} must be more than 0, or null for no limit")
    known = {
        "accelerator": ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
    }
    for key, names in known.items():
        value = settings.get(key)
        if isinstance(value, str) and value not in names:
            raise UserError(f"trainer.{key}={value} is not known: {nearest(value, names)}")
    strategy = str(settings.get("strategy"))
    if strategy.startswith(("fsdp_", "model_parallel", "deepspeed")):
        raise UserError(f"trainer.strategy={strategy} does not leave checkpoints in one file: use fsdp or ddp")
    if strategy.startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
        raise UserError(
            f"trainer.strategy={strategy} takes a run's parts into processes that they cannot go to: use ddp"
        )
    if settings.get("sync_batchnorm") and settings.get("accelerator") == "cpu":
        raise UserError("trainer.sync_batchnorm=true is for GPUs: torch has no such batch norm on a CPU")
