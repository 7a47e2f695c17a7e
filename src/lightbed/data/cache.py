"""Decoded images on disk: read, checked and resized once, then mapped into memory as one array.

A cache is a folder named after what it was made from: the files' paths, sizes, times of change and places on the disk
(see `files.Entry`), and every setting that a pixel depends on. Whatever changes, the name changes with it, so a stale
cache is never opened. It is built beside its place and renamed when whole, so a killed build leaves nothing that looks
whole either.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np
from torch import Tensor

from lightbed.data.bar import bar
from lightbed.data.files import Entry
from lightbed.data.images import check_image, in_threads, read_image
from lightbed.errors import UserError
from lightbed.runs.log import say
from lightbed.transforms.preprocess import Preprocess

_FORMAT = 1
_OWN_SIZE = 1 << 20  # pixels that an image is thought to have where each has its own size
_BLOCK_BYTES = 1 << 26  # decoded at a time: few waits for the slowest of a block, little memory


class Decoded(NamedTuple):
    """What a pass over all files found."""

    images: Any  # uint8 (N, C, H, W) mapped from disk, of the whole files only; None where only checked
    broken: dict[int, str]  # position in the list of files -> why that file cannot be read


class Decoder:
    """Reads every file of a data set once, and remembers the result on disk.

    Args:
        root: folder of the data set.
        files: its images.
        preprocess: says channels, size (which must be given) and way of resizing.
        cache_dir: where results are kept.
        store: keep the decoded images; else only which files are broken.
        same_size: all images must have that size already; one that has not is an error, not resized.
    """

    kind = "images"
    own_sizes = False
    """Whether images may keep their own sizes; they are then no array."""

    def __init__(
        self, root: Path, files: list[Entry], preprocess: Preprocess, cache_dir: Path, *, store: bool, same_size: bool
    ) -> None:
        if preprocess.size is None and not self.own_sizes:
            raise ValueError("decoded images are kept in one array, so their size must be given")
        self.root, self.files, self.preprocess = root, files, preprocess
        self.size, self.store, self.same_size = preprocess.size or (0, 0), store, same_size
        self.made_from: dict[str, Any] = {
            "format": _FORMAT,
            "root": os.path.realpath(root),
            "channels": preprocess.channels,
            "size": self.size,
            "resize": "none" if same_size else preprocess.resize,
            "kept": "images" if store else "checks",
        }
        self.made_from |= self.further()
        digest = hashlib.sha256(json.dumps([self.made_from, files]).encode()).hexdigest()
        self.folder = cache_dir / f"{root.name}-{digest[:24]}"

    def further(self) -> dict[str, Any]:
        """What else the decoded files depend on, where a subclass reads them in its own way."""
        return {}

    def found(self) -> dict[str, Any]:
        """What else a subclass has found in the files and keeps beside them, as JSON."""
        return {}

    def recall(self, made: dict[str, Any]) -> None:
        """Take back what `found` kept."""

    def note(self, entry: Entry, size: tuple[int, int]) -> None:
        """Told each file's own (height, width), from several threads."""

    def decode(self) -> Decoded:
        """The cache's content; it is built if it is not there.

        Raises:
            UserError: the cache cannot be written, or an image's size differs where it must not.
        """
        if (found := self._open()) is not None:
            return found
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self.folder):
                return self._open() or self._build()  # another process may have built it meanwhile
        except OSError as error:
            if not self.store:  # then the check is repeated next time
                return Decoded(None, self._read_all(io.BytesIO()))
            raise UserError(
                f"cannot keep decoded images in {self.folder.parent} ({error.strerror or error}): set paths.cache to a "
                "folder with room, or data.cache=false"
            ) from error

    def _open(self) -> Decoded | None:
        try:
            made = json.loads((self.folder / "source.json").read_text())
            broken = {int(i): why for i, why in made["broken"].items()}
            self.recall(made)
            return Decoded(self._map(broken) if self.store else None, broken)
        except (OSError, ValueError, KeyError, AttributeError):  # not there, or damaged by somebody else's hand
            return None

    def _map(self, broken: dict[int, str]) -> Any:
        """The images of the whole files, mapped from disk."""
        shape = (len(self.files) - len(broken), self.preprocess.channels, *self.size)
        if not shape[0]:
            return np.empty(shape, np.uint8)
        return np.memmap(self.folder / "images.bin", np.uint8, "r", shape=shape)

    def _build(self) -> Decoded:
        say(f"{'decoding' if self.store else 'checking'} {len(self.files):,} {self.kind} of {self.root}, this once")
        for left in self.folder.parent.glob(f".{self.folder.name}.*.part"):  # of a build that was killed
            shutil.rmtree(left, ignore_errors=True)
        part = Path(tempfile.mkdtemp(".part", f".{self.folder.name}.", self.folder.parent))
        try:
            with (part / "images.bin").open("wb") if self.store else io.BytesIO() as out:
                broken = self._read_all(out)
            made = {**self.made_from, "files": len(self.files), "broken": broken, **self.found()}
            (part / "source.json").write_text(json.dumps(made, indent=1))
            part.chmod(0o755)  # temporary folders are closed to others
            shutil.rmtree(self.folder, ignore_errors=True)  # only a damaged one can be here
            part.rename(self.folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        built = self._open()
        if built is None:
            raise OSError(f"{self.folder} cannot be read back")
        return built

    def _read_all(self, out: BinaryIO) -> dict[int, str]:
        """Read all files, write the whole ones to `out`, and return what is wrong with the others."""
        broken: dict[int, str] = {}
        pixels = self.size[0] * self.size[1] or _OWN_SIZE
        block = max(1, _BLOCK_BYTES // (self.preprocess.channels * pixels))
        with bar("reading images", len(self.files)) as advance:
            for start in range(0, len(self.files), block):
                entries = self.files[start : start + block]
                for index, result in enumerate(in_threads(self._read, entries), start):
                    if isinstance(result, UserError):
                        broken[index] = str(result)
                    elif result is not None:
                        out.write(result.numpy().data)
                advance(len(entries))
        return broken

    def _read(self, entry: Entry) -> Tensor | UserError | None:
        path = self.root / entry.path
        try:
            image = read_image(path, self.preprocess.channels) if self.store else None
            size = check_image(path) if image is None else tuple(image.shape[-2:])
        except UserError as error:
            return error
        self.note(entry, (size[0], size[1]))
        if self.same_size and size != self.size:
            raise UserError(
                f"{path} is {size[1]}x{size[0]} pixels but others are {self.size[1]}x{self.size[0]}: "
                "set data.image_size=[HEIGHT,WIDTH]"
            )
        return None if image is None else self.preprocess.fit(image)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time builds `folder`; the others wait. Where files cannot be locked, all build: the same."""
    lock = folder.with_name(f".{folder.name}.lock")
    while True:
        with lock.open("w") as file:
            try:
                import fcntl  # not on Windows

                fcntl.flock(file, fcntl.LOCK_EX)  # freed by the system, too, when a process is killed
            except (ImportError, OSError):
                pass
            if not _is_at(file, lock):  # who had it has deleted it, and others may hold a new one
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
