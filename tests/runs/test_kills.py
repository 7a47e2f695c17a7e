"""SIGKILL: to a process of the command line, and to many runs at random moments."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from exact import WORDS, kill, result
from lightbed.cli import main

HERE = Path(__file__).parents[1]


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, "-m", "lightbed", "train", *words]
    return subprocess.run(
        line, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False
    )


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
