"""Image files below a folder, and a fingerprint of their contents."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lightbed.data.bar import bar
from lightbed.data.images import in_threads, is_image
from lightbed.errors import UserError

_BLOCK = 256  # files hashed between two movements of the bar


class Entry(NamedTuple):
    """An image file: path relative to its data set's folder (with /), size in bytes, time of change in nanoseconds."""

    path: str
    size: int
    mtime: int


def find_images(root: Path) -> list[Entry]:
    """All image files below `root` in the order of their paths; hidden files and folders are left out.

    Raises:
        UserError: a folder cannot be read.
    """
    return find_files(root, is_image)


def find_files(root: Path, wanted: Callable[[str], bool]) -> list[Entry]:
    """All files below `root` with a wanted name, in the order of their paths; hidden ones are left out.

    Raises:
        UserError: a folder cannot be read.
    """
    try:
        return sorted(_walk(str(root), "", wanted))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error


def _walk(folder: str, prefix: str, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    with os.scandir(folder) as children:
        for child in children:
            if child.name.startswith("."):
                continue
            if child.is_dir():
                yield from _walk(child.path, f"{prefix}{child.name}/", wanted)
            elif wanted(child.name):
                yield _entry(child, prefix + child.name)


def _entry(child: "os.DirEntry[str]", path: str) -> Entry:
    try:
        state = child.stat()
    except OSError:  # a link to nowhere is a broken image like any other
        return Entry(path, 0, 0)
    return Entry(path, state.st_size, state.st_mtime_ns)


def fingerprint(files: list[Path], index_folder: Path) -> dict[str, Any]:
    """What a data set's files hold: `files`, `bytes`, and `sha256` over each relative path and content.

    Hashes of contents are remembered with size and time of change, so that only changed files are read again.

    Args:
        files: the data set's files.
        index_folder: where hashes are remembered; where that cannot be written, all are computed each time.
    """
    if not files:
        return {"files": 0, "bytes": 0, "sha256": None}  # embedded data
    root = os.path.commonpath([path.parent for path in files])
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    index_file = index_folder / "fingerprints" / f"{name}.json"
    known = _read_index(index_file)
    now: dict[str, list[Any]] = {}
    for path in files:
        try:
            state = path.stat()
        except OSError:
            continue  # a link to nowhere has no content
        now[Path(os.path.relpath(path, root)).as_posix()] = [state.st_size, state.st_mtime_ns]
    changed = [name for name, state in now.items() if known.get(name, [])[:2] != state]
    hashes = {name: entry[2] for name, entry in known.items()} | _hashes(Path(root), changed)
    entries = {name: [*state, hashes[name]] for name, state in now.items()}
    if changed:
        _write_index(index_file, known | entries)
    total = hashlib.sha256()
    for name in sorted(entries):
        total.update(os.fsencode(name) + b"\0" + entries[name][2].encode() + b"\n")
    return {"files": len(files), "bytes": sum(entry[0] for entry in entries.values()), "sha256": total.hexdigest()}


def _hashes(root: Path, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    with bar("hashing the data once", len(names)) as advance:
        for start in range(0, len(names), _BLOCK):
            block = names[start : start + _BLOCK]
            found |= zip(block, in_threads(lambda name: _sha256(root / name), block), strict=True)
            advance(len(block))
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_index(path: Path) -> dict[str, list[Any]]:
    try:
        content: dict[str, list[Any]] = json.loads(path.read_text())
        return content
    except (OSError, ValueError):
        return {}


def _write_index(path: Path, content: dict[str, list[Any]]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content))
        beside.replace(path)
    except OSError:  # hashes are then computed again: slower, never wrong
        with contextlib.suppress(OSError):
            beside.unlink()
