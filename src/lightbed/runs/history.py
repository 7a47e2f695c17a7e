"""metrics.csv: one row an epoch."""

import csv
import math
import os
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightbed.errors import UserError
from lightbed.runs.record import writing

_FIRST = ("epoch", "step", "seconds")
Row = dict[str, float]


class History(Logger, Callback):
    """A Lightning logger that appends one row an epoch to metrics.csv: training and validation values together.

    Lightning logs an epoch's validation values before its training values, so the row is complete, and written, when
    the training loss arrives. A name that appears for the first time in a later epoch makes the file be written anew,
    in one piece; so does an epoch that is in the file already: its row and those after it are replaced. A resumed run
    takes the rows out that are newer than its checkpoint, so the file is one history.

    A row's `step` counts the optimizer's steps so far, its `seconds` the time since the row before (since the fit
    began, for the first), so that they sum up to the whole fit's. For this it is a callback, too.

    Args:
        folder: the run folder.
        listeners: called with each complete row, after it was written.
    """

    def __init__(self, folder: Path, listeners: Sequence[Callable[[Row], None]] = ()) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.listeners = list(listeners)
        self.rows = read_history(self.path)
        self.columns = columns(self.rows)
        self.row: Row = {}
        self.started = time.monotonic()
        self.earlier = 0.0  # seconds that a resumed run had spent in the epoch before
        self.begun: Row = {}  # and what it had logged in it

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

    @property
    def root_dir(self) -> str:
        return str(self.path.parent)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.row, self.begun = self.begun, {}
        self.started = time.monotonic() - self.earlier
        self.earlier = 0.0
        self.rows = [row for row in self.rows if row["epoch"] < trainer.current_epoch]
        self.columns = columns(self.rows)
        self._take_out()

    @rank_zero_only
    def _take_out(self) -> None:
        """Let the file have no rows of epochs that a resumed run repeats, and no line that was cut off."""
        if self.path.is_file():
            write_history(self.path, self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": time.monotonic() - self.started, "row": dict(self.row)}  # of the epoch that is not over

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier, self.begun = state_dict["seconds"], dict(state_dict.get("row", {}))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        return None

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(name.startswith("test/") for name in metrics):
            return  # final figures are in metrics.json
        # values are float32: written in the fewest digits that give the same bits back
        self.row |= {name: float(str(np.float32(value))) for name, value in metrics.items()}
        if "train/loss" in metrics:
            # Lightning counts steps from 0
            head = {"epoch": int(self.row.pop("epoch")), "step": (step or 0) + 1}
            now = time.monotonic()
            self._append({**head, "seconds": round(now - self.started, 3), **self.row})
            self.row, self.started = {}, now

    def _append(self, row: Row) -> None:
        kept = [old for old in self.rows if old["epoch"] < row["epoch"]]
        anew = not kept or len(kept) < len(self.rows) or not row.keys() <= set(self.columns)
        self.rows = [*kept, row]
        with writing(self.path):
            if anew:
                self.columns = columns(self.rows)
                write_history(self.path, self.rows)
            else:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, self.columns).writerow(row)
                    file.flush()
                    os.fsync(file.fileno())  # a checkpoint that says the epoch is over follows
        for listener in self.listeners:
            listener(row)


def best_epoch(rows: Sequence[Mapping[str, float]], monitor: str, mode: str) -> int | None:
    """The epoch (from 0) whose monitored value is best, the first of equals; None where it was never a number.

    Args:
        rows: of a history.
        monitor: column that is compared.
        mode: 'max' or 'min', which is better.
    """
    sign = -1 if mode == "max" else 1
    found = [(sign * row[monitor], int(row["epoch"])) for row in rows if not math.isnan(row.get(monitor, math.nan))]
    return min(found)[1] if found else None


def columns(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """All names in the rows, epoch and step first, then in alphabetical order."""
    names = {name for row in rows for name in row}
    return [*_FIRST, *sorted(names - set(_FIRST))]


def read_history(path: Path) -> list[Row]:
    """The rows of a metrics.csv; empty cells are left out. No file is no rows.

    Raises:
        UserError: there is something else in it.
    """
    if not path.is_file():
        return []
    found: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if None not in row.values():  # a line that was cut off is none
                    found.append(_row(row))
    except (ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path} is damaged after {len(found)} rows ({error}): mend or delete it") from error
    return found


def _row(cells: Mapping[str, str]) -> Row:
    row = {name: int(cell) if name in ("epoch", "step") else float(cell) for name, cell in cells.items() if cell}
    return {**row, "epoch": row["epoch"]}


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write all rows in one piece: beside the file first, then in its place."""
    beside = path.with_suffix(".tmp")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(rows))
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
