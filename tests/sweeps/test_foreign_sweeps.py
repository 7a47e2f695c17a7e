"""Sweeps' folders from somebody else, or from another place: no code in them runs, and they go on where they are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import create_trial

from lightbed.cli import main
from lightbed.sweeps.search import study_of

TINY = [
    "model.channels=[4]", "data.limit=100", "threads=1", "trainer.accelerator=cpu", "callbacks.pictures=null",
    "callbacks.layers=null", "logger.tensorboard=false", "trainer.max_epochs=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep `many`, of whose jobs one is yet to come, and a search `study` that may go on."""
    home = tmp_path_factory.mktemp("made")
    words = ["train", "-m", f"paths.outputs={home / 'outputs'}", *TINY]
    assert main([*words, "seed=0,1", f"hydra.sweep.dir={home / 'many'}", "hydra.launcher.jobs=1"]) == 0
    shutil.rmtree(home / "many" / "seed=1")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.trials=1", "hydra.sweeper.sampler=cmaes"]
    assert main([*words, *search, "optimizer.lr=interval(0.001,0.1)", f"hydra.sweep.dir={home / 'study'}"]) == 0
    return home


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copied")
    return tmp_path / "copied"


def edited(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_sweep_that_was_moved_goes_on_where_it_is(made: Path, copied: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(made.rglob("*"))
    assert main(["train", "-m", f"resume={copied / 'many'}"]) == 0
    assert json.loads((copied / "many" / "seed=1" / "run.json").read_text())["status"] == "done"
    assert sorted(made.rglob("*")) == before
    assert "2 runs" in capsys.readouterr().out


def launcher(copied: Path) -> None:
    word = f"hydra.launcher._target_=os.system +hydra.launcher.command='touch {copied / 'pwned'}'"
    edited(copied / "many" / "sweep.json", lambda sweep: sweep["command"].extend(word.split(" ", 1)))


def model(copied: Path) -> None:
    for file in (copied / "many" / "frozen").glob("*.json"):
        edited(file, lambda job: job["config"].update(model={"_target_": "os.system", "command": "touch pwned"}))


def logging(copied: Path) -> None:
    handler = {"()": "os.system", "command": f"touch {copied / 'pwned'}"}
    told = {"version": 1, "handlers": {"a": handler}, "root": {"handlers": ["a"]}}
    for file in (copied / "many" / "frozen").glob("*.json"):
        edited(file, lambda job: job["hydra"].update(job_logging=told))


def callback(copied: Path) -> None:
    node = {"a": {"_target_": "os.system", "command": f"touch {copied / 'pwned'}"}}
    for file in (copied / "many" / "frozen").glob("*.json"):
        edited(file, lambda job: job["hydra"].update(callbacks=node))


def environment(copied: Path) -> None:
    for file in (copied / "many" / "frozen").glob("*.json"):
        edited(file, lambda job: job["hydra"]["job"].update(env_set={"LD_PRELOAD": "/evil.so"}))


def elsewhere(copied: Path) -> None:
    edited(copied / "many" / "sweep.json", lambda sweep: sweep["jobs"][1].update(folder="../../pwned"))


def link(copied: Path) -> None:
    (copied / "many" / "seed=1").symlink_to(copied / "pwned", target_is_directory=True)


FAULTS = {
    launcher: "sweep.json: its command has hydra.launcher._target_=os.system, which may run code; trust=true",
    model: "model._target_=os.system is not trusted; trust=true",
    logging: "hydra.job_logging={",
    callback: "hydra.callbacks={",
    environment: "hydra.job.env_set={'LD_PRELOAD': '/evil.so'} may run code; trust=true",
    elsewhere: "../../pwned is no name of a file in its folder",
    link: "seed=1 is a link to ",
}


@pytest.mark.parametrize("harm", FAULTS, ids=lambda harm: harm.__name__)
def test_a_hostile_sweep_is_refused(
    harm: Callable[[Path], None], copied: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    harm(copied)
    assert main(["train", "-m", f"resume={copied / 'many'}"]) == 2
    told = capsys.readouterr().err.strip()
    assert FAULTS[harm] in told
    assert len(told.splitlines()) == 1
    assert not (copied / "pwned").exists()


def test_code_that_lies_in_a_sweeps_folder_is_not_imported(copied: Path) -> None:
    """Neither the modules that its index names nor compiled files beside the copies of Lightbed's."""
    code = copied / "many" / "frozen" / "code_1"
    (code / "own").mkdir(exist_ok=True)
    (code / "own" / "csv.py").write_text(f"open({str(copied / 'pwned')!r}, 'w')\n")
    told = {"file": str(code / "own" / "csv.py"), "copy": "csv.py"}
    edited(code / "code.json", lambda index: index["modules"].update(csv=told))
    for file in (code / "lightbed").rglob("*.pyc"):
        file.write_bytes(b"poison")
    assert main(["train", "-m", f"resume={copied / 'many'}"]) == 0
    assert not (copied / "pwned").exists()
    record = json.loads((copied / "many" / "seed=1" / "run.json").read_text())
    assert record["frozen_code"] == "code_2"


WORDS = [
    "hydra.launcher._target_=os.system",
    "hydra.searchpath=[file:///evil]",
    "hydra.sweeper.sampler={_target_: os.system}",
    "+model@hydra.callbacks.a=cnn",
    "--config-dir=evil",
    "model=custom",
]


@pytest.mark.parametrize("word", WORDS)
def test_a_hostile_search_is_refused(word: str, copied: Path, capsys: pytest.CaptureFixture) -> None:
    study = study_of(copied / "study")
    study.set_user_attr("command", [*study.user_attrs["command"], word])
    assert main(["train", "-m", f"resume={copied / 'study'}", "hydra.sweeper.trials=2"]) == 2
    assert f"its command has {word}, which may run code; trust=true" in capsys.readouterr().err


def test_states_of_a_sampler_are_pickles(copied: Path, capsys: pytest.CaptureFixture) -> None:
    study = study_of(copied / "study")
    study.add_trial(create_trial(value=0.5, system_attrs={"cma:optimizer:0": "80049"}))
    assert main(["train", "-m", f"resume={copied / 'study'}", "hydra.sweeper.trials=2"]) == 2
    assert "has pickled states of the sampler cmaes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["log.txt", "metrics.csv", ".lock"])
def test_a_run_with_links_is_refused(name: str, copied: Path, capsys: pytest.CaptureFixture) -> None:
    run, other = copied / "many" / "seed=0", copied / "other.txt"
    other.write_text("dear")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(other)
    assert main(["train", f"resume={run}", "trainer.max_epochs=2"]) == 2
    assert f"{run / name} is a link to {other}, where the run would write; trust=true" in capsys.readouterr().err
    assert other.read_text() == "dear"
