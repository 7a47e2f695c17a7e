"""Freezes, checks and runs the jobs of one sweep, wherever they run."""

import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from lightbed.errors import UserError
from lightbed.faults import one_line
from lightbed.sweeps.code import Code
from lightbed.sweeps.devices import Need, Slots
from lightbed.sweeps.frozen import freeze, named
from lightbed.sweeps.jobs import Job, Sweep, in_its_folder, read_json
from lightbed.sweeps.live import Watch
from lightbed.sweeps.pool import Pool, stops

if TYPE_CHECKING:
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


class Runner:
    """Freezes, checks and runs jobs of a sweep; a context manager.

    Args:
        sweep: theirs.
        settings: of the launcher.
        retries: see `sweep.retries`.
        fail_fast: stop all at the first failure.
        trust: whether the jobs may name any class.
        compose: gives the config of a job with these overrides; None where all are frozen already.

    Raises:
        UserError: `retries` is no such number.
    """

    def __init__(
        self,
        sweep: Sweep,
        settings: Engine,
        retries: int = 0,
        *,
        fail_fast: bool = False,
        trust: bool = True,
        compose: "Callable[[Sequence[str]], DictConfig] | None" = None,
    ) -> None:
        if not isinstance(retries, int) or retries < 0:
            raise UserError(f"sweep.retries={retries} must be a whole number of at least 0")
        self.sweep, self.settings, self.retries, self.fail_fast = sweep, settings, retries, fail_fast
        self.trust, self.compose = trust, compose
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
                    code=Code.freeze(self.sweep.folder),
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
        content = self._content(overrides, number)
        job = self.sweep.add(number, overrides, content)
        self.know(job, content["config"])
        return job

    def _content(self, overrides: Sequence[str], number: int) -> dict[str, Any]:
        if self.compose is None:
            raise RuntimeError("a resumed sweep has no new jobs")
        config = self.compose(overrides)
        try:
            content = freeze(config, number)
            self.divide_workers(content["config"])
        except UserError as error:
            raise named(number, overrides, error) from error
        except Exception as error:
            from lightbed import faults

            told = faults.users_mistake(error)
            raise (named(number, overrides, told) if told else error) from error
        return content

    def know(self, job: Job, config: Mapping[str, Any]) -> None:
        """Take note of what a frozen job needs."""
        self.needs[job.id] = self.slots.need(config, self.settings.gpus_per_job)
        self.monitors[job.id] = str(config["task"]["monitor"])
        self.epochs[job.id] = config["trainer"]["max_epochs"]

    def divide_workers(self, config: dict[str, Any]) -> None:
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

    def check_samples(self, samples: Sequence[Sequence[str]]) -> None:
        """Look whether jobs with these overrides, which a search may come to, could become runs; none is kept.

        Raises:
            UserError: of the first that cannot.
        """
        with TemporaryDirectory() as place:
            jobs = []
            for number, overrides in enumerate(samples):
                job = Job(str(number), number, list(overrides), Path(place), Path(place, f"{number}.json"))
                job.frozen.write_text(json.dumps(self._content(overrides, number)), encoding="utf-8")
                jobs.append(job)
            self.check(jobs)

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

        One whose configuration is wrong, which the samples before did not show, costs only itself.

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
                if asked is not None and (job := self._checked(*asked)):
                    last[0] = job
                    self.add(job)
                elif asked is not None:
                    ended(asked[0])

        self._loop(fill, lambda job: ended(job.number))

    def _checked(self, number: int, overrides: Sequence[str]) -> Job | None:
        """A new job; None where its configuration is wrong, which is told."""
        job = None
        try:
            job = self._known(overrides, number) or self.freeze(overrides, number)
            self.check([job])
        except UserError as error:
            print(f"lightbed: {one_line(error)}", file=sys.stderr)
            if job is not None:
                job.status, job.error = "failed", one_line(error)
                self.sweep.write()
            return None
        return job

    def _known(self, overrides: Sequence[str], number: int) -> Job | None:
        """The job that the sweep has already under this number: a trial that was interrupted and goes on."""
        for job in self.sweep.jobs:
            if (job.number, job.overrides) == (number, list(overrides)) and read_json(job.frozen):
                self.know(job, in_its_folder(job)["config"])
                return job
        return None

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
            again = shlex.quote(f"resume={self.sweep.folder}")
            print(f"lightbed: stopped; `lightbed train -m {again}` goes on", file=sys.stderr)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise Stop(number)
