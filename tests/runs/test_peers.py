"""What becomes of a run when one of its processes is gone."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only

from lightbed.errors import RunError
from lightbed.runs import peers

CLOSED = "[third_party/gloo/pair.cc:545] Read error [127.0.0.1]:11400: Connection reset by peer."


def trainer_in(folder: Path, *, world: int = 2, procs: Any = ()) -> Any:
    """What is asked of a trainer."""
    launcher = SimpleNamespace(procs=list(procs))
    return SimpleNamespace(world_size=world, default_root_dir=str(folder), strategy=SimpleNamespace(launcher=launcher))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PATIENCE", "_LOOK", "_GRACE"):
        monkeypatch.setattr(peers, name, 0.05)


def test_a_broken_connection_is_told_with_what_the_other_left_word_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(peers.PeerError, match=r"is gone; lightbed train resume=\S+ goes on"),
        peers.told(trainer_in(tmp_path)),
    ):
        raise RuntimeError(CLOSED)
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    peers.leave_word(tmp_path, OSError(5, "no\ndisk"))
    peers.leave_word(tmp_path, peers.PeerError("never"))  # no cause
    told = r"is gone: OSError: \[Errno 5\] no disk \(its traceback is in process_3.txt\); lightbed"
    with pytest.raises(peers.PeerError, match=told), peers.told(trainer_in(tmp_path)):
        raise RuntimeError(CLOSED)
    old = time.time() - 3600
    os.utime(tmp_path / "process_3.txt", (old, old))
    assert "OSError" not in peers.explain(tmp_path, time.time())


@pytest.mark.parametrize(
    ("world", "error"), [(1, RuntimeError(CLOSED)), (2, RuntimeError("shapes")), (2, OSError("x"))]
)
def test_other_errors_stay_what_they_are(tmp_path: Path, world: int, error: Exception) -> None:
    with pytest.raises(type(error)) as found, peers.told(trainer_in(tmp_path, world=world)):
        raise error
    assert found.value is error


def test_a_run_that_waits_for_a_process_that_is_gone_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    trainer = trainer_in(tmp_path, procs=[child])
    theirs, causes = trainer.strategy.launcher.procs, []
    peers.watch(trainer, lambda error: causes.append(str(error)))
    assert not theirs  # Lightning's own watch has nothing more to look after
    trainer.strategy.launcher.watch.join(30)
    assert ended == [1]
    assert "another process of the run is gone" in causes[0]
    assert capsys.readouterr().err == f"lightbed: {causes[0]}\n"


def test_a_run_that_ends_by_itself_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("ended"))
    monkeypatch.setattr(peers, "_GRACE", 30.0)
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    trainer = trainer_in(tmp_path, procs=[child])
    peers.watch(trainer, lambda error: None)
    child.wait()
    with pytest.raises(RunError), peers.told(trainer):
        raise RuntimeError(CLOSED)
    trainer.strategy.launcher.watch.join(30)
    assert not trainer.strategy.launcher.watch.is_alive()


def test_only_a_process_on_a_further_machine_takes_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    monkeypatch.setenv("NODE_RANK", "2")
    peers.settle_rank({"num_nodes": 1})  # a run of its own
    assert rank_zero_only.rank == 0
    peers.settle_rank({"num_nodes": 3})
    assert rank_zero_only.rank == 2
    assert peers.log_name() == "process_2.txt"
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    monkeypatch.setenv("RANK", "0")  # torchrun's word counts
    peers.settle_rank({"num_nodes": 3})
    assert rank_zero_only.rank == 0
