"""Runs as the rows of one table: only what varies between them, best first, seeds summed up."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from lightbed.errors import UserError, nearest
from lightbed.monitor import mode_of, tested
from lightbed.sweeps.collect import Run

# nothing of a run's numbers depends on these
_SHOWN_ONLY = tuple(f"callbacks.{name}" for name in ("progress", "layers", "curves", "pictures"))
_NOT_COMPARED = ("paths", "logger", "hydra", *_SHOWN_ONLY)
_FIRST = ("experiment", "sweep")  # what they choose decides keys of every group
_FACTS = ("num_classes", "in_channels", "in_features", "image_size")  # keys that the data fills in
_SEED, _EPOCH = "seed", ("epoch",)
_DRAWN = re.compile(r"-?\d+\.\d{6,}(e-?\d+)?|-?\d+\.\d+e-\d+")
_ABSENT, _TRIAL = "", "trial"
_STAGES = ("test", "val", "train")


def brief(text: str) -> str:
    """A setting as tables show it: a number that a search drew with four digits, others as they are."""
    return f"{float(text):.4g}" if _DRAWN.fullmatch(text) else text


def short_names(columns: Sequence[str]) -> dict[str, str]:
    """The last part of each setting's dotted name, where it is that of no other one."""
    tails = Counter(column.rpartition(".")[2] for column in columns)
    return {column: tail if tails[tail := column.rpartition(".")[2]] == 1 else column for column in columns}


@dataclass
class Figure:
    """A metric of one run, or its mean and standard deviation over several."""

    value: float
    deviation: float | None = None  # over seeds, of a sample (n - 1); None for a single run


@dataclass
class Row:
    """One run, or several that differ in their seed only."""

    runs: list[Run]
    settings: dict[str, str]
    figures: dict[str, Figure]

    @property
    def status(self) -> str:
        """The status of all, or how many have which."""
        counts = Counter(run.status for run in self.runs)
        return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {status}" for status, n in counts.items())

    @property
    def counted(self) -> list[Run]:
        """The runs that the row's numbers are of: those that are done, or all where none is."""
        return [run for run in self.runs if run.status == "done"] or self.runs

    @property
    def seconds(self) -> float | None:
        """Mean seconds of a run."""
        known = [run.seconds for run in self.counted if run.seconds is not None]
        return mean(known) if known else None

    @property
    def memory(self) -> float | None:
        """MiB of the run that needed most."""
        return max((run.memory for run in self.counted if run.memory is not None), default=None)

    @property
    def gpu_memory(self) -> float | None:
        """MiB on a GPU, of the run that needed most."""
        return max((run.gpu_memory for run in self.counted if run.gpu_memory is not None), default=None)

    def label(self, columns: Sequence[str]) -> str:
        """What is its own of this row, for a legend: `model=cnn, lr=0.01`."""
        short = short_names(columns)
        shown = [column for column in columns if self.settings[column]]
        said = ", ".join(f"{short[column]}={brief(self.settings[column])}" for column in shown)
        return said or self.runs[0].folder.name


@dataclass
class Comparison:
    """A table over runs: `columns` are the settings that vary, `figures` the metrics, rows the best first."""

    columns: list[str]
    figures: list[str]
    rows: list[Row]
    sort: str
    monitor: str

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of their rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def in_order(self) -> list[Row]:
        """The rows by their settings instead, numbers from the lowest on."""
        return sorted(self.rows, key=lambda row: [_rank(row, column) for column in self.columns])


def compare(runs: Sequence[Run], *, sort: str | None = None, seeds: bool = True) -> Comparison:
    """The table over `runs`.

    Args:
        runs: at least one.
        sort: metric or setting whose best, or smallest, comes first; None for the monitored metric.
        seeds: whether runs that differ in their seed only are one row.

    Raises:
        UserError: there is no column `sort`.
    """
    columns = varying([run for run in runs if run.settings] or runs)
    grouped = seeds and _SEED in columns
    if grouped:
        columns.remove(_SEED)
    groups: dict[tuple[str, ...], list[Run]] = {}
    for i, run in enumerate(runs):
        key = tuple(run.settings.get(column, _ABSENT) for column in columns)
        groups.setdefault(key if grouped else (*key, str(i)), []).append(run)
    rows = [Row(members, dict(zip(columns, key, strict=False)), {}) for key, members in groups.items()]
    for row in rows:
        row.figures = _figures(row.counted)
    monitor = Counter(run.monitor for run in runs).most_common(1)[0][0]
    names = _names(rows, monitor)
    # a search chose by what it monitored, and so does its table: test images steer no choice
    wanted = (monitor,) if _TRIAL in columns else (tested(monitor), monitor)
    chosen = sort or next((name for name in wanted if name in names), "seconds")
    if chosen not in (*names, *columns, "seconds"):
        raise UserError(f"sort={chosen} is no column: {nearest(chosen, [*names, *columns, 'seconds'])}")
    names.sort(key=lambda name: name != chosen)
    return Comparison(columns, names, sorted(rows, key=lambda row: _rank(row, chosen)), chosen, monitor)


def varying(runs: Sequence[Run]) -> list[str]:
    """Settings that differ between the runs and are worth a column.

    A setting that follows from another column is none: a key that always equals one before it (`data.seed` and `seed`),
    keys of a group or experiment that come with its choice, and what the data fills in. What a command line named
    always is one.
    """
    named = dict.fromkeys(name for run in runs for name in run.named)
    choices = dict.fromkeys(name for run in runs for name in sorted(run.choices))
    order = dict.fromkeys([*_FIRST, *choices, *named, *(name for run in runs for name in run.settings)])
    kept: dict[str, tuple[str, ...]] = {}
    for name in order:
        values = tuple(run.settings.get(name, _ABSENT) for run in runs)
        if len(set(values)) == 1 or any(f"{name}.".startswith(f"{part}.") for part in _NOT_COMPARED):
            continue
        said = name in named
        follows = any(
            (name.startswith(f"{column}.") or column in _FIRST or name.rpartition(".")[2] in _FACTS)
            and len(set(zip(seen, values, strict=True))) == len(set(seen))
            for column, seen in kept.items()
            if column in choices
        )
        if said or not (follows or values in kept.values()):
            kept[name] = values
    return list(kept)


def _figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """Final metrics of the runs, the epoch counted from 1; of a run that did not end, those of its best epoch."""
    single: list[dict[str, float]] = []
    for run in runs:
        own = {name: float(value) for name, value in (run.metrics or run.best or {}).items()}
        single.append({name: value + (name == "epoch") for name, value in own.items() if name in _EPOCH or "/" in name})
    found: dict[str, Figure] = {}
    for name in dict.fromkeys(name for values in single for name in values):
        values = [each[name] for each in single if name in each]
        finite = all(math.isfinite(value) for value in values)
        deviation = (stdev(values) if finite else math.nan) if len(values) > 1 else None
        found[name] = Figure(mean(values) if finite else math.nan, deviation)
    return found


def _names(rows: Sequence[Row], monitor: str) -> list[str]:
    """Metric names, those of the test first; in each stage first the monitored one, then the loss, its parts last."""
    names = {name for row in rows for name in row.figures}
    own = monitor.partition("/")[2]

    def place(name: str) -> tuple[int, bool, bool, bool, str]:
        stage, _, metric = name.partition("/")
        number = _STAGES.index(stage) if stage in _STAGES else len(_STAGES)
        return number, metric != own, metric != "loss", metric.startswith("loss_"), name

    return sorted(names, key=place)


def _rank(row: Row, sort: str) -> tuple[bool, float, str]:
    """Best first; a row without a number comes last."""
    if sort in row.settings:
        text = row.settings[sort]
        try:
            return False, float(text), text
        except ValueError:
            return True, 0.0, text
    if sort == "seconds":
        value = row.seconds if row.seconds is not None else math.nan
        sign = 1
    else:
        value = row.figures[sort].value if sort in row.figures else math.nan
        sign = 1 if sort == "epoch" or mode_of(sort) == "min" else -1
    return math.isnan(value), 0.0 if math.isnan(value) else sign * value, ""
