"""Image files below a folder, and a fingerprint of their contents."""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightbed.data.bar import bar
from lightbed.data.images import in_threads, is_image
from lightbed.errors import UserError

SPLITS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Split by the words that people use for it in the names of files and folders."""

_BLOCK = 256  # files hashed between two movements of the bar
_STORED = 5  # what is remembered of a file: an entry without its path, and the hash
_SETTLING = 100_000_000  # ns after a change in which another one may leave the same times: file systems count in ticks


class Entry(NamedTuple):
    """An image file: what shows whether it is still the same one without reading it."""

    path: str  # relative to its data set's folder (with /)
    size: int  # bytes
    mtime: int  # time of the last change of its content in ns, which copying programs set as they like
    ctime: int = 0  # time of the last change of any kind, which no program can set
    inode: int = 0  # folders whose files were all made in one tick of the clock may exchange their names

    @classmethod
    def of(cls, path: str, state: os.stat_result) -> "Entry":
        """The file at `path` as the system describes it."""
        return cls(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


def find_images(root: Path) -> list[Entry]:
    """All image files below `root` in the order of their paths; hidden files and folders are left out.

    Raises:
        UserError: a folder cannot be read.
    """
    return find_files(root, is_image)


def find_files(root: Path, wanted: Callable[[str], bool]) -> list[Entry]:
    """All files below `root` with a wanted name, in the order of their paths; hidden ones are left out.

    Links to folders are followed, but for those that lead back to a folder they lie in.

    Raises:
        UserError: a folder cannot be read.
    """
    try:
        return sorted(_walk(str(root), "", wanted, ()))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error


def _walk(
    folder: str, prefix: str, wanted: Callable[[str], bool], above: tuple[tuple[int, int], ...]
) -> Iterator[Entry]:
    state = os.stat(folder)  # noqa: PTH116 - paths are slow by the 10,000
    place = (state.st_dev, state.st_ino)
    if place in above:
        return
    with os.scandir(folder) as children:
        for child in children:
            if child.name.startswith("."):
                continue
            if child.is_dir():
                yield from _walk(child.path, f"{prefix}{child.name}/", wanted, (*above, place))
            elif wanted(child.name):
                yield _entry(child, prefix + child.name)


def _entry(child: "os.DirEntry[str]", path: str) -> Entry:
    try:
        state = child.stat()
    except OSError:  # a link to nowhere is a broken image like any other
        return Entry(path, 0, 0)
    return Entry.of(path, state)


def split_of(path: str) -> str | None:
    """The split that a path names, the last word that is one; None where it names none."""
    words = [word for word in re.findall("[a-z]+", path.lower()) if word in SPLITS]
    return SPLITS[words[-1]] if words else None


class Contents(NamedTuple):
    """What a data set's files hold."""

    root: str  # the innermost folder that holds them all
    bytes: int
    hashes: dict[str, str]  # sha256 of each file by its path relative to the root (with /)
    missing: int  # files that the data set names but that are not there

    def summary(self) -> dict[str, Any]:
        """For a run's record: `root`, `files`, `bytes`, and `sha256` over each relative path and content."""
        if not self.hashes and not self.missing:
            return {"root": None, "files": 0, "bytes": 0, "sha256": None}  # embedded data
        total = hashlib.sha256()
        for name in sorted(self.hashes):
            total.update(os.fsencode(name) + b"\0" + self.hashes[name].encode() + b"\n")
        files = len(self.hashes) + self.missing
        return {"root": self.root, "files": files, "bytes": self.bytes, "sha256": total.hexdigest()}


def contents(files: Sequence[Path], index_folder: Path) -> Contents:
    """Hash a data set's files.

    Hashes are remembered with what an `Entry` says of a file, so that only changed files are read again. A file that
    changed a moment ago is not remembered: it could change again without its times showing it.

    Args:
        files: the data set's files.
        index_folder: where hashes are remembered; where that cannot be written, all are computed each time.
    """
    names = [str(path) for path in files]
    if not names:
        return Contents("", 0, {}, 0)
    root = os.path.commonpath({os.path.dirname(name) for name in names})  # noqa: PTH120 - paths are slow by the 10,000
    cut = len(os.path.join(root, "")) if root else 0  # noqa: PTH118
    place = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    index_file = index_folder / "fingerprints" / f"{place}.json"
    known = _read_index(index_file)
    now: dict[str, list[int]] = {}
    for name in names:
        try:
            state = os.stat(name)  # noqa: PTH116
        except OSError:
            continue  # a link to nowhere has no content
        # as in an `Entry`
        now[name[cut:].replace(os.sep, "/")] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    changed = dict.fromkeys(name for name, state in now.items() if known.get(name, [])[:-1] != state)
    begun = time.time_ns()
    hashes = _hashes(Path(root), list(changed))
    if changed:
        settled = {name: [*now[name], digest] for name, digest in hashes.items() if now[name][2] < begun - _SETTLING}
        _write_index(index_file, {name: entry for name, entry in known.items() if name not in changed} | settled)
    found = {name: known[name][-1] for name in now if name not in changed} | hashes
    return Contents(root, sum(now[name][0] for name in found), found, len(names) - len(found))


def write_listing(hashes: Mapping[str, str], path: Path) -> None:
    """Write hashes as `sha256sum` does, so that `sha256sum -c` in the data's folder checks them."""
    lines = []
    for name in sorted(hashes):
        safe = name.replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"{chr(92) * (safe != name)}{hashes[name]}  {safe}\n")
    path.write_bytes(os.fsencode("".join(lines)))


def read_listing(path: Path) -> dict[str, str]:
    """The hashes in a file of `write_listing`, by path.

    Raises:
        UserError: the file is damaged.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(os.fsdecode(path.read_bytes()).removesuffix("\n").split("\n"), 1):
        digest, gap, name = line.removeprefix("\\").partition("  ")
        if len(digest) != 64 or not gap:
            raise UserError(f"{path} line {number} is no `sha256  path`")
        if line.startswith("\\"):
            name = re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], name)
        found[name] = digest
    return found


def _hashes(root: Path, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    with bar("hashing the data once", len(names)) as advance:
        for start in range(0, len(names), _BLOCK):
            block = names[start : start + _BLOCK]
            hashes = in_threads(lambda name: _sha256(root / name), block)
            found |= {name: digest for name, digest in zip(block, hashes, strict=True) if digest is not None}
            advance(len(block))
    return found


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # gone since it was found, or closed to us: the reader tells
        return None


def _read_index(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: entry for name, entry in content.items() if isinstance(entry, list) and len(entry) == _STORED}


def _write_index(path: Path, content: dict[str, list[Any]]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content))
        beside.replace(path)
    except OSError:  # hashes are then computed again: slower, never wrong
        with contextlib.suppress(OSError):
            beside.unlink()
