"""metrics.csv: one row an epoch."""

import csv
import os
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

_FIRST = ("epoch", "step", "seconds")


class History(Logger):
    """A Lightning logger that appends one row an epoch to metrics.csv: validation and training values together.

    Lightning logs an epoch's validation values before its training values, so the row is complete, and written, when
    the training loss arrives. A name that appears for the first time in a later epoch makes the file be written anew,
    in one piece.

    Args:
        folder: the run folder.
        on_row: called with each complete row.
    """

    def __init__(self, folder: Path, on_row: Callable[[dict[str, float]], None] | None = None) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.on_row = on_row
        self.rows = read_history(self.path)
        self.row: dict[str, float] = {}
        self.started = time.monotonic()

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

    @property
    def root_dir(self) -> str:
        return str(self.path.parent)

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
            head = {"epoch": int(self.row.pop("epoch")), "step": step or 0}
            self._append({**head, "seconds": round(time.monotonic() - self.started, 3), **self.row})
            self.row, self.started = {}, time.monotonic()

    def _append(self, row: dict[str, float]) -> None:
        new = not self.rows or set(row) - set(self.rows[0])
        self.rows.append(row)
        if new:
            write_history(self.path, self.rows)
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, list(columns(self.rows))).writerow(row)
        if self.on_row is not None:
            self.on_row(row)


def columns(rows: list[dict[str, float]]) -> list[str]:
    """All names in the rows, epoch and step first, then in alphabetical order."""
    names = {name for row in rows for name in row}
    return [*_FIRST, *sorted(names - set(_FIRST))]


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv; empty cells are left out. No file is no rows."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {name: int(value) if name in ("epoch", "step") else float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    """Write all rows in one piece: beside the file first, then in its place."""
    beside = path.with_suffix(".tmp")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(rows))
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
