"""CIFAR-10 from the archive that its authors publish."""

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightbed.data.base import DataModule, Loading
from lightbed.data.download import File, fetch
from lightbed.data.source import ArraySource
from lightbed.errors import UserError

_ARCHIVE = File(
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"],
)
_FOLDER = "cifar-10-batches-py"
_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
_TEST = ["test_batch"]
_RECONSTRUCT = np.empty(0).__reduce__()[0]  # NumPy 1 and 2 keep it in different modules


class CIFAR10(DataModule):
    """60,000 pictures 32x32 RGB in 10 classes (Krizhevsky 2009): 50,000 to train, 10,000 to test.

    Args:
        root: folder of data sets; holds cifar-10-python.tar.gz or, unpacked, the folder cifar-10-batches-py.
        url: where the archive is downloaded from; None for its authors' page.
        common: the arguments of `DataModule`.
    """

    def __init__(self, root: str | Path, *, url: str | None = None, **common: Any) -> None:
        super().__init__(**{"image_size": [32, 32], **common})
        self.root = Path(root).expanduser()
        self.archive = _ARCHIVE._replace(urls=[url]) if url else _ARCHIVE

    def download(self) -> None:
        if not self.fingerprint_files():
            fetch(self.archive, self.root)

    def fingerprint_files(self) -> list[Path]:
        unpacked = [self.root / _FOLDER / name for name in ("batches.meta", *_TRAIN, *_TEST)]
        if all(path.is_file() for path in unpacked):
            return unpacked
        archive = self.root / self.archive.name
        return [archive] if archive.is_file() else []

    def load(self) -> Loading:
        files = self.fingerprint_files()
        if not files:
            raise UserError(
                f"{self.root} has no {self.archive.name}; it is downloaded, or set paths.data to where it is"
            )
        content = _read_archive(files[0]) if len(files) == 1 else {path.name: path.read_bytes() for path in files}
        try:
            names = [name.decode() for name in unpickle(content["batches.meta"])[b"label_names"]]
            splits = {split: self._split(content, parts) for split, parts in (("train", _TRAIN), ("test", _TEST))}
        except (KeyError, TypeError, ValueError, AttributeError, pickle.UnpicklingError, EOFError) as error:
            raise UserError(f"{files[0]} is not CIFAR-10 as published ({type(error).__name__}: {error})") from error
        return Loading(dict(splits), names)

    def _split(self, content: dict[str, bytes], parts: list[str]) -> ArraySource:
        batches = [unpickle(content[part]) for part in parts]
        pixels = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        images = self.preprocess.fit(torch.from_numpy(pixels))
        return ArraySource(images, {"label": torch.tensor([y for batch in batches for y in batch[b"labels"]])})


def _read_archive(path: Path) -> dict[str, bytes]:
    """The archive's files by name, unpacked in memory."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = [member for member in archive if member.isfile()]
            return {Path(member.name).name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise UserError(f"{path} is no whole archive ({error}); delete it to download it again") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain values; a pickle can otherwise name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _RECONSTRUCT
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")


def unpickle(content: bytes) -> Any:
    """Python 2's pickled dicts, lists, byte strings, numbers and arrays.

    Raises:
        pickle.UnpicklingError: it holds anything else.
    """
    return _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
