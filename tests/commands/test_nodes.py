"""One run on several machines: one folder, the metrics of one process, and a line where the machines do not agree."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exact import result
from lightbed.callbacks.together import difference, sees, share
from lightbed.cli import main
from lightbed.errors import UserError
from lightbed.runs.history import read_history
from lightbed.runs.processes import check_number
from lightbed.types import Step

HERE = Path(__file__).parent
TESTS = HERE.parent
LINEAR = "[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:10}]"
QUICK = [
    *("threads=1", "trainer.accelerator=cpu", "callbacks.pictures=null", "callbacks.curves=null"),
    *("callbacks.layers=null", "logger.tensorboard=false", "trainer.max_epochs=2"),
]
SMALL = ["model=custom", "model._target_=torch.nn.Sequential", f"+model._args_={LINEAR}", *QUICK]
NODES = ["trainer=ddp", "trainer.num_nodes=2", "trainer.devices=1"]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The history and the final figures of a run."""
    history = [{key: row[key] for key in row if key != "seconds"} for row in read_history(folder / "metrics.csv")]
    return [*history, json.loads((folder / "metrics.json").read_text())]


def run_cases(folder: Path, cases: list[list[list[str]]]) -> list[dict[str, Any]]:
    """What came of each case, see `nodes`."""
    file = folder / "cases.json"
    file.write_text(json.dumps(cases))
    command = [sys.executable, str(HERE / "nodes.py"), str(file)]
    path = os.pathsep.join([str(TESTS), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "LIGHTBED_CACHE": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_two_processes_do_not_have_in_common_is_named() -> None:
    first = {"seed": 0, "data.root": "/here/set", "data: images.train": 10, "code": "a"}
    assert difference(first, {**first, "data.root": "/there/set"}) == ""
    assert "seed is 1, not 0" in difference(first, {**first, "seed": 1})
    assert "its data has images.train 9, not 10" in difference(first, {**first, "data: images.train": 9})
    assert "another version" in difference(first, {**first, "code": "b"})
    assert "more is 1, not None" in difference(first, {**first, "more": 1})


def test_a_run_folder_is_seen_by_its_record(tmp_path: Path) -> None:
    own = {"host": "here", "pid": 1}
    assert not sees(tmp_path / "none", own, 0)
    (tmp_path / "run.json").write_text(json.dumps({"process": {"host": "there", "pid": 2}}))
    assert not sees(tmp_path, own, 0)
    (tmp_path / "run.json").write_text(json.dumps({"process": own}))
    assert sees(tmp_path, own, 0)


def test_a_process_without_images_only_takes_the_step() -> None:
    trainer: Any = SimpleNamespace(world_size=2)
    alone = [share(trainer, lambda _, mine=mine: (mine, 1), Step({}, None, None), 0) for mine in (1, 0)]
    assert [part.images for part in alone] == [1, 0]
    assert [part.gradient for part in alone] == [2, 0]  # the mean over both is the one image's


def test_other_processes_than_torchrun_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    trainer: Any = SimpleNamespace(world_size=4)
    check_number(trainer)
    trainer.world_size = 1
    with pytest.raises(UserError, match=r"started 4 processes.*trainer.devices=2 trainer.num_nodes=2"):
        check_number(trainer)


@pytest.mark.slow
def test_two_torchruns_are_one_run(tmp_path: Path) -> None:
    """As on two machines, with a last batch of which only the first process has an image."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*SMALL, "data.limit=33", f"paths.outputs={tmp_path / 'outputs'}"]
    shared = [*words, "trainer=ddp", "trainer.num_nodes=2", "trainer.devices=1", "data.batch_size=8"]
    shared += ["trainer.accelerator=cpu", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'two'}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    nodes = []
    for rank in (0, 1):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}"]
        torchrun += ["--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "lightbed"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        nodes.append(subprocess.Popen([*torchrun, "train", *shared], env=env, text=True, **pipes))  # type: ignore[call-overload]
    told = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert "test" in told[0]
    assert "test" not in told[1]  # further processes are silent
    assert not (tmp_path / "outputs").exists()
    alone = [
        sys.executable,
        "-m",
        "lightbed",
        "train",
        *words,
        "data.batch_size=16",
        f"hydra.run.dir={tmp_path / 'one'}",
    ]
    subprocess.run(alone, env=env, check=True, capture_output=True)
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_each_image_and_class_weighs_as_in_one_process(tmp_path: Path) -> None:
    """Also in a last batch that cannot be halved; validated an image at a time, for a batch's mean depends on it."""
    linear = f"+model._args_={LINEAR.replace('64', str(3 * 32 * 32))}"
    scenes = ["data=digit_scenes", "data.images={train:13,val:5,test:7}", "data.image_size=[32,32]"]
    tasks = {
        "weighted": [*SMALL, "data.limit=37", "task.class_weights=balanced"],
        "localizer": ["task=localizer", *scenes, *SMALL[:2], linear, *QUICK],
    }
    cases = {}
    for name, words in tasks.items():
        own = ["data.eval_batch_size=1", f"paths.outputs={tmp_path}"]
        cases[f"{name}1"] = [[*words, *own, "data.batch_size=8", f"hydra.run.dir={tmp_path / name}1"]]
        cases[f"{name}2"] = [[*NODES, *words, *own, "data.batch_size=4", f"hydra.run.dir={tmp_path / name}2"]] * 2
    found = dict(zip(cases, run_cases(tmp_path, list(cases.values())), strict=True))
    for name in tasks:
        assert {*found[f"{name}1"]["codes"], *found[f"{name}2"]["codes"]} == {0}, found
        for one, two in zip(rows(tmp_path / f"{name}1"), rows(tmp_path / f"{name}2"), strict=True):
            assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_machines_that_do_not_agree_end_in_one_line(tmp_path: Path) -> None:
    """Started by hand, with Lightning's variables; all processes end, and none waits for the others."""
    ends = [
        "model=custom",
        "model._target_=nodes.Ends",
        *QUICK,
        "data.batch_size=16",
        "data.limit=160",
        "+model.how=raise",
    ]
    words = [*SMALL, "data.limit=160"]

    def line(name: str, own: list[str], *more: str) -> list[str]:
        rest = ["trainer.accelerator=cpu", "trainer.max_epochs=1", f"paths.outputs={tmp_path}"]
        return [*own, *NODES, *rest, f"hydra.run.dir={tmp_path / name}", *more]

    cases = {
        "well": [line("well", words)] * 2,
        "settings": [line("settings", words), line("settings", words, "optimizer.lr=0.5")],
        "data": [line("data", words), line("data", words, "data.limit=150")],
        "folder": [line("folder", words), line("other", words)],
        "few": [line("few", words, "data.val_fraction=0.0008")] * 2,
        "raise": [line("raise", ends)] * 2,
        "kill": [line("kill", ends, "+model.how=kill")] * 2,
    }
    cases["kill"] = [[word for word in words if word != "+model.how=raise"] for words in cases["kill"]]
    found = dict(zip(cases, run_cases(tmp_path, list(cases.values())), strict=True))
    assert found["well"]["codes"] == [0, 0], found["well"]
    assert "test/accuracy" in json.loads((tmp_path / "well" / "metrics.json").read_text())
    assert found["well"]["texts"][1] == ""
    for name, told in (
        ("settings", "process 1 of the run, on .*, differs from the first: optimizer.lr is 0.5, not "),
        ("data", "process 1 of the run, on .*, differs from the first: data.*limit is 150, not 160"),
        ("folder", "does not see as .*/other the run folder .*/folder, which the first one made"),
        ("few", "the val split has 1 image for 2 processes, and each needs one"),
    ):
        assert found[name]["codes"] == [2, 2], found[name]
        for text in found[name]["texts"]:
            lines = [words for words in text.splitlines() if words.startswith("lightbed: ")]
            assert len(lines) == 1, text
            assert re.search(told, lines[0]), lines[0]
    for name, told in (
        ("raise", "process 2 of the run: OSError: [Errno 5] the camera's disk is gone"),
        ("kill", "another of the 2 processes is gone: lightbed train resume=kill goes on"),
    ):
        assert found[name]["codes"][0] == 1, found[name]
        assert told in found[name]["texts"][0]
        assert json.loads((tmp_path / name / "run.json").read_text())["status"] == "failed"
    assert found["raise"]["codes"][1] == 1
    assert "OSError: [Errno 5] the camera's disk is gone" in found["raise"]["texts"][1]
    assert "Traceback" in (tmp_path / "raise" / "log.txt").read_text()


@pytest.mark.slow
def test_a_network_that_processes_share_trains_as_one_of_its_own(tmp_path: Path) -> None:
    """FSDP as DDP as one process, a part frozen; it goes on to the same bits, and its checkpoint is a whole one."""
    words = ["model=custom", "model._target_=nodes.Plain", "threads=1", "trainer.accelerator=cpu", "data.limit=165"]
    words += ["callbacks.curves=null", "logger.tensorboard=false", "optimizer=adam", "task.rates={trunk.0:0}"]
    words += ["trainer.gradient_clip_val=1", "callbacks.pictures.count=4", f"paths.outputs={tmp_path}"]

    def line(name: str, trainer: str, epochs: int, *more: str) -> list[str]:
        nodes = ["trainer.devices=1", "trainer.num_nodes=2", "data.batch_size=8"]
        own = nodes if trainer != "default" else ["data.batch_size=16"]
        return [
            f"trainer={trainer}",
            *words,
            *own,
            f"trainer.max_epochs={epochs}",
            f"hydra.run.dir={tmp_path / name}",
            *more,
        ]

    cases = {
        "one": [line("one", "default", 2)],
        "ddp": [line("ddp", "ddp", 2)] * 2,
        "fsdp": [line("fsdp", "fsdp", 2)] * 2,
        "half": [line("half", "fsdp", 1)] * 2,
        "on": [[f"resume={tmp_path / 'half'}", "trainer.max_epochs=2", "trust=true"]] * 2,
        "alone": [[f"resume={tmp_path / 'half'}", "trainer.max_epochs=3", "trainer.num_nodes=1", "trust=true"]],
        "ema": [line("ema", "fsdp", 1, "+callbacks.ema={_target_:lightbed.callbacks.ema.Ema}")] * 2,
    }
    found = dict(zip(cases, run_cases(tmp_path, list(cases.values())), strict=True))
    for name in ("one", "ddp", "fsdp", "half", "on"):
        assert set(found[name]["codes"]) == {0}, found[name]["texts"]
    one, *several = (rows(tmp_path / name) for name in ("one", "ddp", "fsdp"))
    for many in several:
        for first, other in zip(one, many, strict=True):
            assert other == pytest.approx(first, rel=1e-4)
    assert (tmp_path / "fsdp" / "pictures" / "predictions.png").is_file()
    assert result(tmp_path / "half") == result(tmp_path / "fsdp")
    assert found["alone"]["codes"] == [2], found["alone"]
    assert "trainer.num_nodes=1: resume goes on with the run's own configuration" in found["alone"]["texts"][0]
    assert set(found["ema"]["codes"]) == {2}
    assert "trainer.strategy=fsdp does not go with callbacks.ema" in found["ema"]["texts"][0]
    state = torch.load(tmp_path / "fsdp" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert state["model.head.1.weight"].shape == (10, 128)
    assert (
        main(["test", f"run={tmp_path / 'fsdp'}", "trust=true", "device=cpu", f"hydra.run.dir={tmp_path / 'test'}"])
        == 0
    )
    tested = json.loads((tmp_path / "test" / "metrics.json").read_text())
    final = json.loads((tmp_path / "fsdp" / "metrics.json").read_text())
    assert tested == pytest.approx({name: final[name] for name in tested}, rel=1e-5)  # sums of another order
