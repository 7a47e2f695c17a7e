"""Decoded images on disk: right, whole, never stale, also when several processes build or one is killed."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

import fakes
from lightbed.data.cache import Decoder, _alone
from lightbed.data.files import find_images
from lightbed.data.images import read_image
from lightbed.errors import UserError
from lightbed.transforms.preprocess import Preprocess


@pytest.fixture
def root(tmp_path):
    return fakes.image_folder(tmp_path / "photos")


def decoder(root, cache, *, store=True, same_size=False, **settings):
    preprocess = Preprocess(**{"channels": 3, "size": 20, **settings})
    return Decoder(root, find_images(root), preprocess, cache, store=store, same_size=same_size)


def caches(folder):
    return sorted(path.name for path in folder.iterdir())


def test_holds_what_reading_and_resizing_each_file_gives(root, tmp_path):
    found = decoder(root, tmp_path / "cache").decode()
    preprocess = Preprocess(3, 20)
    expected = torch.stack([preprocess.fit(read_image(root / entry.path)) for entry in find_images(root)])
    assert found.broken == {}
    assert isinstance(found.images, np.memmap)
    assert torch.equal(torch.from_numpy(np.array(found.images)), expected)


def test_is_opened_not_built_the_second_time(root, tmp_path, capsys):
    decoder(root, tmp_path / "cache").decode()
    assert "decoding 30 images" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    decoder(root, tmp_path / "cache").decode()
    assert capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before
    assert len(caches(tmp_path / "cache")) == 1  # no lock, no part is left


@pytest.mark.parametrize("settings", [{"size": 24}, {"channels": 1}, {"resize": "crop"}, {"store": False}])
def test_other_settings_make_another_cache(root, tmp_path, settings):
    first, second = decoder(root, tmp_path / "cache"), decoder(root, tmp_path / "cache", **settings)
    assert first.folder != second.folder


def test_normalisation_does_not(root, tmp_path):
    assert decoder(root, tmp_path).folder == decoder(root, tmp_path, mean=0.1, std=0.2).folder


@pytest.mark.parametrize("change", ["touch", "grow", "add", "delete", "rename", "same size and time", "exchange"])
def test_a_changed_source_makes_the_cache_stale(root, tmp_path, change):
    file = root / "pear" / "pear_003.png"
    if change == "exchange":  # of files that were made as one, as by unpacking an archive
        for name in ("pear", "plum"):
            shutil.rmtree(root / name)
            (root / name).mkdir()
            (root / name / "one.ppm").write_bytes(b"P6 1 1 255 " + name[:3].encode())
            os.utime(root / name / "one.ppm", ns=(1, 1))
    before = decoder(root, tmp_path / "cache").folder
    if change == "touch":
        os.utime(file, ns=(1, 1))
    elif change == "grow":
        state = file.stat()
        file.write_bytes(file.read_bytes() + b"\0")
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "same size and time":  # as cp -p and rsync -t leave them
        state = file.stat()
        file.write_bytes(file.read_bytes()[::-1])
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "exchange":
        for old, new in (("pear", "x"), ("plum", "pear"), ("x", "plum")):
            (root / old).rename(root / new)
    elif change == "add":
        Image.new("RGB", (9, 9)).save(root / "pear" / "new.png")
    elif change == "delete":
        file.unlink()
    else:
        file.rename(root / "plum" / "pear_003.png")
    assert decoder(root, tmp_path / "cache").folder != before


def test_broken_files_are_named_and_left_out(root, tmp_path):
    (root / "apple" / "apple_002.png").write_bytes(b"")
    (root / "plum" / "lost.png").symlink_to(root / "nowhere.png")
    for store in (True, False):
        for _ in range(2):  # built, then opened
            found = decoder(root, tmp_path / "cache", store=store).decode()
            assert list(found.broken) == [2, 20]
            assert found.broken[2].endswith("apple_002.png is empty")
            assert found.broken[20].endswith("lost.png does not exist")
            assert (found.images.shape == (29, 3, 20, 20)) if store else found.images is None
    expected = read_image(root / "apple" / "apple_003.png")
    stored = decoder(root, tmp_path / "cache").decode().images
    assert torch.equal(torch.from_numpy(np.array(stored[2])), Preprocess(3, 20).fit(expected))


def test_nothing_but_broken_files(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    for _ in range(2):
        found = decoder(tmp_path / "photos", tmp_path / "cache").decode()
        assert found.images.shape == (0, 3, 20, 20)
        assert list(found.broken) == [0]


@pytest.mark.parametrize("store", [True, False])
def test_another_size_where_all_must_be_alike(root, tmp_path, store):
    Image.new("RGB", (33, 20)).save(root / "pear" / "wide.png")
    with pytest.raises(UserError, match=r"wide\.png is 33x20 pixels but others are 32x24: set data\.image_size"):
        decoder(root, tmp_path / "cache", store=store, same_size=True, size=(24, 32)).decode()
    assert caches(tmp_path / "cache") == []


@pytest.mark.parametrize("damage", ["short", "gone", "json"])
def test_a_damaged_cache_is_built_again(root, tmp_path, damage):
    first = decoder(root, tmp_path / "cache")
    expected = np.array(first.decode().images)
    if damage == "short":
        os.truncate(first.folder / "images.bin", 100)
    elif damage == "gone":
        (first.folder / "images.bin").unlink()
    else:
        (first.folder / "source.json").write_text("{")
    assert np.array_equal(decoder(root, tmp_path / "cache").decode().images, expected)


def test_says_what_it_was_made_from(root, tmp_path):
    first = decoder(root, tmp_path / "cache")
    first.decode()
    made = json.loads((first.folder / "source.json").read_text())
    assert made["root"] == str(root.resolve())
    assert (made["files"], made["size"], made["channels"], made["resize"]) == (30, [20, 20], 3, "stretch")


def test_a_folder_that_cannot_be_written(root, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot keep decoded images in .*: set paths\.cache .* or data\.cache=false"):
        decoder(root, tmp_path / "file" / "cache").decode()
    assert decoder(root, tmp_path / "file" / "cache", store=False).decode().broken == {}


def build(root, cache, ready, results):
    ready.wait(300)
    results.put(int(np.array(decoder(root, cache).decode().images).sum()))


def test_processes_that_build_at_once_agree(root, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    other = context.Process(target=build, args=(root, tmp_path / "cache", ready, results))
    other.start()
    ready.wait(300)
    ours = int(np.array(decoder(root, tmp_path / "cache").decode().images).sum())
    assert results.get(timeout=300) == ours
    other.join()
    assert other.exitcode == 0
    assert len(caches(tmp_path / "cache")) == 1


def test_a_lock_that_was_deleted_is_none(root, tmp_path):
    """Who waits for it must not build beside the next one, which has a new file of that name."""
    fcntl = pytest.importorskip("fcntl")
    folder, order = decoder(root, tmp_path).folder, []
    lock = folder.with_name(f".{folder.name}.lock")

    def build():
        with _alone(folder):
            order.append("entered")

    with lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        waiting = threading.Thread(target=build)
        waiting.start()
        lock.unlink()
        with lock.open("w") as second:
            fcntl.flock(second, fcntl.LOCK_EX)
            fcntl.flock(first, fcntl.LOCK_UN)
            time.sleep(0.1)  # the more time there is to do it wrong
            order.append("released")
    waiting.join()
    assert order == ["released", "entered"]


def build_slowly(root, cache):
    slow = decoder(root, cache)
    read = slow._read
    slow._read = lambda entry: (time.sleep(600 if "plum" in entry.path else 0), read(entry))[1]
    slow.decode()


def test_a_killed_build_leaves_nothing_that_looks_whole(root, tmp_path):
    builder = multiprocessing.get_context("spawn").Process(target=build_slowly, args=(root, tmp_path / "cache"))
    builder.start()
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("cache/.*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert list(tmp_path.glob("cache/.*.part"))
    assert not decoder(root, tmp_path / "cache").folder.exists()
    assert len(decoder(root, tmp_path / "cache").decode().images) == 30
    assert caches(tmp_path / "cache") == [decoder(root, tmp_path / "cache").folder.name]
