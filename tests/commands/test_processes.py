"""One run in several processes: one folder, and the metrics of one process with the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightbed.cli import main
from lightbed.runs.history import read_history

LINEAR = "[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:10}]"
WORDS = [
    *("model=custom", "model._target_=torch.nn.Sequential", f"+model._args_={LINEAR}", "data.limit=320", "threads=1"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=2", "callbacks.pictures=null", "callbacks.curves=null"),
]


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    rows = {}
    ddp = ["trainer=ddp", "trainer.devices=2", "data.batch_size=16"]
    for name, more in (("one", ["data.batch_size=32"]), ("two", ddp)):
        outputs = tmp_path / name
        words = [*WORDS[:-1], *more, WORDS[-1], f"paths.outputs={outputs}", "name=linear"]
        command = [sys.executable, "-m", "lightbed", "train", *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
        (folder,) = (outputs / "linear").iterdir()
        rows[name] = [
            {key: row[key] for key in row if key != "seconds"} for row in read_history(folder / "metrics.csv")
        ]
        assert (folder / "metrics.json").is_file()
        assert sorted(path.name for path in outputs.iterdir()) == ["latest", "linear"]
    assert len(rows["one"]) == len(rows["two"]) == 2
    for one, two in zip(rows["one"], rows["two"], strict=True):
        assert two == pytest.approx(one, rel=1e-5)


def test_strategies_that_cannot_be_had_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, told in (
        ("trainer.strategy=fsdp_cpu_offload", "does not leave checkpoints in one file: use fsdp or ddp"),
        ("trainer.strategy=ddp_spawn", "takes a run's parts into processes that they cannot go to: use ddp"),
        ("+trainer.sync_batchnorm=true", "is for GPUs: torch has no such batch norm on a CPU"),
    ):
        assert main(["train", *WORDS, word, f"paths.outputs={tmp_path}"]) == 2
        assert capsys.readouterr().err == f"lightbed: {word.lstrip('+')} {told}\n"


@pytest.mark.slow
def test_frozen_parts_need_no_gradient_in_several_processes(tmp_path: Path) -> None:
    words = [
        "model=cnn",
        "model.channels=[4,8]",
        "task.rates={features:0}",
        "trainer=ddp",
        "trainer.devices=2",
        *WORDS[4:],
    ]
    command = [sys.executable, "-m", "lightbed", "train", *words, "data.limit=96", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [*command, f"paths.outputs={tmp_path}"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
