"""What a run's numbers depend on besides its configuration: packages, machine, code."""

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lightbed.sweeps import imports
from lightbed.sweeps.code import closure, named

PACKAGES = ("lightbed", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy", "pillow")
_VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
)


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["torch"] = str(torch.__version__)  # with its build, e.g. 2.11.0+cpu
    if torch.cuda.is_available():
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found


def packages() -> list[str]:
    """All installed packages, `name==version` in alphabetical order.

    They are read from the names of their folders, a hundred times as fast as from the files in them.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        for name, number in _installed(folder or "."):
            found.setdefault(name, number)  # the first on the path is the one that is imported
    return [f"{name}=={number}" for name, number in sorted(found.items())]


def _installed(folder: str) -> Iterator[tuple[str, str]]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - entries of sys.path are texts
    except OSError:  # an archive, or gone
        return
    for entry in names:
        if entry.endswith((".dist-info", ".egg-info")):
            name, _, number = entry.rpartition(".")[0].partition("-")
            yield name.lower().replace("_", "-"), number.partition("-")[0]


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


def variables() -> dict[str, str]:
    """Environment variables by which libraries choose their kernels."""
    return {name: os.environ[name] for name in sorted(_VARIABLES) if name in os.environ}


def code_digest() -> str:
    """One sha256 over Lightbed's own modules, for it may be installed, or lie in another checkout than the run."""
    home, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        digest.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def own_modules(config: Any) -> dict[str, str]:
    """sha256 of each module of the user's own that a config names, and of those that it imports, as they run here.

    A checkout's commit and difference do not say it where they lie outside it.
    """
    frozen, found = imports.used(), {}
    for name, file in sorted(closure(named(config)).items()):
        copied = frozen.modules.get(name) if frozen else None
        text = frozen.folder / imports.OWN / copied["copy"] if frozen and copied else file
        with suppress(OSError):  # gone meanwhile: what imports it tells
            found[name] = hashlib.sha256(text.read_bytes()).hexdigest()
    return found


def changed_modules(then: Mapping[str, str] | None, now: Mapping[str, str] | None) -> list[str]:
    """Names of modules whose text is another one, of what `own_modules` said; those of one side alone are none."""
    then, now = then or {}, now or {}
    return [name for name in then if name in now and then[name] != now[name]]
