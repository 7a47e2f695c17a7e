"""The local launcher: a multirun's jobs frozen, checked, and run side by side."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightbed import folders
from lightbed.errors import RunError, UserError, nearest, one_of
from lightbed.sweeps.devices import Slots, cores, inventory
from lightbed.sweeps.frozen import Composition
from lightbed.sweeps.jobs import FILE, OVER, Job, Sweep, read_json
from lightbed.sweeps.pool import Pool
from lightbed.sweeps.runner import Engine, Runner

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext
    from omegaconf import DictConfig


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
            UserError: a job's configuration is wrong, or its folder holds a run already; none was started.
            RunError: jobs failed, and Hydra's own sweeper asked, which would only print the first one's traceback.
        """
        basic = str(self.config.hydra.sweeper._target_).endswith(".BasicSweeper")
        if basic and self.config.hydra.sweeper.max_batch_size is not None:  # a later batch would not be checked now
            raise UserError("hydra.sweeper.max_batch_size: say hydra.launcher.jobs=N, so many run at a time")
        with self.runner() as runner:
            jobs = [runner.freeze(words, number) for number, words in enumerate(job_overrides, initial)]
            if taken := next((job for job in jobs if (job.folder / "run.json").exists()), None):
                del runner.sweep.jobs[-len(jobs) :]
                raise UserError(f"{taken.folder} holds a run already: go on with resume=SWEEP, or set hydra.sweep.dir")
            runner.check(jobs)
            runner.run(jobs)
        if basic:
            summarise(runner.sweep, jobs)
        return [_returned(job, runner.monitors[job.id]) for job in jobs]

    def launch_each(
        self,
        ask: Callable[[], tuple[int, Sequence[str]] | None],
        ended: Callable[[int], Any],
        samples: Sequence[Sequence[str]] = (),
    ) -> None:
        """Run jobs one by one, as many at a time as there is room for; see `Runner.run_each`."""
        with self.runner() as runner:
            runner.check_samples(samples)
            runner.run_each(ask, ended)

    def runner(self) -> Runner:
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
        return Runner(self.sweep, self.settings, own.retries, fail_fast=own.fail_fast, compose=self._compose)

    def _compose(self, overrides: Sequence[str]) -> "DictConfig":
        return self.loader.take(self.config, overrides)


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
        again = shlex.quote(f"resume={sweep.folder}")
        raise RunError(f"{count}; `lightbed train -m {again}` runs them again")


def _returned(job: Job, monitor: str) -> "JobReturn":
    """What Hydra's sweepers take: the monitored value, or why there is none."""
    from hydra.core.utils import JobReturn, JobStatus

    done = job.status == "done"
    returned = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED if done else JobStatus.FAILED)
    value = read_json(job.folder / "metrics.json").get(monitor)
    returned.return_value = value if done else RunError(f"{job.name}: {job.status}: {job.error}")
    return returned
