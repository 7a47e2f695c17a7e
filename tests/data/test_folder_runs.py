"""`lightbed train data=image_folder` from the command line."""

import json
import os

import pytest

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


def test_a_file_that_breaks_while_workers_read(train, tmp_path, capsys, monkeypatch):
    """The check at the start is remembered by size and time, so a file spoilt under both is met by a worker."""
    root = fakes.image_folder(tmp_path / "photos")
    stream = ["data.cache=false", "data.num_workers=2"]
    assert train(*stream, "hydra.run.dir=" + str(tmp_path / "first")) == 0
    path = root / "pear" / "pear_003.png"
    state = path.stat()
    path.write_bytes(b"\0" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    capsys.readouterr()
    assert train(*stream, "data.test_fraction=0", "data.val_fraction=0.2", "test=last") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1] == f"lightbed: {path} is no image that can be read"
    assert not any("Traceback" in line for line in lines)
