"""What a run leaves behind about itself: config.yaml, overrides.yaml, run.json, metrics.json."""

import json
import os
import platform
import subprocess
import sys
import time
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from lightbed.errors import UserError

PACKAGES = ("lightbed", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy", "pillow")


class Record:
    """The record of a running run: its folder and its run.json, rewritten in one piece at each change of status."""

    def __init__(self, folder: Path, command: list[str], overrides: list[str], config: dict[str, Any]) -> None:
        self.folder = folder
        if (folder / "run.json").exists():
            raise UserError(f"{folder} holds a run already; choose another hydra.run.dir")
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("pictures", "checkpoints"):
            (folder / part).mkdir(exist_ok=True)
        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        write_text(folder / "overrides.yaml", yaml.safe_dump(overrides))
        self.started = time.monotonic()
        self.content: dict[str, Any] = {
            "command": command,
            "status": "running",
            "start": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": None,
            "seed": config.get("seed"),
            "threads": config.get("threads"),
            "versions": versions(),
            "hardware": hardware(),
            "git": git_state(folder),
        }
        self.write()

    def write(self, **changes: Any) -> None:
        """Change and save run.json."""
        self.content |= changes
        write_text(self.folder / "run.json", json.dumps(self.content, indent=2, ensure_ascii=False) + "\n")

    def finish(self, status: str, **changes: Any) -> None:
        """Set the final status: done, failed or interrupted."""
        self.write(status=status, seconds=round(time.monotonic() - self.started, 3), **changes)


def write_text(path: Path, text: str) -> None:
    """Write a small file in one piece."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def point_latest(folder: Path, outputs: Path) -> None:
    """Let `outputs/latest` link to `folder`; a file system without links goes without."""
    link = outputs / "latest"
    beside = outputs / f".latest.{os.getpid()}"
    try:
        beside.symlink_to(os.path.relpath(folder, outputs), target_is_directory=True)
        beside.replace(link)
    except OSError:
        beside.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """The machine: processor, its instruction set as torch uses it, cores, GPUs, system."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpus": gpus,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the working directory's checkout and whether it is changed; the difference is kept in `folder`.

    None where the working directory is no checkout. Only tracked files are compared.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    diff = _git("diff", "HEAD") or ""
    if diff:
        write_text(folder / "uncommitted.diff", diff)
    return {"commit": commit.strip(), "changed": bool(diff)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def command_line() -> list[str]:
    """The words that started this process, to start it again."""
    return ["lightbed", *sys.argv[1:]]
