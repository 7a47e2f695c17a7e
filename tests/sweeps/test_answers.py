"""Sweeps and searches to their end: every number of a report is that of the runs' own files, whatever was killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

import optuna
import pytest
import yaml

from lightbed.cli import main
from lightbed.sweeps.search import open_storage

TINY = [
    "model.channels=[4]", "data.limit=200", "threads=1", "trainer.accelerator=cpu", "callbacks.pictures=null",
    "callbacks.layers=null", "callbacks.progress.every_seconds=0", "logger.tensorboard=false",
]  # fmt: skip


def lightbed(*words: str, code: int = 0) -> str:
    command = [sys.executable, "-P", "-m", "lightbed", *words]
    wide = {**os.environ, "COLUMNS": "160"}  # readline tells it 80 where there is no terminal, and tables fold
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, env=wide)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="search", storage=open_storage(folder)).trials


def check_report(sweep: Path, by: list[str], jobs: int) -> None:
    """Compute each number of report.csv again from metrics.json, metrics.csv and run.json of the runs."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for file in sweep.glob("*/run.json"):
        config = yaml.safe_load((file.parent / "config.yaml").read_text())
        values = []
        for key in by:
            node = config
            for name in key.split("."):
                node = node[name]
            values.append(json.dumps(node, separators=(",", ":")))
        groups.setdefault(tuple(values), []).append(file.parent)
    assert sum(map(len, groups.values())) == jobs
    with (sweep / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {tuple(row[key] for key in by) for row in rows} == groups.keys()
    for row in rows:
        runs = groups[tuple(row[key] for key in by)]
        finals = [json.loads((run / "metrics.json").read_text()) for run in runs]
        records = [json.loads((run / "run.json").read_text()) for run in runs]
        assert int(row["runs"]) == len(runs)
        assert float(row["seconds"]) == pytest.approx(mean(record["seconds"] for record in records), abs=6e-4)
        peaks = [max(record["memory"]["process"], record["memory"]["child"]) for record in records]
        assert float(row["memory_mib"]) == max(peaks)
        for name in finals[0]:
            found = [final[name] + (name == "epoch") for final in finals]
            assert float(row[name]) == pytest.approx(mean(found), rel=1e-12), name
            if len(runs) > 1:
                assert float(row[f"{name} std"]) == pytest.approx(stdev(found), rel=1e-9, abs=1e-12), name
        for run, final in zip(runs, finals, strict=True):
            with (run / "metrics.csv").open(newline="") as file:
                history = list(csv.DictReader(file))
            best = max(history, key=lambda epoch: float(epoch["val/accuracy"]))
            assert final["epoch"] == int(best["epoch"])
            assert final["val/accuracy"] == float(best["val/accuracy"])
    scores = [float(row["test/accuracy"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_a_search_with_a_trial_that_fails_ends_with_the_best(tmp_path: Path) -> None:
    sweep = tmp_path / "search"
    words = ["hydra/sweeper=optuna", "hydra/launcher=basic", "hydra.sweeper.sampler=grid", f"hydra.sweep.dir={sweep}",
             "optimizer.lr=0.01,1e30,0.001", "trainer.max_epochs=2", f"paths.outputs={tmp_path}", *TINY]  # fmt: skip
    assert main(["train", "-m", *words]) == 1
    assert [trial.state.name for trial in trials(sweep)] == ["COMPLETE", "FAIL", "COMPLETE"]
    failed = json.loads((sweep / "trial=1,optimizer.lr=1e+30" / "run.json").read_text())
    assert failed["status"] == "failed"
    reported = trials(sweep)[0]
    with (sweep / "trial=0,optimizer.lr=0.01" / "metrics.csv").open() as file:
        curve = {int(row["epoch"]): float(row["val/accuracy"]) for row in csv.DictReader(file)}
    assert reported.intermediate_values == curve
    best = optuna.load_study(study_name="search", storage=open_storage(sweep)).best_trial
    assert best.value == max(best.intermediate_values.values())
    again = tmp_path / "again"
    own = ["--config-dir", str(sweep), "experiment=best", f"hydra.run.dir={again}", f"paths.outputs={tmp_path}"]
    assert main(["train", *own]) == 0
    (folder,) = sweep.glob(f"trial={best.number},*")
    assert json.loads((again / "metrics.json").read_text()) == json.loads((folder / "metrics.json").read_text())
    assert "trial" in (sweep / "report.csv").read_text().partition("\n")[0].split(",")


def test_pruned_trials_are_no_failures(tmp_path: Path) -> None:
    sweep = tmp_path / "search"
    words = ["hydra/sweeper=optuna", "hydra/launcher=basic", "hydra.sweeper.sampler=grid", f"hydra.sweep.dir={sweep}",
             "hydra.sweeper.pruner_startup=1", "hydra.sweeper.pruner_warmup=0", "optimizer.lr=0.03,1e-9",
             "trainer.max_epochs=3", f"paths.outputs={tmp_path}", *TINY]  # fmt: skip
    assert main(["train", "-m", *words]) == 0
    assert [trial.state.name for trial in trials(sweep)] == ["COMPLETE", "PRUNED"]
    record = json.loads((sweep / "trial=1,optimizer.lr=1e-09" / "run.json").read_text())
    assert record["status"] == "pruned"
    assert "is behind other trials" in record["pruned"]
    assert "Not done" not in (sweep / "report.md").read_text()
    assert main(["train", "-m", f"resume={sweep}", "hydra.sweeper.trials=2"]) == 0, "nothing is left to do"
    assert len(trials(sweep)) == 2


@pytest.mark.slow
def test_a_fault_is_told_before_a_search_or_costs_one_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What any choice has wrong by itself is seen at once; what only two of them have together, when they meet."""
    words = ["hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", f"paths.outputs={tmp_path}",
             "trainer.max_epochs=1", *TINY[1:]]  # fmt: skip
    assert main(["train", "-m", *words, f"hydra.sweep.dir={tmp_path / 'first'}", "test=last,bset"]) == 2
    assert "test=bset is not known: did you mean best" in capsys.readouterr().err
    assert not list((tmp_path / "first").glob("*/run.json"))
    sweep = tmp_path / "second"
    met = ["model=cnn,dnn", "name=${model.dropout},${model.hidden}"]
    assert main(["train", "-m", *words, f"hydra.sweep.dir={sweep}", *met]) == 1
    assert [trial.state.name for trial in trials(sweep)] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    told = capsys.readouterr().err
    assert "job 1: " in told
    assert "2 of the search's trials failed (1, 2)" in told
    assert len(list(sweep.glob("*/metrics.json"))) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1"], "a search needs values to choose from"),
        (["model=cnn,dmn"], "model=dmn does not exist: did you mean dnn"),
        (["optimizer.lrr=interval(0,1)"], "optimizer.lrr does not exist: did you mean optimizer.lr?"),
        (["hydra.sweeper.sampler=tpee", "optimizer.lr=interval(0,1)"], "hydra.sweeper.sampler=tpee is not known"),
        (["hydra.sweeper.trails=3", "optimizer.lr=interval(0,1)"], "hydra.sweeper.trails does not exist"),
    ],
)
def test_a_wrong_search_is_told_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["hydra/sweeper=optuna", "hydra/launcher=basic", f"paths.outputs={tmp_path}"]
    assert main(["train", "-m", *own, *words]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1]
    assert len(told) == 1


def test_without_optuna_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # as where it is not installed
    words = ["hydra/sweeper=optuna", "hydra/launcher=basic", "model=cnn,dnn", f"paths.outputs={tmp_path}"]
    assert main(["train", "-m", *words]) == 2
    assert capsys.readouterr().err == "lightbed: hydra/sweeper=optuna needs Optuna: pip install 'lightbed[sweep]'\n"


@pytest.mark.slow
def test_every_number_of_a_report_is_that_of_the_runs_own_files(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    grid = ["optimizer.lr=0.003,0.01,0.03", "data.batch_size=16,32,64", "seed=0,1,2", "trainer.max_epochs=2"]
    said = lightbed("train", "-m", *grid, *TINY, f"hydra.sweep.dir={sweep}", f"paths.outputs={tmp_path}")
    assert "27 runs in 9 settings" in said
    check_report(sweep, ["optimizer.lr", "data.batch_size"], 27)
    page = (sweep / "report.html").read_text()
    with (sweep / "report.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            figure = f"{float(row['test/accuracy']):.4f} ± {float(row['test/accuracy std']):.4f}"
            assert figure in page
            assert figure in said, said


@pytest.mark.slow
def test_a_search_survives_its_own_death_and_that_of_a_worker(tmp_path: Path) -> None:
    sweep = tmp_path / "search"
    words = ["hydra/sweeper=optuna", "hydra.sweeper.trials=6", "hydra.sweeper.pruner=none", "trainer.max_epochs=40",
             "optimizer.lr=tag(log,interval(1e-3,1e-1))", f"hydra.sweep.dir={sweep}",
             f"paths.outputs={tmp_path}"]  # fmt: skip
    started = subprocess.Popen(
        [sys.executable, "-P", "-m", "lightbed", "train", "-m", *words, *TINY],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def pid_of(number: int) -> int | None:
        for run in sweep.glob(f"trial={number},*/run.json"):
            content = json.loads(run.read_text())
            if content["status"] == "running" and (run.parent / "metrics.csv").is_file():
                return int(content["process"]["pid"])
        return None

    def wait_for(number: int) -> int:
        while (pid := pid_of(number)) is None:
            assert started.poll() is None, "the search ended before it could be disturbed"
            time.sleep(0.05)
        return pid

    os.kill(wait_for(0), signal.SIGKILL)
    wait_for(2)
    started.kill()
    started.wait()
    lightbed("train", "-m", f"resume={sweep}")
    found = trials(sweep)
    assert [trial.state.name for trial in found] == ["FAIL", *["COMPLETE"] * 5]
    assert len({tuple(trial.params.items()) for trial in found}) == 6
    listed = json.loads((sweep / "sweep.json").read_text())["jobs"]
    assert sorted(job["number"] for job in listed) == list(range(6)), "a trial that went on is one job"
    for trial in found[1:]:
        (folder,) = sweep.glob(f"trial={trial.number},*")
        with (folder / "metrics.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 40, "one history, also where it was interrupted"
        assert json.loads((folder / "metrics.json").read_text())["val/accuracy"] == trial.value
