"""`lightbed train`: what a run leaves behind, and that it can be repeated to the bit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightbed.cli import main
from lightbed.runs.history import read_history

TINY = ["model.channels=[4,8]", "trainer.max_epochs=2", "trainer.accelerator=cpu", "callbacks.pictures=null"]


def run(folder: Path, *overrides: str) -> Path:
    code = main(["train", *TINY, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}", *overrides])
    assert code == 0
    return folder


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with dropout and augmentation."""
    return run(tmp_path_factory.mktemp("reference") / "run", "augment=flip_crop")


def test_run_folder_holds_its_record(reference: Path) -> None:
    record = json.loads((reference / "run.json").read_text())
    assert record["status"] == "done"
    assert record["seed"] == 0
    assert record["data"]["images"] == {"train": 1294, "val": 144, "test": 359}  # 20 % of 1797, then 10 %
    assert record["versions"]["torch"] == torch.__version__
    assert record["seconds"] > 0
    config = yaml.safe_load((reference / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert "${" not in (reference / "config.yaml").read_text(), "config.yaml must be resolved"
    assert "trainer.max_epochs=2" in yaml.safe_load((reference / "overrides.yaml").read_text())
    assert "epoch 2/2" in (reference / "log.txt").read_text()


def test_metrics_files_agree_with_each_other(reference: Path) -> None:
    rows = read_history(reference / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1]
    final = json.loads((reference / "metrics.json").read_text())
    assert {f"test/{name}" for name in ("accuracy", "precision", "recall", "f1", "loss")} <= final.keys()
    assert 0.1 < final["test/accuracy"] <= 1
    # images that are right, of 359: accuracy is a whole number of them
    assert final["test/accuracy"] * 359 == pytest.approx(round(final["test/accuracy"] * 359), abs=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_repeated_run_is_identical_whatever_the_workers(reference: Path, tmp_path: Path, workers: int) -> None:
    again = run(tmp_path / "run", "augment=flip_crop", f"data.num_workers={workers}")
    assert same(weights(reference), weights(again))
    old, new = (read_history(folder / "metrics.csv") for folder in (reference, again))
    for one, other in zip(old, new, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


def test_another_seed_is_another_run(reference: Path, tmp_path: Path) -> None:
    assert not same(weights(reference), weights(run(tmp_path / "run", "augment=flip_crop", "seed=1")))


def test_zero_epochs_test_the_untrained_network(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "trainer.max_epochs=0")
    assert json.loads((folder / "metrics.json").read_text())["test/accuracy"] < 0.4
    assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_an_existing_run_is_never_overwritten(reference: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (reference / "run.json").read_bytes()
    assert main(["train", *TINY, f"hydra.run.dir={reference}"]) == 2
    assert (reference / "run.json").read_bytes() == before
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert "holds a run already" in message


def test_the_checkpoint_file_is_plain_values(reference: Path) -> None:
    card = torch.load(reference / "checkpoints" / "best.ckpt", weights_only=True)["lightbed"]
    assert card["task"] == "classifier"
    assert card["classes"] == [str(digit) for digit in range(10)]
    assert card["preprocess"]["size"] == [8, 8]
    config = json.loads(card["config_json"])
    assert config["model"]["num_classes"] == 10, "auto must have become the number"


@pytest.mark.slow
def test_the_command_line_from_start_to_finish(tmp_path: Path) -> None:
    """The default command in a process of its own: table, pictures, TensorBoard's line; then a multirun."""
    environment = {**os.environ, "COLUMNS": "120"}
    command = [sys.executable, "-m", "lightbed", "train", "trainer.max_epochs=2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("accuracy", "precision", "recall", "f1", "loss"):
        assert re.search(rf"test/{name}.*0\.\d{{4}}", done.stdout), done.stdout
    pictures = [line.strip() for line in done.stdout.splitlines() if line.strip().endswith(".png")]
    assert {Path(line).name for line in pictures} >= {"curves.png", "predictions.png", "confusion_matrix.png"}
    assert all((tmp_path / line).is_file() for line in pictures)
    assert "tensorboard --logdir outputs/classifier\n" in done.stdout
    assert (tmp_path / "outputs" / "latest" / "metrics.json").is_file()
    assert "Warning" not in done.stderr, done.stderr

    sweep = subprocess.run(
        [*command[:-1], "-m", "trainer.max_epochs=0,1", "model.channels=[4]"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert sweep.returncode == 0, sweep.stderr
    jobs = {path.parent.name for path in (tmp_path / "outputs").rglob("metrics.json")}
    assert {"trainer.max_epochs=0", "trainer.max_epochs=1"} <= jobs
