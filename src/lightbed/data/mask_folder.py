"""A folder of images and a folder of masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightbed.data.base import Loading
from lightbed.data.cache import Decoder
from lightbed.data.coding import VOID, Coding, recognise
from lightbed.data.folder import ImageFolder
from lightbed.data.lists import of_lists
from lightbed.data.pairs import MaskDecoder, PairArrays, PairFiles, Pairs, find_pairs, mask_weights
from lightbed.data.source import Source, Subset
from lightbed.data.voc import list_files
from lightbed.errors import UserError, one_of
from lightbed.runs.log import say


class MaskFolder(ImageFolder):
    """Images with a mask file each, `root/images/NAME.jpg` and `root/masks/NAME.png`, for semantic segmentation.

    All files are read, checked and resized once, as in `ImageFolder`; masks are kept as uint8.

    Args:
        root: the folder.
        images: folder of images below it; `{split}` in it stands for train, val and test. Without it, validation
            and test splits are cut.
        masks: folder of masks, likewise.
        mask_name: name of an image's mask, with or without ending; `{stem}` stands for the image's. Images and masks
            that it tells apart may lie in one folder.
        lists: folder below `root` of train.txt, val.txt and test.txt, which name the images of the splits, see
            `of_lists`; None: splits are told by `{split}`, or cut.
        coding: how a mask says its classes: 'auto' (see `recognise`), or one of `Coding`.
        classes: names; None for numbers (or background and foreground), as many as the masks hold. A single name for
            masks of two classes is that of the foreground.
        colours: RGB of each class by name, in the order of the classes, for masks in colours and for pictures.
        void: value, values or RGB that are left out of loss and metrics.
        common: the arguments of `ImageFolder` but for its labels. `broken` also says what to do with images and
            masks that do not match.

    Raises:
        UserError: files are missing, cannot be read, or don't fit together.
    """

    holds = ("mask",)

    def __init__(
        self,
        root: str | Path,
        *,
        images: str = "images",
        masks: str = "masks",
        mask_name: str = "{stem}",
        lists: str | None = None,
        coding: str = "auto",
        classes: Sequence[str] | None = None,
        colours: Mapping[str, Sequence[int]] | None = None,
        void: int | Sequence[int] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        self.images, self.masks, self.mask_name = images, masks, mask_name
        self.coding = one_of(coding, ("auto", "index", "colour", "grey", "nonzero"), "data.coding")
        self.names = [str(name) for name in (classes or colours or [])]
        self.colours, self.void = _table(colours or {}), void
        self.pairs = Pairs()
        self.largest_image: tuple[int, int] | None = None
        self.lists = self.root / lists if lists else None
        if lists and "{split}" in images:
            raise UserError(f"data.lists={lists} and {{split}} in data.images={images} both tell splits: give one")
        if classes and colours:
            raise UserError("data.classes and data.colours both name the classes: give one of them")

    def fingerprint_files(self) -> list[Path]:
        lists = list(list_files(self.lists)) if self.lists else []
        return [*(self.root / file.path for file in (*self.pairs.images, *self.pairs.masks)), *lists]

    def load(self) -> Loading:
        if not self.root.is_dir():
            raise UserError(self.absent())
        pairs = find_pairs(self.root, self.images, self.masks, self.mask_name)
        if self.lists:
            pairs, notes = of_lists(pairs, self.lists)
            for note in notes:
                say(note)
        self.pairs = pairs
        self._tell(pairs.unmatched)
        kind = self.coding
        if kind == "auto":
            kind = recognise([self.root / mask.path for mask in pairs.masks], self.colours)
        if kind in ("grey", "nonzero"):
            self.names = _two(self.names)
        guessed = self.coding == "auto"
        coding = Coding(kind, list(self.colours.values()), self.void, len(self.names) or None, exact=guessed)
        source, kept, skipped = self._open_pairs(pairs, coding)
        splits: dict[str, Source] = {}
        for name in dict.fromkeys(pairs.splits):
            chosen = [place for place, index in enumerate(kept) if pairs.splits[index] == name]
            splits[name] = Subset(source, torch.tensor(chosen, dtype=torch.int64))
        return Loading(splits, self.names or _numbers(source), [*pairs.unmatched, *skipped])

    def largest(self) -> tuple[int, int] | None:
        return self.largest_image

    def absent(self) -> str:
        """What to say where `root` does not exist."""
        return f"data.root={self.root} does not exist"

    def _tell(self, broken: list[str], what: str = "images or masks do not fit together or cannot be read") -> None:
        super()._tell(broken, what)

    def class_weights(self, kind: str) -> list[float]:
        return mask_weights(self.splits["train"], len(self.classes), kind)

    def _open_pairs(self, pairs: Pairs, coding: Coding) -> tuple[Source, list[int], list[str]]:
        """All pairs as one source, the positions of those that are in it, and what was wrong with the others."""
        own_size, store = self._fix_size(pairs.images), self.cache and self._fits(len(pairs.images))
        options: dict[str, Any] = {"store": store, "same_size": own_size}
        images, bad_images = Decoder(self.root, pairs.images, self.preprocess, self.cache_dir, **options).decode()
        decoder = MaskDecoder(self.root, pairs, coding, self.preprocess, self.cache_dir, **options)
        masks, bad_masks = decoder.decode()
        self.largest_image = decoder.largest
        broken = {**bad_masks, **bad_images}
        told = [broken[index] for index in sorted(broken)]
        self._tell(told)
        count = len(pairs.images)
        kept = [index for index in range(count) if index not in broken]
        paths = [str(self.root / pairs.images[index].path) for index in kept]
        if images is None or masks is None:
            mask_paths = [str(self.root / pairs.masks[index].path) for index in kept]
            return PairFiles(paths, mask_paths, coding, self.preprocess), kept, told
        rows = np.stack([_row_of(bad_images, count)[kept], _row_of(bad_masks, count)[kept]], axis=1)
        return PairArrays(images, masks[:, 0], rows, paths), kept, told


def _row_of(broken: Mapping[int, str], count: int) -> np.ndarray:
    """Row of each file in the array of those that are not broken, int64 (count,)."""
    whole = np.array([index not in broken for index in range(count)])
    return np.cumsum(whole) - 1


def _table(colours: Any) -> dict[str, list[int]]:
    """RGB by name."""
    if not isinstance(colours, Mapping) or not all(isinstance(rgb, list | tuple) for rgb in colours.values()):
        raise UserError(f"data.colours={colours} must name each colour: data.colours={{road: [128,64,128], ...}}")
    return {str(name): [int(value) for value in rgb] for name, rgb in colours.items()}


def _two(names: list[str]) -> list[str]:
    """The names of masks that hold two classes."""
    if len(names) > 2:
        raise UserError(f"data.classes has {len(names)} names, but the masks are of two classes: give one or two")
    return names if len(names) == 2 else ["background", *(names or ["foreground"])]


def _numbers(source: Source) -> list[str]:
    """Names of classes where nobody gave any: the numbers up to the highest that occurs."""
    highest = 0
    for index in range(len(source)):
        mask = source[index][1]["mask"]
        highest = max(highest, int(torch.where(mask == VOID, 0, mask).max()))
    return [str(number) for number in range(highest + 1)]
