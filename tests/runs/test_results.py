"""The end of a run: metrics.json, the table, the paths."""

import json
import math
from pathlib import Path

import pytest

from lightbed.cli import main
from lightbed.figures import read_figures
from lightbed.runs.differences import compare_results
from lightbed.runs.history import read_history
from lightbed.runs.results import near, write_metrics
from lightbed.sweeps.collect import find_runs
from lightbed.sweeps.compare import compare
from lightbed.sweeps.show import as_markdown

TINY = ["model.channels=[4]", "trainer.accelerator=cpu", "callbacks.layers=null"]


def test_metrics_json_has_the_values_of_the_tested_epoch(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,seconds,lr,train/loss,val/loss\n0,5,1,.1,2,.5\n1,10,1,.1,1,.7\n")
    assert write_metrics(tmp_path, {"test/loss": 0.6}, 0) == {
        "epoch": 0,
        "train/loss": 2,
        "val/loss": 0.5,
        "test/loss": 0.6,
    }
    assert write_metrics(tmp_path, {"test/loss": 0.6}, None)["val/loss"] == 0.7
    # a validation in place of a test has the last word
    assert write_metrics(tmp_path, {"val/loss": 0.4}, None)["val/loss"] == 0.4
    assert json.loads((tmp_path / "metrics.json").read_text())["val/loss"] == 0.4


def test_an_undefined_figure_is_null_and_all_that_read_it_cope(tmp_path: Path) -> None:
    """JSON has no NaN; a file of an earlier version that says it is the same to a comparison."""
    figures = {"test/loss": 0.5, "test/map_small": math.nan, "test/worst": math.inf}
    (tmp_path / "new").mkdir()
    write_metrics(tmp_path / "new", figures, None)
    text = (tmp_path / "new" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "test/loss": 0.5, "test/map_small": None, "test/worst": None,
    }  # fmt: skip
    found = read_figures(tmp_path / "new" / "metrics.json")
    assert found.pop("test/loss") == 0.5
    assert all(math.isnan(value) for value in found.values())
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.json").write_text(json.dumps({**figures, "test/worst": math.nan}))
    assert compare_results(tmp_path / "old", tmp_path / "new").same
    (tmp_path / "new" / "run.json").write_text('{"status": "done"}')
    assert "0.5" in as_markdown(compare(find_runs([str(tmp_path / "new")])), None)
    assert read_figures(tmp_path / "none.json") == {}


def test_metrics_json_of_a_run_without_epochs_has_its_test_alone(tmp_path: Path) -> None:
    assert write_metrics(tmp_path, {"test/loss": 0.6}, None) == {"test/loss": 0.6}


def test_a_run_ends_with_table_paths_and_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "trainer.max_epochs=2"]) == 0
    lines = [line.rstrip() for line in capfd.readouterr().out.splitlines()]
    end = lines[lines.index("test metrics") :]
    folder = next((tmp_path / "outputs" / "classifier").iterdir())
    final = json.loads((folder / "metrics.json").read_text())
    shown = {line.split()[0]: line.split()[1] for line in end if line.startswith("test/")}
    assert shown == {name: f"{value:.4f}" for name, value in final.items() if name.startswith("test/")}
    pictures = [line.strip() for line in end if line.endswith(".png")]
    assert pictures == [
        f"outputs/classifier/{folder.name}/{name}.png"
        for name in ("curves", "pictures/confusion_matrix", "pictures/precision_recall", "pictures/predictions")
    ]
    assert all(Path(path).is_file() for path in pictures)
    assert end[-1] == "tensorboard --logdir outputs/classifier"
    # beside the test's figures: training and validation after the epoch whose weights were tested
    row = next(row for row in read_history(folder / "metrics.csv") if row["epoch"] == final["epoch"])
    assert {name: final[name] for name in row if "/" in name} == {n: v for n, v in row.items() if "/" in n}
    assert final["val/accuracy"] == max(row["val/accuracy"] for row in read_history(folder / "metrics.csv"))


def test_without_tensorboard_there_is_no_line_and_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["logger=csv", "trainer.max_epochs=0", f"hydra.run.dir={tmp_path / 'run'}", f"paths.outputs={tmp_path}"]
    assert main(["train", *TINY, *words, "callbacks.pictures=null"]) == 0
    assert "tensorboard --logdir" not in capfd.readouterr().out
    assert not list(tmp_path.rglob("events*"))


def test_paths_are_as_short_as_they_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(near(tmp_path / "a" / "b.png")) == "a/b.png"
    assert str(near(Path("outputs"))) == "outputs"
    assert near(tmp_path.parent) == tmp_path.parent
