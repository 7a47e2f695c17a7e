"""Data that fails while a run goes on: files that vanish or break, and reading processes that are killed."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import get_worker_info

import fake_objects
import fakes
from lightbed.cli import main
from lightbed.data.base import DataModule, Loading
from lightbed.data.coco import Coco
from lightbed.data.folder import ImageFolder
from lightbed.data.instance_masks import InstanceMasks
from lightbed.data.source import Sample
from lightbed.data.voc import Voc
from lightbed.data.yolo import Yolo
from lightbed.errors import RunError, UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fakes.image_folder(tmp_path / "photos", count=8)


def opened(root: Path, broken: str, **options: Any) -> ImageFolder:
    """The images are read from their files each time."""
    settings = {"image_size": 16, "cache": False, "cache_dir": root.parent / "cache", "batch_size": 4}
    data = ImageFolder(root, broken=broken, **{**settings, **options})
    data.setup()
    return data


def positions(data: ImageFolder) -> list[int]:
    return sorted(int(i) for _, target in data.train_dataloader() for i in target["index"])


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:60])])
def test_a_file_that_fails_during_the_run(root: Path, capfd: pytest.CaptureFixture[str], spoil: Any) -> None:
    """It is named, and left out or the end, as `data.broken` says."""
    data = opened(root, "skip")
    everything = positions(data)
    path = Path(data.splits["train"].paths[3])
    spoil(path)
    capfd.readouterr()
    loader = data.train_dataloader()
    for _ in range(2):
        found = sorted(int(i) for _, target in loader for i in target["index"])
        assert found == [i for i in everything if i != 3]
    said = capfd.readouterr().out.strip().splitlines()
    assert len(said) == 1, "once, not in every epoch"
    assert said[0].startswith(f"left out from now on: {path}")
    with pytest.raises(UserError, match=str(path)):
        positions(opened(root, "error") if path.exists() else strict(data))


def strict(data: ImageFolder) -> ImageFolder:
    """The same data as if it had been opened with broken=error before the file was gone."""
    data.broken = "error"
    return data


def test_a_batch_without_any_image_is_the_end(root: Path) -> None:
    data = opened(root, "skip")
    for path in data.splits["train"].paths:
        Path(path).unlink()
    with pytest.raises(UserError, match="none of the 4 images of a batch can be read any more"):
        positions(data)


def test_in_a_batch_of_one_image_the_next_stands_in(root: Path) -> None:
    data = opened(root, "skip", batch_size=1)
    everything = positions(data)
    for i in (3, len(everything) - 1):
        Path(data.splits["train"].paths[i]).unlink()
    expected = [{3: 4, len(everything) - 1: 0}.get(i, i) for i in everything]
    assert positions(data) == sorted(expected)


@pytest.mark.parametrize("make", [fake_objects.voc, fake_objects.coco, fake_objects.yolo, fake_objects.instance_masks])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_images_with_objects_that_vanish(tmp_path: Path, make: Any, batch_size: int, capfd: Any) -> None:
    """Images and, where they are files, masks: boxes stay with their image."""
    kinds = {"voc": Voc, "coco": Coco, "yolo": Yolo, "instance_masks": InstanceMasks}
    root = make(tmp_path / "objects")
    data = kinds[make.__name__](root, broken="skip", cache=False, cache_dir=tmp_path / "cache", batch_size=batch_size)
    data.setup()
    source = data.splits["train"]
    boxes = [source[i][1]["boxes"] for i in range(len(source))]
    Path(source.paths[2]).unlink()
    seen = []
    for images, targets in data.train_dataloader():
        for image, target in zip(images, targets, strict=True):
            index = int(target["index"])
            seen.append(index)
            assert target["path"] == source.paths[index]
            assert torch.equal(target["boxes"], boxes[index].as_subclass(torch.Tensor))
            assert image.shape[0] == 3
    assert 2 not in seen
    assert set(seen) == set(range(len(source))) - {2}
    assert capfd.readouterr().out.count("left out from now on") == 1


def test_a_transform_that_is_wrong_is_no_broken_file(root: Path) -> None:
    def scaled(image: Any, target: Any) -> Sample:
        return image.float() / 255, target

    with pytest.raises(UserError, match=r"augment\.sample gives float32"):
        positions(opened(root, "skip", transform=scaled))


class Vandal(Callback):
    """Deletes an image of each split when the second epoch begins."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            for source in trainer.datamodule.splits.values():
                Path(source.paths[0]).unlink()


def test_a_run_goes_on_without_the_files_that_vanish(root: Path, tmp_path: Path, capfd: Any) -> None:
    """In reading processes, in the test and in the grid of pictures, too."""
    words = [f"data.root={root}", "data.image_size=16", "data.cache=false", "data.batch_size=4", "data.num_workers=1"]
    more = ["model.channels=[4]", "trainer.max_epochs=2", "trainer.accelerator=cpu", "logger=csv"]
    places = [f"hydra.run.dir={tmp_path / 'run'}", f"paths.outputs={tmp_path}"]
    vandal = f"+callbacks.vandal._target_={__name__}.Vandal"
    assert main(["train", "data=image_folder", "data.broken=skip", vandal, *words, *more, *places]) == 0
    out, log = capfd.readouterr().out, (tmp_path / "run" / "log.txt").read_text()
    assert out.count("left out from now on") >= 3
    assert log.count("left out from now on") >= 3
    assert (tmp_path / "run" / "pictures" / "predictions.png").is_file()


class Deadly:
    """Samples whose reading ends the reading process, as often as the file at `lives` has bytes."""

    batched = False

    def __init__(self, lives: Path) -> None:
        self.lives = lives

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Sample:
        assert get_worker_info() is not None
        left = self.lives.read_bytes()
        if index == 13 and left:
            self.lives.write_bytes(left[1:])
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((1, 2, 2), index, dtype=torch.uint8), {"label": torch.tensor(index % 2)}


class DeadlyData(DataModule):
    """Holds them."""

    def __init__(self, lives: Path, broken: str) -> None:
        super().__init__(batch_size=3, num_workers=2, val_fraction=0, test_fraction=0)
        self.lives, self.broken = lives, broken

    def load(self) -> Loading:
        return Loading({"train": Deadly(self.lives)}, ["even", "odd"])


def batches(lives: Path, deaths: int, broken: str) -> list[list[int]]:
    lives.write_bytes(b"." * deaths)
    loader = DeadlyData(lives, broken)
    loader.setup()
    return [images[:, 0, 0, 0].tolist() for images, _ in loader.train_dataloader()]


def test_a_killed_reading_process_is_replaced_or_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lives = tmp_path / "lives"
    whole = batches(lives, 0, "skip")
    assert batches(lives, 1, "skip") == whole, "every batch once, in its order"
    out = capfd.readouterr().out
    assert out.startswith("reading process ")
    assert "was ended by SIGKILL; new ones go on" in out
    with pytest.raises(RunError, match=r"^reading process \d+ was ended by SIGKILL; where memory ran out, lower"):
        batches(lives, 1, "error")


@pytest.mark.slow
def test_reading_processes_that_die_again_and_again_are_given_up(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="was ended by SIGKILL"):
        batches(tmp_path / "lives", 9, "skip")
    assert len((tmp_path / "lives").read_bytes()) == 9 - 4
