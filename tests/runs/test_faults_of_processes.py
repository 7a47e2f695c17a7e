"""Several processes of one run: whoever fails, the first one says it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only

from lightbed.errors import RunError, UserError
from lightbed.runs import processes
from lightbed.runs.record import Record
from lightbed.runs.signals import Stop
from lightbed.trainer import make_loggers

LOST = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")


class Fail(Callback):
    """Fails in the fifth batch of one of the processes; the others go on, or hang."""

    def __init__(self, rank: int, kind: str, hang: bool) -> None:
        self.rank, self.kind, self.hang, self.batches = rank, kind, hang, 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.batches += 1
        if self.batches == 5 and trainer.global_rank == self.rank:
            raise {"memory": torch.OutOfMemoryError("CUDA out of memory"), "file": UserError("1.jpg is empty")}[
                self.kind
            ]
        if self.batches == 5 and self.hang:
            processes.time.sleep(300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "kind", "hang", "code"),
    [(0, "memory", True, 1), (1, "memory", False, 1), (1, "memory", True, 1), (1, "file", False, 2)],
)
def test_the_run_fails_with_the_fault_of_whichever_process(
    tmp_path: Path, rank: int, kind: str, hang: bool, code: int
) -> None:
    linear = "[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:10}]"
    words = [
        *("model=custom", "model._target_=torch.nn.Sequential", f"+model._args_={linear}", "data.limit=320"),
        *("threads=1", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=16"),
        *("trainer.max_epochs=2", "callbacks.pictures=null", "callbacks.curves=null", "callbacks.layers=null"),
        *("logger=csv", f"hydra.run.dir={tmp_path / 'run'}", f"paths.outputs={tmp_path}"),
        f"+callbacks.fail={{_target_:test_faults_of_processes.Fail,rank:{rank},kind:{kind},hang:{hang}}}",
    ]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "lightbed", "train", *words], capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lightbed: ")]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"] == line.removeprefix("lightbed: ")
    assert ("process 2 of the run: " in line) == (rank == 1)
    assert ("out of memory in step 6 of epoch 1" if kind == "memory" else "1.jpg is empty") in line
    assert not list((tmp_path / "run").glob(".fault*"))


def record(folder: Path, *, first: bool) -> Any:
    """What stands for a run's record in one of its processes."""
    if first:
        (folder / "run.json").write_text(json.dumps({"status": "running"}))
        (folder / ".lock").touch()
    notes: list[str] = []
    return SimpleNamespace(folder=folder, writes=first, note=notes.append, notes=notes)


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the second process of a run in this folder end with an error."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(processes, "_end_with", lambda parent: None)
    monkeypatch.setattr(processes, "_SETTLING", 0.0)
    monkeypatch.setattr(processes, "_GRACE", 0.3)
    monkeypatch.setattr(processes, "_BEGINNING", 0.5)

    def fail(error: BaseException) -> Any:
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        run = record(tmp_path, first=False)
        with pytest.raises(BaseException) as caught, processes.noted(run):  # noqa: PT011 - whatever it ends with
            raise error
        monkeypatch.setattr(rank_zero_only, "rank", 0)
        return caught.value

    return fail


TRAINER: Any = SimpleNamespace(world_size=2)


def both(run: Any, second: Any, theirs: BaseException, own: BaseException) -> None:
    """The second process ends with one error, the first one then with another."""
    with processes.together(TRAINER, run):
        run.second = second(theirs)
        raise own


def test_the_first_process_says_what_the_second_one_had(tmp_path: Path, second: Any) -> None:
    run = record(tmp_path, first=True)
    with pytest.raises(RunError, match=r"^process 2 of the run: ValueError: shapes differ$"):
        both(run, second, ValueError("shapes\ndiffer"), LOST)
    assert run.second.code == 0, "Lightning kills the first process where another one ends otherwise"
    assert "ValueError: shapes" in run.notes[0]
    assert not list(tmp_path.glob(".fault*"))


def test_a_second_process_that_fails_before_the_first_has_begun_waits_for_it(tmp_path: Path, second: Any) -> None:
    def begin() -> None:
        record(tmp_path, first=True)

    slow = threading.Timer(0.2, begin)
    slow.start()
    assert second(ValueError("early")).code == 0
    slow.join()
    (note,) = tmp_path.glob(".fault*")
    assert "ValueError: early" in note.read_text()


def test_where_the_first_process_never_begins_the_second_one_ends_with_1(tmp_path: Path, second: Any) -> None:
    assert second(ValueError("early")).code == 1


def test_a_further_process_needs_no_file_of_the_first_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    run = Record(tmp_path / "run", ["train"], ["model=cnn"], {})
    config: dict[str, Any] = {"task": {"monitor": "val/loss"}, "trainer": {"max_epochs": 1}, "seed": 0}
    config |= {"logger": {"tensorboard": True}, "optimizer": {"lr": 0.1}, "data": {"batch_size": 8}}
    make_loggers(config, run, None, [])
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_the_user_stays_one(tmp_path: Path, second: Any) -> None:
    with pytest.raises(UserError, match=r"process 2 of the run: 1\.jpg is empty"):
        both(record(tmp_path, first=True), second, UserError("1.jpg is empty"), LOST)


def test_its_own_fault_comes_first(tmp_path: Path, second: Any) -> None:
    with pytest.raises(KeyError, match="own"):
        both(record(tmp_path, first=True), second, LOST, KeyError("own"))
    assert not list(tmp_path.glob(".fault*"))


def test_a_process_that_vanished_is_said_to(tmp_path: Path, second: Any) -> None:
    with pytest.raises(RunError, match="another of the 2 processes is gone: lightbed train resume="):
        both(record(tmp_path, first=True), second, LOST, LOST)


def test_a_stop_is_no_fault(tmp_path: Path, second: Any) -> None:
    run = record(tmp_path, first=True)
    with pytest.raises(Stop):
        both(run, second, Stop(15), Stop(15))
    assert isinstance(run.second, Stop)


def test_torchrun_ends_all_when_one_is_told_to_have_failed(
    tmp_path: Path, second: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends SIGTERM to the first process."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    run = record(tmp_path, first=True)
    with pytest.raises(RunError, match="process 2 of the run: ValueError: x"):
        both(run, second, ValueError("x"), Stop(15))
    assert run.second.code == 1


def test_the_first_process_of_a_further_machine_says_it_there_too(
    tmp_path: Path, second: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    run = record(tmp_path, first=True)
    with pytest.raises(RunError, match=r"^process 2 of the run: ValueError: x$"):
        both(run, second, ValueError("x"), LOST)
    assert isinstance(run.second, ValueError)
    told = second(LOST)
    assert isinstance(told, RunError)
    assert "another process of the run is gone" in str(told)
