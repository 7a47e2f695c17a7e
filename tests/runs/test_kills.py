"""SIGKILL: to a process of the command line, and to many runs at random moments."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from exact import WORDS, kill, result
from lightbed.cli import main

HERE = Path(__file__).parents[1]


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, "-m", "lightbed", "train", *words]
    return subprocess.run(
        line, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    words = [*WORDS, "augment=torchvision_v2", "data.num_workers=2", "callbacks.checkpoint.every_n_steps=3"]
    assert main(["train", *words, f"hydra.run.dir={tmp_path / 'whole'}", f"paths.outputs={tmp_path}"]) == 0
    folder = tmp_path / "run"
    killer = kill("batch", 14, "kill")
    died = command(*words, killer, f"hydra.run.dir={folder}", f"paths.outputs={tmp_path}")
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = command(f"resume={folder}", "trust=true", "data.num_workers=1")
    assert done.returncode == 0, done.stderr
    assert "goes on after step 11" in done.stdout  # epoch end at 8, and 3 steps more
    assert "Warning" not in done.stderr
    found, whole = result(folder), result(tmp_path / "whole")
    assert found == whole


@pytest.mark.slow
@pytest.mark.parametrize(("by", "code"), [("group_term", 143), ("group_int", 130)])
def test_a_signal_to_the_whole_group_costs_nothing(tmp_path: Path, by: str, code: int) -> None:
    """Reading processes get it, too, and stay until the run has used their batches; they persist over the epochs."""
    words = [*WORDS, "augment=torchvision_v2", "data.num_workers=2"]
    assert main(["train", *words, f"hydra.run.dir={tmp_path / 'whole'}", f"paths.outputs={tmp_path}"]) == 0
    folder = tmp_path / "run"
    stopped = command(*words, kill("batch", 11, by), f"hydra.run.dir={folder}", f"paths.outputs={tmp_path}")
    assert stopped.returncode == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 11
    assert main(["train", f"resume={folder}", "trust=true"]) == 0
    assert result(folder) == result(tmp_path / "whole")


NAN = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import kills
folder = Path(sys.argv[2])
places = [f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}"]
words = [*kills.WORDS, "model._target_=exact.Bad", *places, *sys.argv[3:]]
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in kills.start(words, folder.parent / "log", 2)]
print(*codes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("nan", ["stop", "skip"])
def test_all_processes_stop_at_a_loss_that_one_has(tmp_path: Path, nan: str) -> None:
    """The second of two processes has it; both end, and the first says why. Leaving it out is refused at once."""
    line = [sys.executable, "-c", NAN, str(HERE), str(tmp_path / "run"), f"trainer.nan={nan}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.split() == ["1" if nan == "stop" else "2", "0"], done.stderr
    logs = [(tmp_path / f"log.{rank}").read_text() for rank in (0, 1)]
    status = json.loads((tmp_path / "run" / "run.json").read_text())["status"]
    assert status == "failed"
    if nan == "skip":
        assert "trainer.nan=skip is for a run in one process: use stop" in logs[0]
        return
    found = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)
    assert found["images"].isnan().sum() == 0
    assert found["step"] == 4
    assert [log.count("loss is nan in batch 5 of epoch 1, step 5") for log in logs] == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [["--kills", "100"], ["--writes", "50"], ["--kills", "8", "--processes", "2"]],
    ids=["moments", "writes", "ddp"],
)
def test_every_killed_run_goes_on_to_the_same_bits(tmp_path: Path, how: list[str]) -> None:
    line = [sys.executable, str(HERE / "kills.py"), *how, "--folder", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": 0 not identical" in done.stdout
