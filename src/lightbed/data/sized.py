"""Decoded images whose own sizes matter: boxes are told in them, and detectors take images as large as they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightbed.data.cache import Decoder
from lightbed.data.files import Entry
from lightbed.data.images import guarded, upright_size
from lightbed.errors import UserError
from lightbed.transforms.preprocess import Preprocess

_LOOKED_AT = 64  # files whose size is read to guess how much room all of them would take


class SizedDecoder(Decoder):
    """A `Decoder` that knows each file's own size; where `preprocess` names none, images keep theirs.

    Args:
        root: folder of the data set.
        files: its images.
        preprocess: says channels, size and way of resizing.
        cache_dir: where results are kept.
        store: keep the decoded images; else only which files are broken, and the sizes.
    """

    own_sizes = True

    def __init__(self, root: Path, files: list[Entry], preprocess: Preprocess, cache_dir: Path, *, store: bool) -> None:
        super().__init__(root, files, preprocess, cache_dir, store=store, same_size=False)
        self.sizes: dict[str, tuple[int, int]] = {}
        """(height, width) of each file that can be read, by path; known once decoded."""

    def further(self) -> dict[str, Any]:
        return {"sizes": "kept"}

    def note(self, entry: Entry, size: tuple[int, int]) -> None:
        self.sizes[entry.path] = size

    def found(self) -> dict[str, Any]:
        return {"sizes": self.sizes}

    def recall(self, made: dict[str, Any]) -> None:
        self.sizes = {path: (height, width) for path, (height, width) in made["sizes"].items()}

    def _map(self, broken: dict[int, str]) -> Any:
        if self.preprocess.size is not None:
            return super()._map(broken)
        whole = [self.sizes[file.path] for index, file in enumerate(self.files) if index not in broken]
        return Ragged(self.folder / "images.bin", self.preprocess.channels, whole)


class Ragged(Sequence[np.ndarray]):
    """Images of different sizes, one behind the other in a file that is mapped into memory.

    Args:
        file: the pixels, uint8.
        channels: C.
        sizes: (height, width) of each image.

    Raises:
        ValueError: the file is not as long as that.
    """

    def __init__(self, file: Path, channels: int, sizes: list[tuple[int, int]]) -> None:
        self.shapes = [(channels, *size) for size in sizes]
        self.starts = np.cumsum([0, *(np.prod(shape, dtype=np.int64) for shape in self.shapes)])
        total = int(self.starts[-1])
        self.pixels = np.memmap(file, np.uint8, "r", shape=(total,)) if total else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: Any) -> Any:
        return self.pixels[self.starts[index] : self.starts[index + 1]].reshape(self.shapes[index])


def bytes_of(root: Path, files: list[Entry], preprocess: Preprocess) -> float:
    """About how many bytes the decoded images take: exactly for a size that is given, else from a sample of them."""
    if preprocess.size is not None:
        return float(len(files) * preprocess.channels * preprocess.size[0] * preprocess.size[1])
    pixels = []
    for file in files[:: -(-len(files) // _LOOKED_AT)]:
        try:
            height, width = guarded(root / file.path, upright_size)
        except UserError:
            continue  # told later, with all others
        pixels.append(height * width)
    return len(files) * preprocess.channels * float(np.mean(pixels or [0]))
