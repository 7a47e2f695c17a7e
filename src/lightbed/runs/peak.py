"""The most memory that a run has needed."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss's unit
MIB = 2**20


def begin_peak() -> None:
    """Count from here on, as far as the system can: several runs may follow each other in one process."""
    with suppress(OSError):  # Linux only; elsewhere the peak is the process's own so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if _uses_gpu():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, float]:
    """Peaks in MiB: `process` of this process, `child` of the largest that it started, `gpu` of what torch took there.

    A child counts once it has ended. Reading processes share most of their pages with the one that started them: a sum
    of the peaks would count these more than once, so there is none.
    """
    found: dict[str, float] = {}
    with suppress(ImportError):  # not on Windows
        import resource

        for name, who in (("process", resource.RUSAGE_SELF), ("child", resource.RUSAGE_CHILDREN)):
            found[name] = resource.getrusage(who).ru_maxrss * _UNIT / MIB
    if _uses_gpu():
        found["gpu"] = max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / MIB
    return {name: round(value, 1) for name, value in found.items()}


def machine_memory() -> dict[str, float]:
    """MiB that the machine has: `cpu`, or less where the process is limited, and `gpu`, where torch uses one."""
    found: dict[str, float] = {}
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        found["cpu"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # of a container
        with suppress(OSError, ValueError):  # `max` is no number
            limit = int(Path(file).read_text(encoding="ascii")) / MIB
            found["cpu"] = min(found.get("cpu", limit), limit)
    if _uses_gpu():
        found["gpu"] = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / MIB
    return found


def _uses_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
