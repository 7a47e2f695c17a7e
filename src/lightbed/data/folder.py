"""Images in class folders, or listed in a table with their labels."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightbed.data.base import DataModule, Loading
from lightbed.data.cache import Decoder
from lightbed.data.files import Entry
from lightbed.data.images import MODES, read_image
from lightbed.data.labelled import Labelled, by_folders, by_table
from lightbed.data.source import ArraySource, FileSource, Source, Subset
from lightbed.errors import UserError, one_of
from lightbed.runs.log import say
from lightbed.transforms.preprocess import Preprocess

_log = logging.getLogger("lightbed")


class ImageFolder(DataModule):
    """Any folder of class folders: `root/CLASS/...` or `root/{train,val,test}/CLASS/...`; or images listed in a table.

    All files are read once before the training starts, so that broken ones show then: decoded and resized images are
    kept as one array that is mapped into memory. A set larger than `cache_limit_gb` is only checked, and read from its
    files in every epoch, by `num_workers` processes. Nothing is written into `root`.

    Args:
        root: the folder.
        labels: CSV file, also one below `root`, with the columns `path`, `labels` and, optionally, `split`, see
            `by_table`; None: class folders.
        multilabel: images of the table have any number of labels; the target `label` is then float32 (K,) of 0 and
            1, for tasks of kind multilabel.
        broken: 'error' or 'skip', for files that cannot be read.
        cache: keep decoded images; false reads from the files each time.
        cache_limit_gb: up to how many gigabytes (10^9 bytes) of decoded images.
        common: the arguments of `DataModule`.

    Raises:
        UserError: the folder, the table or an image is not as it must be.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | Path | None = None,
        multilabel: bool = False,
        broken: str = "error",
        cache: bool = True,
        cache_limit_gb: float = 16.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.root = Path(root).expanduser().absolute()
        self.labels = _table(self.root, labels) if labels else None
        self.multilabel = multilabel
        self.broken = one_of(broken, ("error", "skip"), "data.broken")
        self.cache, self.cache_limit_gb = cache, cache_limit_gb
        self.files: list[Entry] = []
        if self.preprocess.channels not in MODES:
            raise UserError(f"data.channels={self.preprocess.channels}: files are read as 1, grey, or as 3, RGB")
        if multilabel and not labels:
            raise UserError("data.multilabel=true takes the labels from a table: give data.labels=FILE.csv")

    def find(self) -> Labelled:
        """The images with their splits and labels."""
        return by_table(self.root, self.labels, several=self.multilabel) if self.labels else by_folders(self.root)

    def fingerprint_files(self) -> list[Path]:
        return [self.root / file.path for file in self.files] + ([self.labels] if self.labels else [])

    def load(self) -> Loading:
        found = self.find()
        for note in found.notes:
            say(note)
        self.files = found.files
        source, kept, skipped = self._open(found.files, _targets(found, several=self.multilabel))
        splits: dict[str, Source] = {}
        for name in dict.fromkeys(found.splits):
            chosen = [place for place, index in enumerate(kept) if found.splits[index] == name]
            splits[name] = Subset(source, torch.tensor(chosen, dtype=torch.int64))
        return Loading(splits, found.classes, skipped)

    def _open(self, files: list[Entry], target: Tensor) -> tuple[Source, list[int], list[str]]:
        """All images as one source, the positions of those that are in it, and what was wrong with the others."""
        own_size = self._fix_size(files)
        store = self.cache and self._fits(len(files))
        decoder = Decoder(self.root, files, self.preprocess, self.cache_dir, store=store, same_size=own_size)
        images, broken = decoder.decode()
        self._tell(list(broken.values()))
        kept = [index for index in range(len(files)) if index not in broken]
        paths = [str(self.root / files[index].path) for index in kept]
        label = {"label": target[kept]}
        source = FileSource(paths, label, self.preprocess) if images is None else ArraySource(images, label, paths)
        return source, kept, list(broken.values())

    def _fix_size(self, files: list[Entry]) -> bool:
        """Where no size was asked for, take that of the first image; returns whether it was so."""
        own_size = self.preprocess.size is None
        if own_size:
            self.preprocess = Preprocess(**{**self.preprocess.describe(), "size": self._first_size(files)})
        return own_size

    def _first_size(self, files: list[Entry]) -> tuple[int, int]:
        for file in files:
            try:
                height, width = read_image(self.root / file.path, self.preprocess.channels).shape[-2:]
            except UserError:
                continue  # told later, with all others
            return height, width
        raise UserError(f"none of the {len(files)} images of {self.root} can be read")

    def _fits(self, count: int) -> bool:
        height, width = self.preprocess.size or (0, 0)
        return self._small_enough(count, count * self.preprocess.channels * height * width / 1e9)

    def _small_enough(self, count: int, gigabytes: float) -> bool:
        """Whether decoded images of that size are kept; says what follows where they are not."""
        if gigabytes > self.cache_limit_gb:
            say(
                f"{count:,} decoded images would take {gigabytes:.3g} GB, more than "
                f"data.cache_limit_gb={self.cache_limit_gb}: each epoch reads them from their files, with "
                f"data.num_workers={self.num_workers}"
            )
        return gigabytes <= self.cache_limit_gb

    def _tell(self, broken: list[str], what: str = "images cannot be read") -> None:
        if broken and self.broken == "error":
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            raise UserError(f"{broken[0]}{more}; mend or delete it, or leave such files out by data.broken=skip")
        for line in broken:
            _log.warning("left out: %s", line)
        if broken:
            say(f"{len(broken)} {what} and are left out; log.txt names them")


def _table(root: Path, labels: str | Path) -> Path:
    given = Path(labels).expanduser()
    return root / given if not given.is_file() and (root / given).is_file() else given


def _targets(found: Labelled, *, several: bool) -> Tensor:
    """Labels as numbers: int64 (N,), or float32 (N, K) of 0 and 1 where there can be several."""
    number = {name: index for index, name in enumerate(found.classes)}
    if not several:
        return torch.tensor([number[names[0]] for names in found.labels], dtype=torch.int64)
    target = torch.zeros(len(found.files), len(number))
    for row, names in enumerate(found.labels):
        target[row, [number[name] for name in names]] = 1
    return target
