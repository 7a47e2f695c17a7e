"""From RUN back to a task: which file is meant, and where its data now lies."""

import shutil
from pathlib import Path

import pytest
import torch

from lightbed.errors import UserError
from lightbed.runs.load import find_checkpoint, load_run, moved


def test_a_folder_means_its_best_checkpoint_else_its_last(digits_run: Path, tmp_path: Path) -> None:
    assert find_checkpoint(digits_run).name == "best.ckpt"
    assert find_checkpoint(digits_run / "checkpoints" / "last.ckpt").name == "last.ckpt"
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(digits_run / "checkpoints" / "last.ckpt", tmp_path / "checkpoints")
    assert find_checkpoint(str(tmp_path)) == tmp_path / "checkpoints" / "last.ckpt"


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: give a run folder"):
        find_checkpoint(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no checkpoints/\*.ckpt"):
        find_checkpoint(tmp_path)
    (tmp_path / "model=cnn,seed=0" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="multirun; choose one of its jobs: model=cnn,seed=0"):
        find_checkpoint(tmp_path)


def test_a_copied_checkpoint_is_the_same_task(digits_run: Path, tmp_path: Path) -> None:
    shutil.copy(digits_run / "checkpoints" / "best.ckpt", tmp_path / "copy.ckpt")
    one, other = load_run(digits_run), load_run(tmp_path / "copy.ckpt")
    images = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert not one.task.training
    found = [
        torch.stack([p["scores"] for p in each.task.predict(each.task.preprocess(images))]) for each in (one, other)
    ]
    assert torch.equal(*found)
    assert one.task.classes == other.task.classes == [str(digit) for digit in range(10)]
    assert one.config == other.config


def test_paths_move_with_their_folder() -> None:
    config = {
        "root": "/old/data/photos",
        "split": "old",
        "files": ["/old/data", "/old/database"],
        "cache": "/old/data/cache/x",
        "n": 3,
    }
    assert moved(config, {"/old/data": "/new", "/old/data/cache": "/fast/"}) == {
        "root": "/new/photos", "split": "old", "files": ["/new", "/old/database"], "cache": "/fast/x", "n": 3,
    }  # fmt: skip
    assert moved("~/.cache/lightbed/data/MNIST", {"~/.cache/lightbed/data": "data"}) == "data/MNIST"
