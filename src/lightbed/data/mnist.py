"""MNIST and Fashion-MNIST: the same four files, other pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets

from lightbed.data.base import DataModule, Loading
from lightbed.data.download import File, fetch
from lightbed.data.idx import read_idx
from lightbed.data.source import ArraySource
from lightbed.errors import UserError, nearest

_SPLITS = {"train": "train", "test": "t10k"}


class MNIST(DataModule):
    """70,000 handwritten digits 28x28 grey (LeCun, Cortes, Burges 1998): 60,000 to train, 10,000 to test.

    Args:
        root: folder of data sets; the files lie in `root/MNIST/raw`, gzipped as published or unpacked.
        url: where they are downloaded from; None for torchvision's mirrors.
        classes: names of the classes to learn, in this order; None for all. Images of others are left out.
        common: the arguments of `DataModule`.
    """

    source: Any = datasets.MNIST  # knows file names, checksums, mirrors and class names

    def __init__(
        self, root: str | Path, *, url: str | None = None, classes: Sequence[str] | None = None, **common: Any
    ) -> None:
        super().__init__(**{"channels": 1, "image_size": [28, 28], **common})
        self.folder = Path(root).expanduser() / self.source.__name__ / "raw"
        self.urls = [url] if url else list(self.source.mirrors)
        self.names = [name.split(" - ")[-1] for name in self.source.classes]
        self.wanted = self.names if classes is None else [str(name) for name in classes]
        for name in self.wanted:
            if name not in self.names or self.wanted.count(name) > 1:
                raise UserError(f"data.classes={self.wanted}: {name} is none or twice: {nearest(name, self.names)}")

    def download(self) -> None:
        for name, md5 in self.source.resources:
            if not self._find(name):
                fetch(File(name, md5, [f"{url.rstrip('/')}/{name}" for url in self.urls]), self.folder)

    def _find(self, name: str) -> Path | None:
        candidates = (self.folder / name, self.folder / name.removesuffix(".gz"))
        return next((path for path in candidates if path.is_file()), None)

    def fingerprint_files(self) -> list[Path]:
        return [path for name, _ in self.source.resources if (path := self._find(name))]

    def load(self) -> Loading:
        splits = {split: self._read(prefix) for split, prefix in _SPLITS.items()}
        return Loading(dict(splits), self.wanted)

    def _read(self, prefix: str) -> ArraySource:
        paths = []
        for name in (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"):
            path = self._find(name)
            if path is None:
                raise UserError(f"{self.folder / name} is missing: set paths.data to where it is")
            paths.append(path)
        images, labels = (read_idx(path) for path in paths)
        if len(images) != len(labels):
            raise UserError(f"{paths[0]} has {len(images)} images, {paths[1]} {len(labels)} labels: delete them")
        if self.wanted != self.names:
            numbers = torch.full((len(self.names),), -1)
            numbers[[self.names.index(name) for name in self.wanted]] = torch.arange(len(self.wanted))
            chosen = numbers[labels.long()] >= 0
            images, labels = images[chosen], numbers[labels.long()][chosen]
        return ArraySource(self.preprocess.fit(images[:, None]), {"label": labels.long()})


class FashionMNIST(MNIST):
    """70,000 pictures of clothes 28x28 grey in 10 classes (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747)."""

    source = datasets.FashionMNIST
