"""run.json and config.yaml: what a run was, how it ended, and that nothing is overwritten."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightbed import build
from lightbed.cli import main
from lightbed.errors import UserError
from lightbed.runs.git import git_state
from lightbed.runs.load import load_run
from lightbed.runs.provenance import packages, versions
from lightbed.runs.record import Record, point_latest
from lightbed.sweeps.collect import read_run


def record(folder: Path) -> Record:
    return Record(folder, ["lightbed", "train"], ["seed=1"], {"seed": 1, "threads": 2})


def said(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_status_goes_from_running_to_done(tmp_path: Path) -> None:
    with record(tmp_path / "run"):
        assert said(tmp_path / "run")["status"] == "running"
        assert said(tmp_path / "run")["seconds"] is None
    content = said(tmp_path / "run")
    assert content["status"] == "done"
    assert content["seconds"] >= 0
    assert (content["seed"], content["threads"]) == (1, 2)
    assert content["versions"]["torch"] == torch.__version__
    assert content["process"]["pid"] == os.getpid()


def ended_by_ctrl_c_in_lightning() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def test_status_says_how_a_run_ended(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), record(tmp_path / "failed"):
        print(1 // 0)
    assert said(tmp_path / "failed")["status"] == "failed"
    assert said(tmp_path / "failed")["error"].startswith("ZeroDivisionError: ")
    assert "Traceback" in (tmp_path / "failed" / "log.txt").read_text()
    with pytest.raises(UserError), record(tmp_path / "mistake"):
        raise UserError("threads=0 must be at least 1")
    assert said(tmp_path / "mistake")["error"] == "threads=0 must be at least 1"
    with pytest.raises(KeyboardInterrupt), record(tmp_path / "stopped"):
        raise KeyboardInterrupt
    assert said(tmp_path / "stopped")["status"] == "interrupted"
    with pytest.raises(KeyboardInterrupt), record(tmp_path / "lightning"):
        ended_by_ctrl_c_in_lightning()
    assert said(tmp_path / "lightning")["status"] == "interrupted"
    with pytest.raises(SystemExit) as caught, record(tmp_path / "terminated"):
        raise SIGTERMException
    assert caught.value.code == 143
    assert said(tmp_path / "terminated")["status"] == "interrupted"
    with pytest.raises(SystemExit), record(tmp_path / "exit"):
        sys.exit(3)
    assert said(tmp_path / "exit")["status"] == "failed", "a library that ends the process is no interruption"


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    with record(tmp_path / "run"):
        pass
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        record(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write into the run folder"):
        record(tmp_path / "file")


def test_config_yaml_alone_rebuilds_the_model(digits_run: Path) -> None:
    """It holds what the data filled in, is what the checkpoint says, and takes the trained weights."""
    text = (digits_run / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert "${" not in text
    assert (config["model"]["num_classes"], config["model"]["in_channels"]) == (10, 1)
    content = torch.load(digits_run / "checkpoints" / "best.ckpt", weights_only=True)
    assert config == json.loads(content["lightbed"]["config_json"]) == load_run(digits_run).config
    weights = {name[6:]: value for name, value in content["state_dict"].items() if name.startswith("model.")}
    build.make_model(config).load_state_dict(weights)


def test_latest_links_to_the_newest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "task" / name).mkdir(parents=True)
        point_latest(tmp_path / "task" / name, tmp_path)
    assert (tmp_path / "latest").resolve() == (tmp_path / "task" / "two").resolve()
    assert not (tmp_path / "latest").readlink().is_absolute(), "the outputs may be moved as a whole"
    point_latest(tmp_path / "task" / "two", tmp_path / "gone")  # nothing to link in, nothing raised


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory is a checkout with one commit."""
    tree = tmp_path / "tree"
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tree / "sub").mkdir(parents=True)
    (tree / "model.py").write_text("width = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], cwd=tree, check=True)
    monkeypatch.chdir(tree / "sub")
    return tree


def test_an_uncommitted_difference_is_kept_and_can_be_applied(checkout: Path, tmp_path: Path) -> None:
    """Changed and new files, also ones that are no UTF-8, and whatever colours and tools a user's git has."""
    state, diff = git_state()
    assert state is not None
    assert len(state["commit"]) == 40
    assert (state["changed"], diff) == (False, b"")
    subprocess.run(["git", "config", "color.ui", "always"], check=True)
    subprocess.run(["git", "config", "diff.external", "false"], check=True)
    subprocess.run(["git", "config", "diff.noprefix", "true"], check=True)
    (checkout / "model.py").write_bytes(b"width = 2  # \xe9\n")
    (checkout / "sub" / "net.py").write_text("depth = 3\n")
    (checkout / "photo.jpg").write_bytes(b"no code")
    (checkout / ".gitignore").write_text("secret.py\n")
    (checkout / "secret.py").write_text("ignored = True\n")
    with record(tmp_path / "run"):
        pass
    assert said(tmp_path / "run")["git"] == {"commit": state["commit"], "changed": True}
    kept = (tmp_path / "run" / "uncommitted.diff").read_bytes()
    assert b"photo" not in kept
    assert b"secret" not in kept
    again = tmp_path / "again"
    subprocess.run(["git", "clone", "-q", str(checkout), str(again)], check=True)
    subprocess.run(["git", "apply", "-"], cwd=again, input=kept, check=True)
    for name in ("model.py", "sub/net.py"):
        assert (again / name).read_bytes() == (checkout / name).read_bytes()


def test_no_checkout_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert git_state() == (None, b"")
    with record(tmp_path / "run"):
        pass
    assert said(tmp_path / "run")["git"] is None


def test_all_packages_are_listed_with_the_versions_that_are_imported(tmp_path: Path) -> None:
    from importlib.metadata import version

    listed = dict(line.split("==") for line in packages())
    for name in ("torch", "torchvision", "numpy", "pyyaml", "omegaconf", "scikit-learn"):
        assert listed[name] == version(name), name
    with record(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / "packages.txt").read_text().split() == packages()


def test_the_record_is_what_the_design_lists(digits_run: Path) -> None:
    content = said(digits_run)
    assert content.keys() >= {
        *("kind", "command", "status", "start", "seconds", "seed", "threads", "process", "versions", "hardware"),
        *("variables", "git", "code", "choices", "data"),
    }
    assert content["versions"] == versions()
    assert content["hardware"].keys() == {"system", "cpu", "isa", "cores", "gpus"}
    assert len(content["code"]) == 64
    assert content["data"].keys() == {
        "images", "classes", "skipped", "skipped_files", "label_faults", "fingerprint",
    }  # fmt: skip
    assert {"config.yaml", "overrides.yaml", "packages.txt", "metrics.csv", "metrics.json", "log.txt"} <= {
        path.name for path in digits_run.iterdir()
    }


def test_jobs_of_a_multirun_name_it_and_what_their_groups_chose(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=0,1", "trainer.limit_train_batches=1", "callbacks.pictures=null", "test=none"]
    assert (
        main(["train", "-m", "model=dnn", *words, f"hydra.sweep.dir={tmp_path / 'sweep'}", f"paths.outputs={tmp_path}"])
        == 0
    )
    jobs = sorted(path.parent for path in (tmp_path / "sweep").rglob("run.json"))
    assert [job.name for job in jobs] == ["trainer.max_epochs=0", "trainer.max_epochs=1"]
    for job in jobs:
        assert said(job)["parent"] == "sweep"
        assert said(job)["choices"]["model"] == "dnn"
        assert said(job)["choices"]["data"] == "digits"
    assert {"report.md", "report.csv", "report.html"} <= {path.name for path in (tmp_path / "sweep").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "interrupted"), (signal.SIGKILL, -9, "killed")],
)
def test_a_stopped_process_says_so(tmp_path: Path, number: int, code: int, status: str) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "lightbed", "train", "trainer.max_epochs=1000", "trainer.accelerator=cpu"]
    process = subprocess.Popen([*command, f"hydra.run.dir={folder}"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    for _ in range(3000):
        if (folder / "checkpoints" / "last.ckpt").is_file():
            break
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(timeout=300) == code
    run = read_run(folder)
    assert run is not None
    assert run.status == status
    assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_further_processes_of_a_run_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with record(tmp_path / "run"):
        before = (tmp_path / "run" / "run.json").read_bytes()
        with monkeypatch.context() as second:
            second.setattr(rank_zero_only, "rank", 1)
            with record(tmp_path / "run") as other:
                other.write_config({"seed": 2})
                point_latest(tmp_path / "run", tmp_path)
        assert (tmp_path / "run" / "run.json").read_bytes() == before
        assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 1
        assert not (tmp_path / "latest").is_symlink()
