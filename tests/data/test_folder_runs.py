"""`lightbed train data=image_folder` from the command line."""

import json
from pathlib import Path

import pytest
from lightning.pytorch import Callback

import fakes
from lightbed.cli import main

TINY = ["data=image_folder", "model.channels=[4,8]", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
TINY += ["callbacks.pictures=null", "data.image_size=16"]


@pytest.fixture
def train(tmp_path):
    def command(*words):
        outputs = [f"paths.outputs={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"]
        return main(["train", *TINY, f"data.root={tmp_path / 'photos'}", *outputs, *words])

    return command


def test_a_run_records_what_it_read_and_what_it_left_out(train, tmp_path):
    root = fakes.image_folder(tmp_path / "photos")
    (root / "pear" / "pear_003.png").write_bytes(b"")
    assert train("data.broken=skip") == 0
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert sum(data["images"].values()) == 29
    assert data["classes"] == ["apple", "pear", "plum"]
    assert data["skipped"] == 1
    assert data["skipped_files"] == [f"{root}/pear/pear_003.png is empty"]
    assert data["fingerprint"]["files"] == 30
    assert len(data["fingerprint"]["sha256"]) == 64
    assert f"left out: {root}/pear/pear_003.png is empty" in (tmp_path / "run" / "log.txt").read_text()


def test_a_broken_file_ends_it_in_one_line(train, tmp_path, capsys):
    root = fakes.image_folder(tmp_path / "photos")
    (root / "pear" / "pear_003.png").write_bytes(b"")
    assert train() == 2
    lines = capsys.readouterr().err.strip().splitlines()
    told = f"{root}/pear/pear_003.png is empty; mend or delete it, or leave such files out by data.broken=skip"
    assert lines == [f"lightbed: {told}"]


class Spoil(Callback):
    """Overwrites a file when the data has been looked at and the training begins."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_fit_start(self, trainer, pl_module):
        self.path.write_bytes(b"\0" * 100)


def test_a_file_that_breaks_while_workers_read(train, tmp_path, capsys):
    root = fakes.image_folder(tmp_path / "photos")
    path = root / "pear" / "pear_003.png"
    spoil = [f"+callbacks.spoil._target_={__name__}.Spoil", f"+callbacks.spoil.path={path}"]
    stream = ["data.cache=false", "data.num_workers=2", "data.test_fraction=0", "data.val_fraction=0.2", "test=last"]
    assert train(*stream, *spoil) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1] == f"lightbed: {path} is no image that can be read"
    assert not any("Traceback" in line for line in lines)
