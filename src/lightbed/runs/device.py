"""The device that a trained model runs on."""

import re
from typing import Any

import torch

from lightbed.errors import UserError


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
