"""The local launcher: a multirun's jobs frozen, checked, and run side by side."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, Protocol

from lightbed import folders
from lightbed.errors import RunError, UserError, nearest, one_of
from lightbed.sweeps.devices import Need, Slots, cores, inventory
from lightbed.sweeps.frozen import Composition, freeze, named
from lightbed.sweeps.jobs import FILE, OVER, Job, Sweep, read_json
from lightbed.sweeps.live import Watch
from lightbed.sweeps.pool import Pool, stops

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext
    from omegaconf import DictConfig


class Engine(Protocol):
    """The settings of a launcher: where its jobs run."""

    @property
    def gpus_per_job(self) -> float | None:
        """How many GPUs a job has; None: as its own config says."""

    def slots(self) -> Slots:
        """What there is room for."""

    def pool(self, *arguments: Any, **more: Any) -> Pool:
        """What runs the jobs; for the arguments see `Pool`."""


@dataclass
class Settings:
    """The keys of `hydra/launcher=local`.

    Attributes:
        jobs: at most so many at a time; None: as many as there is room for.
        jobs_per_gpu: that share one.
        gpus_per_job: None: as many as `trainer.devices` says, else one.
        start: `fork` or `fresh`.
    """

    jobs: int | None = None
    jobs_per_gpu: int = 1
    gpus_per_job: int | None = None
    start: str = "fork"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Settings":
        """The settings of a config, in which `auto` is for None.

        Raises:
            UserError: a value is none.
        """
        names = [field.name for field in fields(cls)]
        for name, value in given.items():
            if name not in names:
                raise UserError(f"hydra.launcher.{name} does not exist: {nearest(name, names)}")
            number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if name != "start" and not number and not (value == "auto" and name != "jobs_per_gpu"):
                raise UserError(f"hydra.launcher.{name}={value} must be a whole number of at least 1")
        one_of(str(given.get("start", "fork")), ("fork", "fresh"), "hydra.launcher.start")
        chosen: dict[str, Any] = {name: None if value == "auto" else value for name, value in given.items()}
        return cls(**chosen)

    def slots(self) -> Slots:
        """Those of this machine."""
        return Slots(inventory(), cores(), self.jobs, self.jobs_per_gpu)

    def pool(self, *arguments: Any, **more: Any) -> Pool:
        """A pool of processes of this machine."""
        return Pool(*arguments, fresh=self.start == "fresh", **more)


class Local:
    """What `hydra/launcher=local` does.

    Args:
        settings: of the launcher.
        context: Hydra's; its loader is replaced by one that composes each job once only.
        config: composed of the whole command line.
    """

    def __init__(self, settings: Engine, context: "HydraContext", config: "DictConfig") -> None:
        self.settings, self.config = settings, config
        self.loader = Composition(cast("ConfigLoaderImpl", context.config_loader))
        context.config_loader = cast("ConfigLoader", self.loader)  # has its methods without being one
        self.sweep: Sweep | None = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial: int) -> "list[JobReturn]":
        """Run the jobs that differ by these overrides, and wait for all of them.

        Raises:
            UserError: a job's configuration is wrong; none was started.
            RunError: jobs failed, and Hydra's own sweeper asked, which would only print the first one's traceback.
        """
        with self.runner() as runner:
            jobs = [runner.freeze(words, number) for number, words in enumerate(job_overrides, initial)]
            runner.check(jobs)
            runner.run(jobs)
        if str(self.config.hydra.sweeper._target_).endswith(".BasicSweeper"):
            summarise(runner.sweep, jobs)
        return [_returned(job, runner.monitors[job.id]) for job in jobs]

    def launch_each(self, ask: Callable[[], tuple[int, Sequence[str]] | None], ended: Callable[[int], Any]) -> None:
        """Run jobs one by one, as many at a time as there is room for; see `Runner.run_each`."""
        with self.runner() as runner:
            runner.run_each(ask, ended)

    def runner(self) -> "Runner":
        """A runner of this sweep's jobs; a context manager, for one thread only.

        Raises:
            UserError: the command is not train.
        """
        if "sweep" not in self.config:
            raise UserError("this launcher is for lightbed train: use hydra/launcher=basic")
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        folders.note_sweep(folder)
        if self.sweep is None:
            self.sweep = Sweep.read(folder) if (folder / FILE).is_file() else Sweep(folder, ["train", *sys.argv[1:]])
        own = self.config.sweep
        return Runner(self.sweep, self.settings, own.retries, fail_fast=own.fail_fast, local=self)


class Runner:
    """Freezes, checks and runs jobs of a sweep; a context manager.

    Args:
        sweep: theirs.
        settings: of the launcher.
        retries: see `sweep.retries`.
        fail_fast: stop all at the first failure.
        trust: whether the jobs may name any class.
        local: composes new jobs; None where all are frozen already.
    """

    def __init__(
        self,
        sweep: Sweep,
        settings: Engine,
        retries: int = 0,
        *,
        fail_fast: bool = False,
        trust: bool = True,
        local: Local | None = None,
    ) -> None:
        self.sweep, self.settings, self.retries, self.fail_fast = sweep, settings, retries, fail_fast
        self.trust, self.local = trust, local
        self.slots = settings.slots()
        self.monitors: dict[str, str] = {}
        self.epochs: dict[str, int] = {}
        self.needs: dict[str, Need] = {}
        self.stack = ExitStack()

    def __enter__(self) -> "Runner":
        with ExitStack() as stack:
            held = stack.enter_context(self.sweep.alone())
            self.watch = Watch(self.sweep, self.monitors, self.epochs)
            self.pool = stack.enter_context(
                self.settings.pool(
                    self.sweep,
                    self.slots,
                    retries=self.retries,
                    trust=self.trust,
                    held=(held,),
                    changed=self.watch,
                )
            )
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def freeze(self, overrides: Sequence[str], number: int) -> Job:
        """Compose a job and write it down.

        Raises:
            UserError: its configuration is wrong; the job is named.
        """
        if self.local is None:
            raise RuntimeError("a resumed sweep has no new jobs")
        config = self.local.loader.take(self.local.config, overrides)
        try:
            content = freeze(config, number)
            self.slots_of(content["config"])
        except UserError as error:
            raise named(number, overrides, error) from error
        except Exception as error:
            from lightbed import faults

            told = faults.users_mistake(error)
            raise (named(number, overrides, told) if told else error) from error
        job = self.sweep.add(number, overrides, content)
        self.know(job, content["config"])
        return job

    def know(self, job: Job, config: Mapping[str, Any]) -> None:
        """Take note of what a frozen job needs."""
        self.needs[job.id] = self.slots.need(config, self.settings.gpus_per_job)
        self.monitors[job.id] = str(config["task"]["monitor"])
        self.epochs[job.id] = config["trainer"]["max_epochs"]

    def slots_of(self, config: dict[str, Any]) -> None:
        """Divide the cores among the reading processes of all jobs that run at a time; no bit depends on it."""
        need = self.slots.need(config, self.settings.gpus_per_job)
        share = max(1, self.slots.cores // self.slots.at_once(need))
        if (config["data"].get("num_workers") or 0) > share:
            config["data"]["num_workers"] = share

    def check(self, jobs: Sequence[Job]) -> None:
        """Look whether frozen jobs can become runs.

        Raises:
            UserError: of the first that cannot.
        """
        faults = self.pool.check(jobs)
        for job in jobs:
            if job.id in faults:
                raise named(job.number, job.overrides, faults[job.id])

    def add(self, job: Job) -> None:
        """Have a job run as soon as there is room."""
        self.pool.add(job, self.needs[job.id])

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs until all have ended.

        Raises:
            Stop, KeyboardInterrupt: by a signal, when all have ended.
        """
        at_once = min(max((self.slots.at_once(self.needs[job.id]) for job in jobs), default=1), len(jobs))
        print(f"{len(jobs)} jobs, {at_once} at a time, in {self.sweep.folder}", flush=True)
        for job in jobs:
            self.add(job)
        self.sweep.write()
        self._loop(lambda: None, lambda _: None)

    def run_each(self, ask: Callable[[], tuple[int, Sequence[str]] | None], ended: Callable[[int], Any]) -> None:
        """Run jobs that are asked for when there is room, until there are no more.

        Args:
            ask: gives a job's number and overrides; None: that was all.
            ended: called with the number of each job that has ended.

        Raises:
            Stop, KeyboardInterrupt: by a signal, when all have ended.
        """
        last: list[Job | None] = [None]
        more = [True]

        def fill() -> None:
            while more[0] and not self.pool.stopping and self._room(last[0]):
                asked = ask()
                more[0] = asked is not None
                if asked is not None:
                    number, words = asked
                    last[0] = job = self.freeze(words, number)
                    self.check([job])
                    self.add(job)

        self._loop(fill, lambda job: ended(job.number))

    def _room(self, last: Job | None) -> bool:
        if self.pool.waiting:
            return False
        return len(self.pool.running) < (1 if last is None else self.slots.at_once(self.needs[last.id]))

    def _loop(self, fill: Callable[[], None], ended: Callable[[Job], Any]) -> None:
        with self.watch, stops(self.pool) as stopped:
            fill()
            while self.pool.busy:
                for job in self.pool.step():
                    ended(job)
                    if self.fail_fast and job.status in ("failed", "killed") and not self.pool.stopping:
                        self.pool.signal(signal.SIGTERM)
                if stopped() is None:
                    fill()
        self.interrupt(stopped())

    def interrupt(self, number: int | None) -> None:
        """End this process as a signal asked it to."""
        from lightbed.runs.signals import Stop

        if number is not None:
            print(f"lightbed: stopped; `lightbed train -m resume={self.sweep.folder}` goes on", file=sys.stderr)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise Stop(number)


def summarise(sweep: Sweep, jobs: Sequence[Job]) -> None:
    """Say which jobs did not end well, and why.

    Raises:
        RunError: there are some.
    """
    ill = [job for job in jobs if job.status not in OVER]
    reported = any((job.folder / "metrics.json").is_file() for job in sweep.jobs)
    for job in ill:
        if reported and (job.folder / "run.json").is_file():  # the report tells it
            continue
        log = next((file for name in ("log.txt", "console.log") if (file := job.folder / name).is_file()), None)
        where = f" (more in {log})" if log else ""
        print(f"lightbed: {job.name}: {job.status}{': ' if job.error else ''}{job.error}{where}", file=sys.stderr)
    if ill:
        count = f"{len(ill)} of {len(jobs)} jobs did not end well"
        raise RunError(f"{count}; `lightbed train -m resume={sweep.folder}` runs them again")


def _returned(job: Job, monitor: str) -> "JobReturn":
    """What Hydra's sweepers take: the monitored value, or why there is none."""
    from hydra.core.utils import JobReturn, JobStatus

    done = job.status == "done"
    returned = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED if done else JobStatus.FAILED)
    value = read_json(job.folder / "metrics.json").get(monitor)
    returned.return_value = value if done else RunError(f"{job.name}: {job.status}: {job.error}")
    return returned
