"""`lightbed train -m resume=SWEEP`: the jobs of a sweep that are missing, failed or interrupted, and no others."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightbed import folders
from lightbed.errors import UserError
from lightbed.sweeps.jobs import FILE, OVER, Sweep, in_its_folder

if TYPE_CHECKING:
    from lightbed.words import Line

_TAKEN = ("resume", "trust", "sweep.retries", "sweep.fail_fast")
_KEPT = ("sweep.retries=", "sweep.fail_fast=")  # of the sweep's own line, where nothing else is given
_LAUNCHER = ("hydra/launcher=", "hydra.launcher.")


def named(line: "Line") -> str | None:
    """The sweep that a command line resumes, if it does."""
    if line.command != "train" or not line.flags.multirun:
        return None
    values = [word.partition("=")[2] for word in line.overrides if word.startswith("resume=")]
    return values[-1].strip("'\"") if values and values[-1] != "null" else None


def go_on(line: "Line", place: str) -> None:
    """Run what is left of a sweep, from its frozen configs.

    Jobs that were interrupted or killed go on from their last checkpoint; those that failed begin anew, and what they
    had left lies in `attempt_N` in their folders.

    Raises:
        UserError: there is no such sweep, it still goes on, names what is not trusted, or a word cannot be given beside
            it.
        RunError: jobs failed again.
    """
    from hydra.utils import instantiate

    from lightbed.faults import Composer
    from lightbed.sweeps.launcher import summarise
    from lightbed.sweeps.runner import Runner
    from lightbed.sweeps.trust import check_sweep

    folder = Path(place).expanduser()
    if not (folder / FILE).is_file():
        raise UserError(f"resume={place} {_why_not(folder)}")
    for word in line.overrides:
        key = word.partition("=")[0].lstrip("+~")
        if key not in _TAKEN and not f"{key}=".startswith(_LAUNCHER):
            taken = ", ".join((*_TAKEN[1:], "hydra.launcher, hydra/launcher"))
            raise UserError(f"{word}: resume runs a sweep's own jobs; beside it only {taken} can be given")
    sweep = Sweep.read(folder.resolve())
    given = [word for word in line.overrides if not word.startswith("resume=")]
    if not any(word.startswith("hydra/launcher=") for word in given):  # that of the sweep
        given = [*(word for word in sweep.words if word.lstrip("+~").startswith(_LAUNCHER)), *given]
    config = Composer(line)([*(word for word in sweep.words if word.startswith(_KEPT)), *given])
    folders.note_sweep(sweep.folder)
    left = [job for job in sweep.jobs if job.status not in OVER]
    if not left:
        print(f"{folder}: all {len(sweep.jobs)} jobs are done")
        return
    if not config.trust:
        check_sweep(sweep, line.overrides)
    own = config.sweep
    launcher = instantiate(config.hydra.launcher, _convert_="all")
    if not hasattr(launcher, "settings"):
        raise UserError("hydra/launcher=basic does not resume a sweep: use hydra/launcher=local")
    settings = launcher.settings
    with (
        folders.working_in(sweep.place),
        Runner(sweep, settings, own.retries, fail_fast=own.fail_fast, trust=bool(config.trust)) as runner,
    ):
        for job in left:
            runner.know(job, in_its_folder(job)["config"])
            job.status = "waiting"
        runner.check(left)
        runner.run(left)
    summarise(sweep, left)


def _why_not(folder: Path) -> str:
    """Why a folder is none of a sweep that can go on."""
    if (folder / "run.json").is_file():
        return "is a single run: leave out -m"
    if (folder / "multirun.yaml").is_file() and any(folder.glob("*/run.json")):
        return (
            "was run with hydra/launcher=basic, which keeps no list of its jobs: go on with one by "
            "`lightbed train resume=JOB`, its folder; sweeps of other launchers can be resumed as a whole"
        )
    return f"has no {FILE}; with -m give the folder of a multirun"
