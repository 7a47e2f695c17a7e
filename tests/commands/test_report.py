"""`lightbed report`: only what varies, best first, seeds summed up, failures named; without torch, and fast."""

import csv
import json
import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from lightbed.cli import main
from lightbed.commands.report import samples
from lightbed.draw.figure import save
from lightbed.errors import UserError
from lightbed.sweeps import show
from lightbed.sweeps.collect import Run, find_runs, split_places
from lightbed.sweeps.compare import compare, varying

CONFIG: dict[str, Any] = {
    "paths": {"outputs": "outputs"}, "name": "net", "seed": 0, "task": {"monitor": "val/accuracy"},
    "model": {"_target_": "lightbed.models.cnn.CNN", "channels": [4, 8], "num_classes": 10},
    "optimizer": {"lr": 0.001}, "data": {"seed": 0}, "trainer": {"max_epochs": 2}, "scheduler": {"max_lr": 0.001},
}  # fmt: skip
CNN, DNN = CONFIG["model"], {"_target_": "lightbed.models.dnn.DNN", "hidden": [8], "num_classes": 10}


def write_run(folder: Path, words: list[str] = [], *, accuracy: float | None = None, model: dict = CNN, seed: int = 0,  # noqa: B006
              lr: float = 0.001, **record: Any) -> Path:  # fmt: skip
    """A run folder as a training leaves it; `words` are its overrides."""
    folder.mkdir(parents=True)
    config = {
        **CONFIG,
        "seed": seed,
        "data": {"seed": seed},
        "optimizer": {"lr": lr},
        "scheduler": {"max_lr": lr},
        "model": model,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(words))
    choices = {"model": "dnn" if model is DNN else "cnn", "data": "digits", "experiment": None}
    said = {"kind": "train", "status": "done", "seconds": 2.0, "choices": choices, **record}
    (folder / "run.json").write_text(json.dumps(said))
    if accuracy is not None:
        rows = [f"{i},{i},1.0,{accuracy - 0.1 + i / 10},0.5,{accuracy - 0.1 + i / 10},0.7" for i in range(2)]
        head = "epoch,step,seconds,train/accuracy,train/loss,val/accuracy,val/loss"
        (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
        final = {
            "test/accuracy": accuracy,
            "test/loss": 1 - accuracy,
            "val/accuracy": accuracy,
            "train/accuracy": accuracy,
            "epoch": 1,
        }
        (folder / "metrics.json").write_text(json.dumps(final))
    return folder


def runs(*folders: Path) -> list[Run]:
    return find_runs([str(folder) for folder in folders])


def without_plotly(page: str) -> str:
    """What is our own of a page."""
    head, _, rest = page.partition('<script id="plotly">')
    return head + rest.partition("</script>")[2]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two models by two seeds, and one that failed."""
    folder = tmp_path / "outputs" / "net" / "2026-01-02_03-04-05"
    for name, model, values in (("cnn", CNN, (0.90, 0.94)), ("dnn", DNN, (0.95, 0.96))):
        for seed, value in enumerate(values):
            words = [f"model={name}", f"seed={seed}"]
            write_run(folder / ",".join(words), words, accuracy=value, model=model, seed=seed)
    words = ["model=dnn", "seed=2"]
    write_run(
        folder / "model=dnn,seed=2",
        words,
        model=DNN,
        seed=2,
        status="failed",
        error="RuntimeError: first line\nout of memory",
    )
    return folder


def test_seeds_are_summed_up_best_first(sweep: Path) -> None:
    table = compare(runs(sweep))
    assert table.columns == ["model"], "data.seed and the model's keys follow from seed and model"
    assert [row.settings["model"] for row in table.rows] == ["dnn", "cnn"]
    best, other = table.rows
    assert best.figures["test/accuracy"].value == pytest.approx(mean([0.95, 0.96]))
    assert best.figures["test/accuracy"].deviation == pytest.approx(stdev([0.95, 0.96]))
    assert other.figures["test/loss"].value == pytest.approx(mean([0.10, 0.06]))
    assert best.status == "2 done, 1 failed"
    assert best.seconds == 2.0
    single = compare(runs(sweep), seeds=False)
    assert single.columns == ["model", "seed"]
    assert [run.metrics.get("test/accuracy") for run in single.runs] == [0.96, 0.95, 0.94, 0.90, None]


def test_a_loss_is_sorted_the_other_way_and_nan_comes_last(tmp_path: Path) -> None:
    for lr, value in ((0.1, math.nan), (0.01, 0.8), (0.001, 0.9)):
        write_run(tmp_path / str(lr), [f"optimizer.lr={lr}"], accuracy=value, lr=lr)
    for sort in ("test/accuracy", "test/loss", None):
        assert [row.settings["optimizer.lr"] for row in compare(runs(tmp_path), sort=sort).rows] == [
            "0.001",
            "0.01",
            "0.1",
        ]
    assert [row.settings["optimizer.lr"] for row in compare(runs(tmp_path), sort="optimizer.lr").rows] == [
        "0.001",
        "0.01",
        "0.1",
    ]
    with pytest.raises(UserError, match="did you mean test/accuracy"):
        compare(runs(tmp_path), sort="test/acuracy")


def test_only_what_varies_is_a_column(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=0.1, accuracy=0.5)
    write_run(tmp_path / "b", ["optimizer.lr=0.2"], lr=0.2, accuracy=0.5)
    assert varying(runs(tmp_path)) == ["optimizer.lr"], "scheduler.max_lr always equals it"
    write_run(tmp_path / "c", ["model=dnn", "+model.hidden=[8]"], model=DNN, lr=0.2)
    assert varying(runs(tmp_path)) == ["model", "optimizer.lr", "model.hidden"], "what a command line named is shown"
    # a default that changed between runs is shown though nobody named it
    write_run(tmp_path / "d", model={**CNN, "channels": [4, 16]}, lr=0.1)
    assert "model.channels" in varying(runs(tmp_path))


def test_what_only_draws_is_no_column(tmp_path: Path) -> None:
    for name, pictures in (("a", None), ("b", {"count": 4, "samples": [1]})):
        folder = write_run(tmp_path / name, ["callbacks.pictures=null"], accuracy=0.5)
        with (folder / "config.yaml").open("a") as file:
            yaml.safe_dump({"callbacks": {"pictures": pictures}}, file)
    assert varying(runs(tmp_path)) == []


@pytest.mark.parametrize("width", [60, 80, 140, 500])
def test_a_table_of_much_that_varies_stays_readable(tmp_path: Path, width: int) -> None:
    names = sorted(f"part_{i}.setting_number_{i}" for i in range(12))
    for run in range(2):
        more = {f"part_{i}": {f"setting_number_{i}": f"value_{i}_of_{run}"} for i in range(12)}
        folder = write_run(tmp_path / f"run_{run}", accuracy=0.5 + run / 10)
        with (folder / "config.yaml").open("a") as file:
            yaml.safe_dump(more, file)
    table = compare(runs(tmp_path))
    assert table.columns == names
    console = Console(width=width, record=True)
    console.print(show.for_terminal(table, width))
    lines = console.export_text().splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("──"))
    assert [line.split()[:2] for line in lines[rule + 1 : rule + 3]] == [["1", "value_0_of_1"], ["2", "value_0_of_0"]]
    assert "0.6000" in lines[rule + 1], "a run is one line, with its figure"
    head, rest = " ".join(lines[1:rule]), " ".join(line.strip() for line in lines[rule + 3 :])
    assert ("no room for" in rest) == (width < 500)
    assert [name for name in names[1:] if name not in rest and name.rpartition(".")[2] not in head] == []
    assert width < 500 or names[0] in head, "whole names where there is room"


def test_runs_are_found_once_and_tests_and_links_are_left_out(sweep: Path, tmp_path: Path) -> None:
    outputs = sweep.parents[1]
    write_run(outputs / "test" / "x", kind="test")
    (outputs / "latest").symlink_to(sweep / "model=cnn,seed=0")
    assert len(runs(outputs)) == 5
    assert len(runs(outputs, sweep, outputs / "latest")) == 5
    assert len(find_runs([str(outputs / "net" / "*" / "model=dnn*")])) == 3
    assert [run.folder.name for run in runs(outputs / "latest")] == ["model=cnn,seed=0"]
    for place, said in (
        ("nowhere", "is no folder"),
        (f"{tmp_path}/*x*", "fits no folder"),
        (str(outputs / "test"), "no training runs"),
    ):
        with pytest.raises(UserError, match=said):
            find_runs([place])


def test_places_may_have_commas_in_their_names(sweep: Path) -> None:
    one, two = sweep / "model=cnn,seed=0", sweep / "model=dnn,seed=1"
    assert split_places(f"{one},{two}") == [str(one), str(two)]
    assert split_places([str(one)]) == [str(one)]
    assert split_places(f"{sweep}/*seed=0,gone") == [f"{sweep}/*seed=0", "gone"]


def test_the_command_prints_and_writes_everything(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "out"
    assert main(["report", f"runs={sweep / 'model=cnn,seed=0'},{sweep}", f"hydra.run.dir={out}"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"1\s+dnn\s+0\.9550 ± 0\.0071", printed), printed
    assert "5 runs in 2 settings" in printed
    assert "model=dnn,seed=2: failed: out of memory" in printed
    assert {path.name for path in out.iterdir()} == {"report.md", "report.csv", "report.html", "curves.png"}
    markdown = (out / "report.md").read_text()
    assert re.search(r"\| 2 \| cnn \| 0\.9200 ± 0\.0283 \|", markdown)
    assert "![curves of all runs](curves.png)" in markdown
    with (out / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["test/accuracy std"]) == pytest.approx(stdev([0.95, 0.96]))
    assert rows[0]["runs"] == "3"
    page = without_plotly((out / "report.html").read_text())
    assert not re.search(r"(src|href)=.?(http|/|\w+\.)", page), "the page needs no other file"
    with Image.open(out / "curves.png") as picture:
        assert picture.width > 1000


def test_markdown_and_csv_can_be_piped(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"runs=[{sweep.parent}]", "format=md", f"hydra.run.dir={tmp_path / 'a'}"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# 5 runs")
    assert "curves.png" not in text
    assert main(["report", f"runs={sweep}", "format=csv", "seeds=false", f"hydra.run.dir={tmp_path / 'b'}"]) == 0
    assert len(list(csv.DictReader(capsys.readouterr().out.splitlines()))) == 5
    assert main(["report", f"paths.outputs={tmp_path}"]) == 2
    assert "runs=..." in capsys.readouterr().err
    assert main(["report", f"runs={sweep}", "format=pdf", f"paths.outputs={tmp_path}"]) == 2
    assert "format=pdf" in capsys.readouterr().err


def test_texts_of_a_run_cannot_break_the_page(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ["name=<script>x|y"], status="failed", error="<b>|bad</b>")
    write_run(tmp_path / "b", accuracy=0.5)
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "name": "<script>x|y"}))
    assert main(["report", f"runs={tmp_path}", f"hydra.run.dir={tmp_path / 'out'}"]) == 0
    page = without_plotly((tmp_path / "out" / "report.html").read_text())
    assert "<script>x" not in page
    assert "<b>" not in page
    assert "<script>x\\|y" in (tmp_path / "out" / "report.md").read_text()


def test_damaged_and_unfinished_runs_do_not_stop_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "good", accuracy=0.5)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    killed = write_run(
        tmp_path / "killed", accuracy=0.7, status="running", process={"host": os.uname().nodename, "pid": gone.pid}
    )
    (killed / "metrics.json").unlink()
    (killed / "log.txt").write_text("one\nthe last words\n")
    with (killed / "metrics.csv").open("a") as file:
        file.write("2,2")  # killed in the middle of a row
    alive = {"host": os.uname().nodename, "pid": os.getpid()}
    write_run(tmp_path / "running", accuracy=0.6, status="running", process=alive)
    empty = write_run(tmp_path / "empty")
    (empty / "run.json").write_text("{")
    (empty / "config.yaml").write_text("a: [")
    found = {run.folder.name: run for run in runs(tmp_path)}
    assert (found["killed"].status, found["killed"].error) == ("killed", "the last words")
    assert found["running"].status == "running"
    assert found["empty"].status == "unknown"
    table = compare(list(found.values()))
    by_name = {row.runs[0].folder.name: row for row in table.rows}
    assert by_name["killed"].figures["val/accuracy"].value == pytest.approx(0.7), "the best epoch of its history"


def test_jobs_that_ended_before_they_were_runs_are_told(sweep: Path) -> None:
    jobs = []
    for name, status in (("a", "killed"), ("b", "waiting"), ("c", "failed")):
        place = sweep / "frozen" / f"{name}.json"
        place.parent.mkdir(exist_ok=True)
        choices = {"model": "cnn", "data": "digits", "experiment": None, "hydra/launcher": "local"}
        config = {**CONFIG, "seed": 7, "data": {"seed": 7}}
        place.write_text(json.dumps({"config": config, "hydra": {"runtime": {"choices": choices}}}))
        words = ["model=cnn", f"seed={name}"]
        jobs.append(
            {
                "id": name,
                "overrides": words,
                "folder": f"job_{name}",
                "status": status,
                "error": f"{name} is\nill",
                "attempts": [{"seconds": 1.0}, {"seconds": 2.5} if name == "a" else {}],
            }
        )
    jobs.append({"id": "d", "overrides": [], "folder": "model=cnn,seed=0", "status": "failed"})  # was tried again since
    (sweep / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    aside = sweep / "model=cnn,seed=0" / "attempt_1"
    aside.mkdir()
    (aside / "run.json").write_text("{}")
    table = compare(runs(sweep))
    assert len(table.runs) == 7
    told = {line.rpartition("/")[2] for line in show.failures(table)}
    assert told == {"job_a: killed: a is ill", "job_c: failed: c is ill", "model=dnn,seed=2: failed: out of memory"}
    assert table.columns == ["model"]
    assert {run.folder.name: run.seconds for run in table.runs if "job" in run.folder.name} == {
        "job_a": 2.5,
        "job_c": None,
    }


@pytest.mark.parametrize("count", [500])
def test_many_runs_are_quick_and_need_no_torch(tmp_path: Path, count: int) -> None:
    for i in range(count):
        write_run(
            tmp_path / "runs" / f"{i}",
            [f"optimizer.lr={i / 1000}", f"seed={i % 5}"],
            accuracy=0.5 + i / 2000,
            lr=i // 5 / 1000,
            seed=i % 5,
        )
    script = (
        "import sys; from lightbed.cli import main\n"
        f"code = main(['report', 'runs={tmp_path / 'runs'}', 'hydra.run.dir={tmp_path / 'out'}'])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\nsys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # whatever else the machine does
    assert done.returncode == 0, done.stderr
    assert f"{count} runs in" in done.stdout
    assert seconds < 20, f"{seconds:.1f} s of computing, where 3 to 5 are usual"


def test_predictions_of_one_sample_stand_side_by_side_in_the_order_of_the_settings(tmp_path: Path) -> None:
    for lr, value in ((0.1, 0.9), (0.02, 0.7), (0.5, 0.8)):
        folder = write_run(tmp_path / "runs" / f"lr={lr}", [f"optimizer.lr={lr}"], accuracy=value, lr=lr)
        for sample in (0, 3) if lr == 0.1 else (0,):
            image = np.full((300, 400, 3), round(100 * lr), np.uint8)
            save(image, folder / "pictures" / f"sample_{sample}.png", f"what {lr} says")
    table = compare(runs(tmp_path / "runs"), sort="val/accuracy")
    assert [row.settings["optimizer.lr"] for row in table.rows] == ["0.1", "0.5", "0.02"]
    assert samples(table, tmp_path) == [tmp_path / "sample_0.png"], "of the other one there is a single picture"
    with Image.open(tmp_path / "sample_0.png") as picture:
        pixels = np.asarray(picture)
    means = [np.argwhere((pixels == round(100 * lr)).all(2)).mean(0) for lr in (0.02, 0.1, 0.5)]
    places = [(round(row), round(column)) for row, column in means]
    assert places == sorted(places), "from the lowest learning rate on, row by row"
