"""Jobs on other machines: an engine queues and starts them, the sweep's folder and files are those of a local sweep."""

import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

from lightbed.errors import UserError, nearest
from lightbed.sweeps.devices import Lease, Need, Slots
from lightbed.sweeps.jobs import Job, now
from lightbed.sweeps.order import Order
from lightbed.sweeps.pool import Pool


class State(NamedTuple):
    """How a job stands on its engine.

    `code` is the exit code, negative for a signal, and None until it has ended; `why` says more, where there is more.
    """

    started: bool
    code: int | None = None
    why: str = ""


class Engine(Protocol):
    """What queues jobs, starts them where there is room, and knows how they stand."""

    name: str

    def submit(self, job: Job, order: Order, need: Need) -> str:
        """Queue a job; gives the name that the engine has for it.

        Raises:
            UserError: the engine refuses it.
        """

    def look(self, names: list[str]) -> dict[str, State]:
        """How jobs stand; those of which nothing new is known may be missing."""

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a job's processes; SIGKILL also takes it out of the queue."""

    def close(self) -> None:
        """Let go of the engine."""


@dataclass
class Settings:
    """The keys that launchers for clusters share.

    Attributes:
        jobs: at most so many are queued or run at a time.
        gpus_per_job: None: as many as `trainer.devices` says, else one; on the CPU none.
    """

    jobs: int = 32
    gpus_per_job: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Settings":
        """The settings of a config, in which `auto` is for None.

        Raises:
            UserError: a value is none.
        """
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in given if name not in names]:
            raise UserError(f"hydra.launcher.{unknown[0]} does not exist: {nearest(unknown[0], names)}")
        values: dict[str, Any] = {name: None if value == "auto" else value for name, value in given.items()}
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse wrong values.

        Raises:
            UserError: a value is none, or a package or program is missing.
        """
        self._number("jobs", 1)
        if self.gpus_per_job is not None:
            self._number("gpus_per_job", 0)

    def _number(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"hydra.launcher.{name}={value} must be a whole number of at least {least}")

    def engine(self, pool: "ClusterPool") -> Engine:
        """The one that these settings are for."""
        raise NotImplementedError

    def slots(self) -> Slots:
        """Room for so many jobs, wherever they will run."""
        return Room(self.jobs)

    def pool(self, *arguments: Any, **more: Any) -> Pool:
        """A pool of jobs on the engine."""
        return ClusterPool(self, *arguments, **more)


class Room(Slots):
    """So many jobs in the queue at a time; the engine finds them a place.

    Args:
        jobs: how many.
    """

    def __init__(self, jobs: int) -> None:
        super().__init__([], sys.maxsize, jobs, 1)

    def need(self, config: Mapping[str, Any], gpus_per_job: float | None) -> Need:
        """What a job with this config takes.

        Raises:
            UserError: it asks for certain GPUs.
        """
        trainer = config.get("trainer") or {}
        devices = trainer.get("devices", 1)
        if isinstance(devices, list):
            raise UserError(f"trainer.devices={devices}: the engine deals out GPUs; say how many a job has")
        tasks = devices if isinstance(devices, int) and devices > 0 else 1
        gpus = gpus_per_job if gpus_per_job is not None else 0 if trainer.get("accelerator") == "cpu" else tasks
        cores = int(config.get("threads") or 1) + int((config.get("data") or {}).get("num_workers") or 0)
        return Need(gpus, cores, tasks, int(trainer.get("num_nodes") or 1))

    def at_once(self, need: Need) -> int:  # noqa: ARG002 - all are alike
        """How many jobs there are at a time."""
        return self.jobs or 1

    def lease(self, need: Need) -> Lease | None:
        """A place in the queue, or None where there is none now."""
        if len(self.held) >= self.at_once(need):
            return None
        self.held.append(Lease())
        return self.held[-1]

    def free(self, lease: Lease) -> None:
        """Take back a place."""
        self.held = [held for held in self.held if held is not lease]


class ClusterPool(Pool):
    """Runs the jobs that are added to it on an engine; what it looked like before is checked on this machine.

    A launcher that was killed leaves its jobs to the engine; the one that resumes the sweep takes over those that are
    still there.

    Args:
        settings: of the engine.
        arguments: as for `Pool`.
        more: likewise.
    """

    def __init__(self, settings: Settings, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, fresh=True, **more)
        self.engine = settings.engine(self)
        self.names: dict[int, str] = {}  # the engine's, of the jobs that it has
        self.started: set[int] = set()
        self.needs: dict[str, Need] = {}
        known = {job.id: job.attempts[-1].get(self.engine.name) for job in self.sweep.jobs if job.attempts}
        there = self.engine.look([name for name in known.values() if name])
        self.left = {own: name for own, name in known.items() if name in there and there[name].code is None}

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.engine.close()

    def add(self, job: Job, need: Need) -> None:
        """Have a job queued as soon as there is room."""
        self.needs.setdefault(job.id, need)
        super().add(job, self.needs[job.id])

    def step(self) -> list[Job]:
        """Queue what there is room for, wait a little, and give the jobs that ended meanwhile and are not tried again.

        Raises:
            RunError: the process that checks jobs was killed.
        """
        self._start()
        self._listen(0.5)
        self.answers.clear()
        ended = []
        for name, state in self.engine.look(list(self.names.values())).items():
            key = next(key for key, own in self.names.items() if own == name)
            if state.code is not None:
                if job := self._ended(key, state):
                    ended.append(job)
            elif state.started and key not in self.started:
                self._started(key)
        self.changed(None)
        return ended

    def stop(self, job: Job, number: int = signal.SIGTERM) -> None:
        """Send a signal to a job's processes; one that waits in the engine's queue is taken out of it."""
        for key, (running, _, _) in self.running.items():
            if running is job:
                self.engine.signal(self.names[key], number if key in self.started else signal.SIGKILL)

    def _begin(self, job: Job, lease: Lease) -> None:
        if job.id in self.left:
            name = self.left.pop(job.id)
        else:
            name = self.engine.submit(job, self._prepare(job), self.needs[job.id])
        job.status, job.error = "waiting", ""
        job.attempts.append({self.engine.name: name})
        self.begun += 1
        self.running[self.begun], self.names[self.begun] = (job, lease, time.monotonic()), name
        self.sweep.write()

    def _started(self, key: int) -> None:
        job, lease, _ = self.running[key]
        self.started.add(key)
        self.running[key] = (job, lease, time.monotonic())
        job.attempts[-1]["start"] = now()
        job.status = "running"
        self._tell(job)

    def _ended(self, key: int, state: State) -> Job | None:
        del self.names[key]
        job, lease, _ = self.running[key]
        if self.stopping and key not in self.started and not (job.folder / "run.json").exists():
            del self.running[key]
            self.slots.free(lease)
            job.attempts.pop()
            return job
        job.attempts[-1].setdefault("start", now())
        return self._end(key, int(state.code or 0), state.why)
