"""Finding images, and fingerprints of what files hold."""

import os
import time

import pytest

import fakes
from lightbed.data.files import find_images, fingerprint
from lightbed.errors import UserError


@pytest.fixture
def root(tmp_path):
    return fakes.image_folder(tmp_path / "photos", count=3)


def files(root):
    return sorted(root.rglob("*.png"))


def test_images_are_found_in_the_order_of_their_paths(root):
    found = find_images(root)
    assert [entry.path for entry in found] == [path.relative_to(root).as_posix() for path in files(root)]
    assert all(entry.size == (root / entry.path).stat().st_size for entry in found)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_a_closed_folder_is_named(root):
    (root / "pear").chmod(0)
    with pytest.raises(UserError, match="pear cannot be read: Permission denied"):
        find_images(root)
    (root / "pear").chmod(0o755)


def test_depends_on_contents_and_names_not_on_place_or_time(root, tmp_path):
    first = fingerprint(files(root), tmp_path / "cache")
    assert first["files"] == 9
    assert first["bytes"] == sum(path.stat().st_size for path in files(root))
    moved = fakes.image_folder(tmp_path / "elsewhere" / "other", count=3)
    assert fingerprint(files(moved), tmp_path / "cache") == first
    (root / "pear" / "pear_001.png").rename(root / "pear" / "pear_009.png")
    renamed = fingerprint(files(root), tmp_path / "cache")
    assert renamed["sha256"] != first["sha256"]
    (root / "pear" / "pear_009.png").rename(root / "pear" / "pear_001.png")
    assert fingerprint(files(root), tmp_path / "cache") == first


def test_sees_a_change_that_keeps_the_size(root, tmp_path):
    first = fingerprint(files(root), tmp_path / "cache")
    path = root / "plum" / "plum_000.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    second = fingerprint(files(root), tmp_path / "cache")
    assert second["bytes"] == first["bytes"]
    assert second["sha256"] != first["sha256"]


@pytest.mark.parametrize("place", ["cache", "file/cache"])
def test_the_index_changes_nothing(root, tmp_path, place):
    """Neither its absence, nor damage to it, nor that it cannot be written."""
    (tmp_path / "file").touch()
    first = fingerprint(files(root), tmp_path / place)
    for index in tmp_path.glob("cache/fingerprints/*"):
        index.write_text("{")
    assert fingerprint(files(root), tmp_path / place) == first


def test_second_use_reads_no_contents(root, tmp_path):
    first = fingerprint(files(root), tmp_path / "cache")
    path = root / "plum" / "plum_000.png"
    state = path.stat()
    path.write_bytes(b"\0" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # looks unchanged
    assert fingerprint(files(root), tmp_path / "cache") == first
    assert fingerprint(files(root), tmp_path / "new")["sha256"] != first["sha256"]


def test_many_files_are_quick_on_second_use(tmp_path):
    (tmp_path / "many").mkdir()
    paths = [tmp_path / "many" / f"{i}.png" for i in range(5000)]
    for path in paths:
        path.touch()
    fingerprint(paths, tmp_path / "cache")
    start = time.process_time()
    fingerprint(paths, tmp_path / "cache")
    assert time.process_time() - start < 0.5  # a second for 10,000
