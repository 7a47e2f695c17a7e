"""Which job runs where: GPUs leased by index, also between two terminals, and the machine's CPU cores."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightbed.errors import UserError

_GPU = ("auto", "gpu", "cuda")


class Need(NamedTuple):
    """What a job takes: so many GPUs, or so many CPU cores; on a cluster, in so many processes on so many nodes."""

    gpus: float
    cores: int
    tasks: int = 1
    nodes: int = 1


@dataclass
class Lease:
    """What a job was given; it is held until `close`, or the end of the last process that has its locks."""

    gpus: list[str] = field(default_factory=list)
    cores: int = 0
    locks: list[int] = field(default_factory=list)  # descriptors

    @property
    def variables(self) -> dict[str, str]:
        """What tells a process of it."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}

    def close(self) -> None:
        for lock in self.locks:
            os.close(lock)
        self.locks = []


def inventory() -> list[str]:
    """The GPUs of this machine that may be used, by the names that CUDA_VISIBLE_DEVICES takes.

    `LIGHTBED_GPUS` names them, else CUDA_VISIBLE_DEVICES, else the driver does.
    """
    for variable in ("LIGHTBED_GPUS", "CUDA_VISIBLE_DEVICES"):
        if variable in os.environ:
            names = [name.strip() for name in os.environ[variable].split(",")]
            return [name for name in names if name and name != "-1"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    told = subprocess.run([program, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return [line.strip() for line in told.stdout.splitlines() if line.strip().isdigit()]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Slots:
    """Deals out a machine's GPUs and cores.

    A GPU that one job has for itself is locked as a whole; those that share one hold a common lock of it, and one each
    of its places. The locks are files of this user, so other terminals respect them, and the system frees them when the
    last process that holds them is gone.

    Args:
        gpus: see `inventory`.
        cores: of the machine.
        jobs: at most so many at a time; None: as many as there is room for.
        jobs_per_gpu: places on a GPU.
        folder: of the lock files.
    """

    def __init__(
        self, gpus: Sequence[str], cores: int, jobs: int | None, jobs_per_gpu: int, folder: Path | None = None
    ) -> None:
        self.gpus, self.cores, self.jobs, self.jobs_per_gpu = list(gpus), cores, jobs, jobs_per_gpu
        user = os.getuid() if hasattr(os, "getuid") else "all"
        self.folder = folder or Path(tempfile.gettempdir()) / f"lightbed-{user}"
        self.held: list[Lease] = []

    def need(self, config: Mapping[str, Any], gpus_per_job: float | None) -> Need:
        """What a job with this config takes.

        Raises:
            UserError: it asks for more GPUs than there are, or for certain ones.
        """
        trainer, threads = config.get("trainer") or {}, int(config.get("threads") or 1)
        devices = trainer.get("devices", 1)
        if not self.gpus or str(trainer.get("accelerator")) not in _GPU:
            processes = devices if isinstance(devices, int) and devices > 0 else 1
            return Need(0, min(threads * processes, self.cores))
        if isinstance(devices, list):
            raise UserError(f"trainer.devices={devices}: in a multirun GPUs are leased; say how many a job has")
        asked = gpus_per_job or (devices if isinstance(devices, int) and devices > 0 else 1)
        if asked > len(self.gpus):
            raise UserError(f"a job asks for {asked} GPUs, of which there are {len(self.gpus)}")
        return Need(asked, 0)

    def at_once(self, need: Need) -> int:
        """How many such jobs run at a time."""
        room = len(self.gpus) * self.jobs_per_gpu // need.gpus if need.gpus else self.cores // max(need.cores, 1)
        return max(1, int(room if self.jobs is None else min(room, self.jobs) if need.gpus else self.jobs))

    def lease(self, need: Need) -> Lease | None:
        """Room for a job, or None where there is none now."""
        if self.jobs is not None and len(self.held) >= self.jobs:
            return None
        if need.gpus:
            lease = self._gpus(need.gpus)
        else:
            used = sum(lease.cores for lease in self.held)
            # whoever says how many jobs there are at a time means it
            free = self.jobs is not None or used + need.cores <= self.cores
            lease = Lease(cores=need.cores) if free else None
        if lease is not None:
            self.held.append(lease)
        return lease

    def free(self, lease: Lease) -> None:
        """Take back what a job had."""
        lease.close()
        self.held.remove(lease)

    def _gpus(self, count: float) -> Lease | None:
        lease = Lease()
        own = [name for held in self.held for name in held.gpus]
        for gpu in sorted(self.gpus, key=own.count):  # those with the fewest jobs first
            if len(lease.gpus) < count and (locks := self._locks(gpu)):
                lease.gpus.append(gpu)
                lease.locks += locks
        if len(lease.gpus) == count:
            return lease
        lease.close()  # all or none
        return None

    def _locks(self, gpu: str) -> list[int]:
        """The locks of one place on a GPU; none where all are taken."""
        name = "".join(letter if letter.isalnum() else "-" for letter in gpu)
        whole = self._lock(f"gpu-{name}", fcntl.LOCK_EX if self.jobs_per_gpu == 1 else fcntl.LOCK_SH)
        if whole is None or self.jobs_per_gpu == 1:
            return [] if whole is None else [whole]
        for place in range(self.jobs_per_gpu):
            if (lock := self._lock(f"gpu-{name}-{place}", fcntl.LOCK_EX)) is not None:
                return [whole, lock]
        os.close(whole)
        return []

    def _lock(self, name: str, kind: int) -> int | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return lock
