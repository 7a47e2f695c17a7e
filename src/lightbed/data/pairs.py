"""Images and masks that belong together: which they are, and how they are read."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from lightbed.data.cache import Decoder
from lightbed.data.coding import VOID, Coding
from lightbed.data.files import SPLITS, Entry, find_images
from lightbed.data.images import guarded, is_image, read_image, upright_size
from lightbed.data.source import Batch, Sample, Source
from lightbed.errors import UserError
from lightbed.losses.pixels import frequency_weights
from lightbed.transforms.preprocess import Preprocess


@dataclass
class Pairs:
    """Images with their masks; paths are relative to the data's folder."""

    images: list[Entry] = field(default_factory=list)
    masks: list[Entry] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)  # one line each


def find_pairs(root: Path, images: str, masks: str, mask_name: str) -> Pairs:
    """The pairs below `root`: a mask lies in the same sub-folder of `masks` as its image in `images`.

    Args:
        root: the data's folder.
        images: folder of images below it; `{split}` in it stands for train (training), val (valid, validation) and test
            (testing).
        masks: likewise.
        mask_name: the mask's file name, with or without its ending; `{stem}` in it stands for the image's. Where images
            and masks lie in one folder it tells which are which.

    Raises:
        UserError: a folder is missing, or nothing matches.
    """
    if "{stem}" not in mask_name:
        raise UserError(f"data.mask_name={mask_name} must hold {{stem}}, the image's own name")
    if ("{split}" in images) != ("{split}" in masks):
        raise UserError(f"data.images={images} and data.masks={masks}: put {{split}} into both or into neither")
    places = [(images, masks, "train")]
    if "{split}" in images:
        places = [(images.format(split=s), masks.format(split=s), SPLITS[s]) for s in SPLITS]
        places = [place for place in places if (root / place[0]).is_dir()]
        if "train" not in {split for _, _, split in places}:
            raise UserError(f"{root / images.format(split='train')} does not exist: set data.root or data.images")
    found = Pairs()
    for image_folder, mask_folder, split in places:
        _match(found, root, image_folder, mask_folder, mask_name, split)
    if not found.images:
        example = found.unmatched[0] if found.unmatched else f"{root / places[0][0]} holds no images"
        raise UserError(f"no image of {root / places[0][0]} has a mask: {example}")
    return found


def _match(found: Pairs, root: Path, images: str, masks: str, mask_name: str, split: str) -> None:
    for key, folder in (("images", images), ("masks", masks)):
        if not (root / folder).is_dir():
            raise UserError(f"{root / folder} does not exist: set data.root or data.{key}")
    ending = is_image(mask_name)  # the pattern has the mask's
    by_name: dict[str, Entry] = {}
    photos, drawn = _told_apart(root / images, root / masks, mask_name)
    for entry in drawn:
        name = entry.path if ending else str(PurePosixPath(entry.path).with_suffix(""))
        if name in by_name:
            raise UserError(f"{root / masks / entry.path} and {by_name[name].path} are masks of one name: keep one")
        by_name[name] = entry
    for image in photos:
        path = PurePosixPath(image.path)
        wanted = str(path.with_name(mask_name.replace("{stem}", path.stem)))
        mask = by_name.pop(wanted, None)
        if mask is None:
            found.unmatched.append(
                f"{root / images / image.path} has no mask {root / masks / wanted}{'' if ending else '.*'}"
            )
            continue
        found.images.append(image._replace(path=str(PurePosixPath(images, image.path))))
        found.masks.append(mask._replace(path=str(PurePosixPath(masks, mask.path))))
        found.splits.append(split)
    found.unmatched += [f"{root / masks / mask.path} has no image" for mask in by_name.values()]


def _told_apart(images: Path, masks: Path, mask_name: str) -> tuple[list[Entry], list[Entry]]:
    """The images and the masks below two folders, of which one may lie in the other or be the other.

    Raises:
        UserError: both are in one folder, and the pattern fits all of them.
    """
    photos, drawn = find_images(images), find_images(masks)
    if images.resolve() != masks.resolve():
        return _outside(photos, images.resolve(), masks.resolve()), _outside(drawn, masks.resolve(), images.resolve())
    if mask_name == "{stem}":
        raise UserError(
            f"images and masks are both in {images}: say which are masks by data.mask_name, e.g. {{stem}}_mask or "
            "{stem}.png"
        )
    before, _, after = mask_name.partition("{stem}")

    def is_mask(entry: Entry) -> bool:
        path = PurePosixPath(entry.path)
        name = path.name if is_image(mask_name) else path.stem
        return name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)

    return [e for e in photos if not is_mask(e)], [e for e in drawn if is_mask(e)]


def _outside(entries: list[Entry], folder: Path, other: Path) -> list[Entry]:
    """Those of the files below `folder` that are not below `other`."""
    if folder not in other.parents:
        return entries
    return [entry for entry in entries if other not in (folder / entry.path).parents]


class MaskDecoder(Decoder):
    """Reads every mask once, checks it, brings it to the images' size, and remembers the result on disk.

    Args:
        root: folder of the data set.
        pairs: its images and masks; a mask that differs in size from its image is broken.
        coding: how a file says its classes.
        preprocess: of the images.
        cache_dir: where results are kept.
        store: keep the masks; else only which files are broken.
        same_size: as in `Decoder`.
    """

    kind = "masks"

    def __init__(
        self,
        root: Path,
        pairs: Pairs,
        coding: Coding,
        preprocess: Preprocess,
        cache_dir: Path,
        *,
        store: bool,
        same_size: bool,
    ) -> None:
        self.coding = coding
        # whether a mask fits depends on its image, too
        self.images = hashlib.sha256(json.dumps(pairs.images).encode()).hexdigest()
        self.image_of = dict(zip(pairs.masks, pairs.images, strict=True))
        self.sizes: list[tuple[int, int]] = []  # of the images whose masks were read
        single = Preprocess(1, preprocess.size, resize=preprocess.resize)
        super().__init__(root, pairs.masks, single, cache_dir, store=store, same_size=same_size)

    def further(self) -> dict[str, Any]:
        return {"kept": "masks" if self.store else "mask checks", "images": self.images, **self.coding.describe()}

    @property
    def largest(self) -> tuple[int, int] | None:
        """Own (height, width) of the largest image, known once decoded."""
        return max(self.sizes, key=math.prod, default=None)

    def note(self, entry: Entry, size: tuple[int, int]) -> None:  # noqa: ARG002 - the base's signature
        self.sizes.append(size)

    def found(self) -> dict[str, Any]:
        return {"largest": self.largest}

    def recall(self, made: dict[str, Any]) -> None:
        self.sizes = [(made["largest"][0], made["largest"][1])] if made["largest"] else []

    def _read(self, entry: Entry) -> Tensor | UserError | None:
        path = self.root / entry.path
        try:
            mask = self.coding.read(path)
            size = guarded(self.root / self.image_of[entry].path, upright_size)
        except UserError as error:
            return error
        if tuple(mask.shape[-2:]) != size:
            return UserError(
                f"{path} is {mask.shape[-1]}x{mask.shape[-2]} pixels but its image "
                f"{self.root / self.image_of[entry].path} is {size[1]}x{size[0]}"
            )
        self.note(entry, size)
        return self.preprocess.fit(mask, mask=True) if self.store else None


class PairArrays:
    """Images and masks held as arrays, also ones mapped from disk.

    Args:
        images: uint8 (N, C, H, W).
        masks: uint8 (M, H, W), 255 where void.
        rows: int64 (n, 2): of each sample, its row in `images` and in `masks`.
        paths: the images' files.
    """

    batched = True

    def __init__(self, images: np.ndarray, masks: np.ndarray, rows: np.ndarray, paths: Sequence[str] | None) -> None:
        self.images, self.masks, self.rows, self.paths = images, masks, rows, paths

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        image, mask = self.rows[index]
        target: Any = {"mask": tv_tensors.Mask(torch.from_numpy(np.array(self.masks[mask])))}
        if self.paths is not None:
            target["path"] = self.paths[index]
        return torch.from_numpy(np.array(self.images[image])), target

    def take(self, indices: Tensor) -> Batch:
        """See `ArraySource.take`; `mask` is uint8 (n, H, W)."""
        chosen = self.rows[indices.numpy()]
        masks = torch.from_numpy(np.take(self.masks, chosen[:, 1], axis=0))
        return torch.from_numpy(np.take(self.images, chosen[:, 0], axis=0)), {"mask": masks}


class PairFiles:
    """Images and masks read from their files each time: for data too large to be kept decoded."""

    batched = False

    def __init__(self, paths: Sequence[str], masks: Sequence[str], coding: Coding, preprocess: Preprocess) -> None:
        self.paths, self.masks, self.coding, self.preprocess = paths, masks, coding, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        image = self.preprocess.fit(read_image(self.paths[index], self.preprocess.channels))
        mask = self.preprocess.fit(self.coding.read(Path(self.masks[index])), mask=True)[0]
        target: Any = {"mask": tv_tensors.Mask(mask), "path": self.paths[index]}
        return image, target


def pixel_counts(source: Source, num_classes: int) -> tuple[Tensor, Tensor]:
    """Pixels of each class, and pixels (without void) of the images that each class is in; int64 (K,) each."""
    pixels = torch.zeros(num_classes, dtype=torch.int64)
    images = torch.zeros_like(pixels)
    for index in range(len(source)):
        counts = torch.bincount(source[index][1]["mask"].flatten().long(), minlength=VOID + 1)[:num_classes]
        pixels += counts
        images += counts.sum() * (counts > 0)
    return pixels, images


def mask_weights(source: Source, num_classes: int, kind: str) -> list[float]:
    """Weights of classes from the pixels of `source`, see `frequency_weights`.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in ("balanced", "inverse", "median"):
        raise UserError(f"task.class_weights={kind} is not known: a list, balanced, inverse, median or null")
    weights: list[float] = frequency_weights(*pixel_counts(source, num_classes), kind).tolist()
    return weights
