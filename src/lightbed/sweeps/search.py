"""A search with Optuna: what to try next and what came of it, kept in a file of the sweep's folder.

Trials are asked for and told one by one, so none waits for another. A trial's own run folder says what became of it,
so the study hears the truth whatever ended its process.
"""

import itertools
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightbed.errors import UserError, one_of
from lightbed.monitor import mode_of
from lightbed.sweeps.collect import Run, read_run
from lightbed.sweeps.space import Space

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

STUDY = "study.journal"  # of a search, in the sweep's folder
_NAME = "search"


class Settings(NamedTuple):
    """The keys of conf/hydra/sweeper/optuna.yaml."""

    trials: int
    sampler: Any
    seed: int
    pruner: Any
    pruner_startup: int
    pruner_warmup: int

    def check(self) -> None:
        """Refuse what no search can use.

        Raises:
            UserError: a number is too small, or a name is not known.
        """
        if self.trials < 1:
            raise UserError(f"hydra.sweeper.trials={self.trials} must be at least 1")
        for name in ("pruner_startup", "pruner_warmup"):
            if getattr(self, name) < 0:
                raise UserError(f"hydra.sweeper.{name}={getattr(self, name)} must be at least 0")
        if isinstance(self.sampler, str):
            one_of(self.sampler, ("tpe", "cmaes", "random", "grid"), "hydra.sweeper.sampler")
        if isinstance(self.pruner, str):
            one_of(self.pruner, ("median", "none"), "hydra.sweeper.pruner")


class Search:
    """The study of a sweep's folder, made or gone on with.

    Args:
        folder: of the sweep.
        space: what may be tried.
        settings: how.
        monitor: logged name of the value that is to be best.

    Raises:
        UserError: Optuna is missing, or the folder's study is of another search.
    """

    def __init__(self, folder: Path, space: Space, settings: Settings, monitor: str) -> None:
        optuna = import_optuna()
        settings.check()
        self.folder, self.space, self.settings, self.monitor = folder, space, settings, monitor
        storage = open_storage(folder)
        self.study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            direction="maximize" if mode_of(monitor) == "max" else "minimize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),  # the trials ask for themselves
        )
        self._check_same()
        if "command" not in self.study.user_attrs:
            self.study.set_user_attr("command", sys.argv[1:])
        pruner = {"name": settings.pruner, "startup": settings.pruner_startup, "warmup": settings.pruner_warmup}
        self.study.set_user_attr("pruner", pruner)  # the trials' own processes ask it
        self.again = self._left_behind()
        # from the same seed, a study that goes on would draw what it has drawn already
        self.study.sampler = make_sampler(settings, len(self.study.trials))
        if settings.sampler == "grid":  # in its order, and each combination once, however often the search goes on
            self._enqueue(space.grid())

    def _check_same(self) -> None:
        free = {key: repr(distribution) for key, distribution in self.space.free.items()}
        now = {"monitor": self.monitor, "free": free, "fixed": [word for word in self.space.fixed if _matters(word)]}
        then = self.study.user_attrs.get("search", now)
        for key, what in (("monitor", "for"), ("free", "among"), ("fixed", "with")):
            if then[key] != now[key]:
                raise UserError(
                    f"{self.folder} has a search {what} {_told(then[key])}, which this is not ({_told(now[key])}): "
                    "give the same command, or another folder"
                )
        self.study.set_user_attr("search", now)

    def _enqueue(self, grid: Mapping[str, Sequence[Any]]) -> None:
        known = [trial.system_attrs.get("fixed_params") for trial in self.study.trials]
        for values in itertools.product(*grid.values()):
            wanted = dict(zip(grid, values, strict=True))
            if wanted not in known:
                self.study.enqueue_trial(wanted)

    def _left_behind(self) -> "list[FrozenTrial]":
        """The trials that a killed or interrupted sweep left to go on; what ended meanwhile is told."""
        from optuna.trial import TrialState

        found = []
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            run = self.run_of(trial.number)
            if run is not None and run.status in ("done", "pruned", "failed"):
                self.tell(trial.number)
            else:
                found.append(trial)
        return found

    @property
    def left(self) -> int:
        """How many new trials are to be asked for yet."""
        waiting = sum(1 for trial in self.study.trials if trial.state.name == "WAITING")
        left = max(0, self.settings.trials - len(self.study.trials) + waiting)
        return min(left, waiting) if self.settings.sampler == "grid" else left

    def ask(self) -> tuple[int, list[str]] | None:
        """Number and overrides of the next trial; None when there are enough."""
        if not self.again and not self.left:
            return None
        trial = self.again.pop(0) if self.again else self.study.ask(self.space.free)
        return trial.number, [f"trial={trial.number}", *self.space.words(trial.params)]

    def tell(self, number: int) -> None:
        """Take the outcome of a trial from its folder; one that was interrupted has none yet."""
        from optuna.trial import TrialState

        run = self.run_of(number)
        if run is not None and run.status == "interrupted":
            return
        value = run.metrics.get(self.monitor, math.nan) if run is not None else math.nan
        if run is not None and run.status == "pruned":
            self.study.tell(number, state=TrialState.PRUNED)
        elif run is not None and run.status == "done" and math.isfinite(value):
            self.study.tell(number, value)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def run_of(self, number: int) -> Run | None:
        """The run of a trial, if it has become one."""
        for folder in (self.folder / f"trial={number}", *sorted(self.folder.glob(f"trial={number},*"))):
            if (folder / "run.json").is_file():
                return read_run(folder)
        return None

    @property
    def best(self) -> "FrozenTrial | None":
        """The best of the trials that were trained to their end."""
        try:
            found: FrozenTrial = self.study.best_trial
        except ValueError:  # there is none
            return None
        return found

    def summary(self) -> str:
        """What came of the search, in a line."""
        words = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "not over"}
        counts = Counter(words.get(trial.state.name, "to come") for trial in self.study.trials)
        ended = ", ".join(f"{counts[word]} {word}" for word in words.values() if counts[word])
        if self.best is None:
            return f"search: {ended}; no trial has a value of {self.monitor}"
        values = ", ".join(f"{key}={_brief(value)}" for key, value in self.best.params.items())
        return f"search: {ended}; best {self.monitor} {self.best.value:.4f} is trial {self.best.number}: {values}"


def import_optuna() -> Any:
    """Optuna, silent.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'lightbed[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_storage(folder: Path) -> "optuna.storages.BaseStorage":
    """The file of a sweep's folder that its processes write into by turns."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / STUDY)))


def study_of(folder: Path) -> "optuna.Study":
    """The study of a search's folder."""
    return import_optuna().load_study(study_name=_NAME, storage=open_storage(folder))  # type: ignore[no-any-return]


def command_of(folder: Path) -> list[str]:
    """The words of the command line that began the search of a folder."""
    return [str(word) for word in study_of(folder).user_attrs["command"]]


def running_trial(folder: Path, number: int) -> "Trial | None":
    """A trial that is going on, for its own process; None where it is over."""
    optuna = import_optuna()
    # a sampler that keeps no books: the values are chosen already
    sampler = optuna.samplers.RandomSampler()
    study = optuna.load_study(study_name=_NAME, storage=open_storage(folder), sampler=sampler)
    study.pruner = make_pruner(study.user_attrs["pruner"])
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if trial.number == number:
            return optuna.trial.Trial(study, trial._trial_id)  # type: ignore[no-any-return]
    return None


def make_sampler(settings: Settings, seen: int) -> "BaseSampler":
    """The sampler that the settings name; `seen`: how many trials there are already."""
    from optuna import samplers

    from lightbed.make import make

    seed = (settings.seed * 1_000_003 + seen) % 2**32
    if isinstance(settings.sampler, Mapping):
        found: BaseSampler = make(settings.sampler, "hydra.sweeper.sampler")
        return found
    if settings.sampler == "cmaes":
        try:
            return samplers.CmaEsSampler(seed=seed)
        except ModuleNotFoundError as error:
            raise UserError("hydra.sweeper.sampler=cmaes needs cmaes: pip install 'lightbed[sweep]'") from error
    if settings.sampler in ("random", "grid"):  # a grid's values are given
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(seed=seed, constant_liar=True)  # apart from what runs at the same time


def make_pruner(told: Mapping[str, Any]) -> "BasePruner":
    """The pruner that the study of a search says."""
    from optuna.pruners import MedianPruner, NopPruner

    from lightbed.make import make

    if isinstance(told["name"], Mapping):
        found: BasePruner = make(told["name"], "hydra.sweeper.pruner")
        return found
    if told["name"] == "none":
        return NopPruner()
    return MedianPruner(n_startup_trials=told["startup"], n_warmup_steps=told["warmup"])


def _matters(word: str) -> bool:
    return not word.startswith(("hydra", "paths.", "resume", "trust"))


def _told(what: Any) -> str:
    if isinstance(what, Mapping):
        return ", ".join(what)
    return ", ".join(what) or "nothing more" if isinstance(what, Sequence) and not isinstance(what, str) else str(what)


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
