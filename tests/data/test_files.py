"""Finding images, and fingerprints of what files hold."""

import json
import os
import subprocess
import time

import pytest

import fakes
from lightbed.data.files import contents, find_images, read_listing, write_listing
from lightbed.errors import UserError


@pytest.fixture
def root(tmp_path):
    return fakes.image_folder(tmp_path / "photos", count=3)


def files(root):
    return sorted(root.rglob("*.png"))


def fingerprint(paths, index_folder):
    found = contents(paths, index_folder).summary()
    return {name: found[name] for name in ("files", "bytes", "sha256")}


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
    time.sleep(0.15)  # files that changed a moment ago are not remembered
    first = fingerprint(files(root), tmp_path / place)
    for index in tmp_path.glob("cache/fingerprints/*"):
        entries = json.loads(index.read_text())
        for damage in ("{", "[]", json.dumps(dict.fromkeys(entries, 5)), json.dumps({key: [1] for key in entries})):
            index.write_text(damage)
            assert fingerprint(files(root), tmp_path / place) == first
    assert fingerprint(files(root), tmp_path / place) == first


def index(tmp_path):
    return next(tmp_path.glob("cache/fingerprints/*.json"))


def test_second_use_reads_no_contents(root, tmp_path):
    time.sleep(0.15)  # files that changed a moment ago are not trusted
    fingerprint(files(root), tmp_path / "cache")
    lies = {name: [*entry[:-1], "0" * 64] for name, entry in json.loads(index(tmp_path).read_text()).items()}
    assert len(lies) == 9
    index(tmp_path).write_text(json.dumps(lies))
    assert set(contents(files(root), tmp_path / "cache").hashes.values()) == {"0" * 64}
    assert "0" * 64 not in contents(files(root), tmp_path / "new").hashes.values()


def test_a_change_that_keeps_size_and_time_is_seen(root, tmp_path):
    """As tar, rsync and cp -p make them."""
    time.sleep(0.15)
    first = fingerprint(files(root), tmp_path / "cache")
    path = root / "plum" / "plum_000.png"
    state = path.stat()
    path.write_bytes(b"\0" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint(files(root), tmp_path / "cache")["sha256"] != first["sha256"]


def test_folders_that_exchange_their_names_are_seen(tmp_path):
    """Their files may all have been made in one tick of the clock, and so have the same times."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(name.encode())
        os.utime(tmp_path / name / "a.png", ns=(1, 1))
    paths = [tmp_path / name / "a.png" for name in ("one", "two")]
    time.sleep(0.15)
    first = fingerprint(paths, tmp_path / "cache")
    for old, new in (("one", "x"), ("two", "one"), ("x", "two")):
        (tmp_path / old).rename(tmp_path / new)
    entries = json.loads(index(tmp_path).read_text())
    for path, other in (("one/a.png", "two/a.png"), ("two/a.png", "one/a.png")):
        entries[path][2] = (tmp_path / path).stat().st_ctime_ns  # as in one tick
        assert entries[path][3] == (tmp_path / other).stat().st_ino
    index(tmp_path).write_text(json.dumps(entries))
    assert fingerprint(paths, tmp_path / "cache")["sha256"] != first["sha256"]


def test_two_changes_at_once_are_both_seen(root, tmp_path):
    path = root / "plum" / "plum_000.png"
    seen = set()
    for number in range(20):
        path.write_bytes(bytes([number]) * 100)
        seen.add(fingerprint(files(root), tmp_path / "cache")["sha256"])
    assert len(seen) == 20


def test_a_file_that_is_gone_or_closed_is_counted_and_has_no_hash(root, tmp_path):
    there = files(root)
    there[0].unlink()
    found = contents(there, tmp_path / "cache")
    assert (len(found.hashes), found.missing) == (8, 1)
    assert found.summary()["files"] == 9


def test_the_listing_is_that_of_sha256sum(tmp_path):
    names = ["a.png", "sub/b c.png", "back\\slash.png", "line\nbreak.png", "stra\u00dfe.png", os.fsdecode(b"\xff.png")]
    for number, name in enumerate(names):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(bytes([number]))
    found = contents([tmp_path / "data" / name for name in names], tmp_path / "cache")
    assert sorted(found.hashes) == sorted(names)
    write_listing(found.hashes, tmp_path / "data.sha256")
    assert read_listing(tmp_path / "data.sha256") == found.hashes
    check = ["sha256sum", "-c", "--strict", "--quiet", "../data.sha256"]
    subprocess.run(check, cwd=tmp_path / "data", check=True, capture_output=True)
    (tmp_path / "data.sha256").write_text("no listing\n")
    with pytest.raises(UserError, match="line 1"):
        read_listing(tmp_path / "data.sha256")


def test_many_files_are_quick_on_second_use(tmp_path):
    (tmp_path / "many").mkdir()
    paths = [tmp_path / "many" / f"{i}.png" for i in range(5000)]
    for path in paths:
        path.touch()
    time.sleep(0.15)
    fingerprint(paths, tmp_path / "cache")
    taken = []
    for _ in range(3):  # the collector of garbage may fall into one, and has the objects of all tests to look at
        start = time.thread_time()
        fingerprint(paths, tmp_path / "cache")
        taken.append(time.thread_time() - start)
    assert min(taken) < 0.25  # half a second for 10,000
