"""metrics.csv: rows, columns and bits."""

import math
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightbed.runs.history import History, best_epoch, read_history


def log_epoch(history: History, epoch: int, **more: float) -> None:
    """As Lightning logs: validation values, then training values of the same epoch."""
    history.log_metrics({"val/loss": 0.5 / (epoch + 1), "epoch": epoch}, step=10 * epoch + 9)
    history.log_metrics({"train/loss": 1.0 / (epoch + 1), "lr": 0.1, "epoch": epoch, **more}, step=10 * epoch + 9)


def test_a_row_has_both_stages_and_is_written_when_it_is_complete(tmp_path: Path) -> None:
    told = []
    history = History(tmp_path, [told.append])
    history.log_metrics({"val/loss": 0.5, "epoch": 0}, step=9)
    assert not (tmp_path / "metrics.csv").exists()
    history.log_metrics({"train/loss": 1.0, "lr": 0.1, "epoch": 0}, step=9)
    log_epoch(history, 1)
    rows = read_history(tmp_path / "metrics.csv")
    assert [(row["epoch"], row["step"], row["train/loss"], row["val/loss"]) for row in rows] == [
        (0, 10, 1.0, 0.5),
        (1, 20, 0.5, 0.25),
    ]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "epoch,step,seconds,lr,train/loss,val/loss"
    assert told == rows


def test_a_new_name_in_a_later_epoch_becomes_a_column(tmp_path: Path) -> None:
    history = History(tmp_path)
    log_epoch(history, 0)
    log_epoch(history, 1, **{"train/map": 0.7})
    log_epoch(history, 2)
    rows = read_history(tmp_path / "metrics.csv")
    assert [row.get("train/map") for row in rows] == [None, pytest.approx(0.7), None]
    assert [row["train/loss"] for row in rows] == [1.0, 0.5, float(str(np.float32(1 / 3)))]
    assert not list(tmp_path.glob("*.tmp"))


def test_an_existing_file_is_continued(tmp_path: Path) -> None:
    first = History(tmp_path)
    for epoch in range(3):
        log_epoch(first, epoch)
    second = History(tmp_path)
    log_epoch(second, 3)
    assert [row["epoch"] for row in read_history(tmp_path / "metrics.csv")] == [0, 1, 2, 3]


def test_a_repeated_epoch_replaces_its_row_and_those_after_it(tmp_path: Path) -> None:
    """A run killed in its fourth epoch and resumed from the checkpoint of its second."""
    first = History(tmp_path)
    for epoch in range(4):
        log_epoch(first, epoch)
    second = History(tmp_path)
    log_epoch(second, 2, **{"train/loss": 7.0})
    rows = read_history(tmp_path / "metrics.csv")
    assert [(row["epoch"], row["train/loss"]) for row in rows] == [(0, 1.0), (1, 0.5), (2, 7.0)]


def test_a_resumed_run_takes_out_what_is_newer_than_its_checkpoint(tmp_path: Path) -> None:
    first = History(tmp_path)
    for epoch in range(4):
        log_epoch(first, epoch)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,50,0.1")  # cut off by a full disk
    second = History(tmp_path)
    second.load_state_dict({"seconds": 30.0})
    second.on_train_start(SimpleNamespace(current_epoch=2), None)
    assert [row["epoch"] for row in read_history(tmp_path / "metrics.csv")] == [0, 1]
    log_epoch(second, 2)
    rows = read_history(tmp_path / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert 30 <= rows[-1]["seconds"] < 60, "the time before the kill counts"


@settings(deadline=None)  # it writes a file
@given(bits=st.integers(0, 2**32 - 1))
def test_float32_values_come_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, bits: int) -> None:
    value = struct.unpack("f", struct.pack("I", bits))[0]
    folder = tmp_path_factory.mktemp("bits")
    History(folder).log_metrics({"train/loss": value, "epoch": 0}, step=0)
    (row,) = read_history(folder / "metrics.csv")
    if math.isnan(value):
        assert math.isnan(row["train/loss"])
    else:
        assert np.float32(row["train/loss"]).tobytes() == np.float32(value).tobytes()


def test_tests_are_no_rows(tmp_path: Path) -> None:
    History(tmp_path).log_metrics({"test/loss": 1.0, "epoch": 3}, step=5)
    assert read_history(tmp_path / "metrics.csv") == []


def test_seconds_sum_up_to_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 103.5, 110.0])
    monkeypatch.setattr("lightbed.runs.history.time", SimpleNamespace(monotonic=lambda: next(clock)))
    history = History(tmp_path)  # at 0
    history.on_train_start(SimpleNamespace(current_epoch=0), None)  # at 100
    log_epoch(history, 0)
    log_epoch(history, 1)
    assert [row["seconds"] for row in read_history(tmp_path / "metrics.csv")] == [3.5, 6.5]


def test_best_epoch_is_the_first_of_the_best_and_never_nan() -> None:
    values = [0.2, math.nan, 0.9, 0.9, 0.1]
    rows = [{"epoch": i, "val/accuracy": value} for i, value in enumerate(values)]
    assert best_epoch(rows, "val/accuracy", "max") == 2
    assert best_epoch(rows, "val/accuracy", "min") == 4
    assert best_epoch(rows, "val/loss", "min") is None
    assert best_epoch([{"epoch": 0, "val/loss": math.nan}], "val/loss", "min") is None
