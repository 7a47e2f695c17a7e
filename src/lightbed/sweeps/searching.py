"""The course of a search: trials are run by whatever launcher there is, and the best becomes an experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightbed import folders
from lightbed.errors import RunError
from lightbed.sweeps.best import write_best
from lightbed.sweeps.jobs import FILE, Sweep
from lightbed.sweeps.search import STUDY, Search, command_of, import_optuna
from lightbed.sweeps.space import Space

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from lightbed.words import Line


def search(sweeper: Any, overrides: "Sequence[Override]") -> None:
    """Search among what these overrides leave open, from the folder's study on if it has one.

    Args:
        sweeper: Hydra's, set up; with `settings`.
        overrides: of the command line.

    Raises:
        UserError: Optuna is missing, nothing is left open, or a value does not compose.
        RunError: a trial failed; all others were run.
    """
    import_optuna()
    space = Space.of(overrides)
    folder = Path(str(sweeper.config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folders.note_sweep(folder)
    study = Search(folder, space, sweeper.settings, str(sweeper.config.task.monitor))
    sweeper.validate_batch_is_legal(space.corners())
    failed = run(study, sweeper.launcher)
    print(study.summary())
    best = None if study.best is None else study.run_of(study.best.number)
    if best is not None:
        print(f"  {write_best(folder, best, study.summary())}")
    if failed:
        names = ", ".join(str(number) for number in failed[:10])
        raise RunError(f"{len(failed)} of the search's trials failed ({names}): see the table, and each one's log.txt")


def run(study: Search, launcher: Any) -> list[int]:
    """Ask for trials and tell what came of them until there are enough; returns the numbers of those that failed.

    A launcher that has `launch_each` is given trials one by one, as many at a time as it has room for; any other one
    runs one at a time.
    """
    failed: list[int] = []

    def ended(number: int) -> None:
        study.tell(number)
        found = study.run_of(number)
        if found is None or found.status not in ("done", "pruned", "interrupted"):
            failed.append(number)

    if hasattr(launcher, "launch_each"):
        launcher.launch_each(study.ask, ended, study.space.corners())
        return failed
    while (asked := study.ask()) is not None:
        number, words = asked
        before = study.run_of(number)
        if before is not None:  # a killed sweep left it, and only the local launcher goes on from a checkpoint
            before.folder.rename(before.folder.with_name(f"attempt_{before.folder.name}"))
        launcher.launch([words], initial_job_idx=number)
        ended(number)
    return failed


def words_again(line: "Line") -> tuple[list[str], Path] | None:
    """What goes on with the search that `resume=SWEEP` names, if it is one: its words, then those beside; and where.

    The folder is the one that the search was begun in, for its words may have relative paths.

    Raises:
        UserError: what the search's files say is not trusted.
    """
    from lightbed.sweeps.resume import named
    from lightbed.sweeps.trust import check_search, trusted

    place = named(line)
    folder = Path(place).expanduser().resolve() if place else None
    if folder is None or not (folder / STUDY).is_file():
        return None
    beside = [word for word in line.overrides if not word.startswith("resume=")]
    if not trusted(beside):
        check_search(folder)
    began = Sweep.read(folder).place if (folder / FILE).is_file() else Path.cwd()
    return [*command_of(folder), *beside, f"hydra.sweep.dir='{folder}'"], began
