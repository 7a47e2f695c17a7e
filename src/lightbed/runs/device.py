"""The devices that a model trains on, and the one that a trained model runs on."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from lightbed.errors import UserError, nearest


def accelerator(device: str) -> dict[str, Any]:
    """Lightning's arguments `accelerator` and `devices` for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        UserError: the machine has no such device.
    """
    match = re.fullmatch(r"(auto|cpu|mps|cuda)(?::(\d+))?", str(device))
    if match is None or (match[2] and match[1] != "cuda"):
        raise UserError(f"device={device} is not known: give auto, cpu, cuda, cuda:1 or mps")
    kind, index = match[1], int(match[2] or 0)
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(kind, 1)
    if index >= there:
        raise UserError(
            f"device={device}: this machine has {there} {kind} devices; device=auto takes the best there is"
        )
    return {"accelerator": kind, "devices": [index] if kind == "cuda" else 1}


def check_devices(settings: Mapping[str, Any]) -> None:
    """Refuse accelerators and strategies of a trainer that cannot be had.

    Raises:
        UserError: Lightning does not have it, or a run cannot be made with it.
    """
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
