"""Early stopping."""

from pathlib import Path

import pytest

from lightbed.cli import main
from lightbed.runs.history import read_history

TINY = ["model.channels=[4]", "trainer.accelerator=cpu", "callbacks=early_stopping", "callbacks.pictures=null"]


def run(folder: Path, *words: str) -> int:
    return main(["train", *TINY, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}", *words])


@pytest.mark.parametrize(("monitor", "column"), [("val/accuracy", "val/accuracy"), ("val/loss", "val/loss")])
def test_it_stops_when_nothing_improves(
    tmp_path: Path, monitor: str, column: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # weights that never move: the first epoch is the best
    words = ["optimizer=sgd", "optimizer.lr=1e-20", "optimizer.weight_decay=0", "callbacks.early_stopping.patience=2"]
    assert run(tmp_path / "run", *words, f"task.monitor={monitor}", "callbacks.early_stopping.min_delta=0.5") == 0
    rows = read_history(tmp_path / "run" / "metrics.csv")
    assert len(rows) == 3
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("stopped early"))
    assert line == f"stopped early: {monitor} has not improved on {rows[0][column]:.4f} for 2 validations"


def test_it_stops_at_nan(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            tmp_path / "run",
            "optimizer=sgd",
            "optimizer.lr=1e30",
            "task.monitor=val/loss",
            "trainer.limit_train_batches=1",
        )
        == 0
    )
    assert "stopped early: val/loss is not finite" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.val_fraction=0"],
            "callbacks.early_stopping.monitor=val/accuracy, but the data has no validation split",
        ),
        (["callbacks.early_stopping.monitor=val/acuracy"], "is not logged: did you mean val/accuracy"),
        (["callbacks.early_stopping.patience=0"], "callbacks.early_stopping.patience=0 must be at least 1"),
    ],
)
def test_faults_are_told_in_one_line(
    tmp_path: Path, words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", *words) == 2
    error = capfd.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
