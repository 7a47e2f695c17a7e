"""Which of the formats of labelled boxes a folder has."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from lightbed.data.annotations import Annotations
from lightbed.data.boxes import BoxData
from lightbed.data.coco import by_split, find_coco, parse_coco
from lightbed.data.files import Entry, find_files, find_images, split_of
from lightbed.data.images import guarded
from lightbed.data.instance_masks import parse_instance_masks, read_numbers
from lightbed.data.lookup import Images
from lightbed.data.pairs import Pairs
from lightbed.data.voc import find_voc, in_splits, parse_voc
from lightbed.data.yolo import find_yaml, is_yolo_line, parse_yolo, read_layout
from lightbed.errors import UserError
from lightbed.runs.log import say

_LOOKED_AT = 8  # files of a kind that are looked into


class Format(NamedTuple):
    """A format that a folder may have."""

    config: str  # the data config that reads it
    says: str  # what was found, for messages
    read: Callable[[], Annotations]


def recognise(root: Path) -> list[Format]:
    """The formats whose label files lie below `root`; masks are looked for only where there are no other labels."""
    found: list[Format] = []
    if coco := find_coco(root):
        names = ", ".join(file.relative_to(root).as_posix() for file in coco[:3])
        found.append(Format("coco", f"COCO files ({names})", lambda: parse_coco(by_split(root, coco), Images(root))))
    voc = find_voc(root)
    if any("<annotation" in _head(root / file.path).lower() for file in voc[:_LOOKED_AT]):
        found.append(Format("voc", f"{len(voc)} Pascal VOC files ({voc[0].path}, ...)", lambda: _voc(root, voc)))
    if texts := _yolo_texts(root):
        found.append(Format("yolo", f"YOLO labels ({texts[0].path}, ...)", lambda: _yolo(root)))
    if not found and (pairs := find_mask_pairs(root)):
        told = f"{len(pairs.masks)} masks that number objects ({pairs.masks[0].path} of {pairs.images[0].path}, ...)"
        found.append(Format("instance_masks", told, lambda: parse_instance_masks(root, pairs, "object")))
    return found


def _head(file: Path) -> str:
    """The beginning of a text, also of one that Windows wrote with a mark in front or in two bytes a letter."""
    with file.open("rb") as opened:
        content = opened.read(4096)
    return content.decode("utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig", "replace")


def _voc(root: Path, files: list[Entry]) -> Annotations:
    splits, faults = in_splits(root, files, None)
    found = parse_voc(splits, Images(root))
    found.faults[:0] = faults
    return found


def _yolo(root: Path) -> Annotations:
    return parse_yolo(read_layout(root, find_yaml(root), Images(root)), root)


def _yolo_texts(root: Path) -> list[Entry]:
    """Text files named like an image whose first lines are YOLO's."""
    stems = {PurePosixPath(entry.path).stem.lower() for entry in find_images(root)}
    files = find_files(root, lambda name: name.lower().endswith(".txt") and Path(name).stem.lower() in stems)
    told = [file for file in files if file.size][:_LOOKED_AT]
    lines = [_head(root / file.path).strip().splitlines()[:1] for file in told]
    return files if any(line and is_yolo_line(line[0]) for line in lines) else []


def find_mask_pairs(root: Path) -> Pairs | None:
    """Images and masks in two folders, a mask's name being its image's with something more in it or not.

    Masks are grey or palette files whose values are few, begin at 0 and have no gaps.
    """
    folders: dict[str, dict[str, Entry]] = {}
    for entry in find_images(root):
        folder, _, name = entry.path.rpartition("/")
        folders.setdefault(folder, {})[PurePosixPath(name).stem] = entry
    pairs = Pairs()
    for masks, files in folders.items():
        if not _number_objects(root, list(files.values())[:_LOOKED_AT]):
            continue
        for images, candidates in folders.items():
            partner = {} if images == masks else _partners(candidates, files)
            if partner and split_of(images) == split_of(masks):
                pairs.images += [candidates[stem] for stem in partner]
                pairs.masks += partner.values()
                pairs.splits += [split_of(images) or "train"] * len(partner)
    return pairs if pairs.images else None


def _partners(images: dict[str, Entry], masks: dict[str, Entry]) -> dict[str, Entry]:
    """The mask of each image by a rule that fits all images: the same name, or one thing more before or behind it."""
    first = next(iter(images))
    for name in masks:
        before, found, behind = name.partition(first)
        if found and all(f"{before}{stem}{behind}" in masks for stem in images):
            return {stem: masks[f"{before}{stem}{behind}"] for stem in images}
    return {}


def _number_objects(root: Path, files: list[Entry]) -> bool:
    highest = 0
    for file in files:
        try:
            values = np.unique(guarded(root / file.path, read_numbers))
        except UserError:
            continue
        if values[0] != 0 or values[-1] != len(values) - 1:
            return False
        highest = max(highest, int(values[-1]))
    return highest > 0


class Auto(BoxData):
    """A folder of labelled images in COCO's, Pascal VOC's or YOLO's format, or with masks that number the objects.

    Args:
        common: the arguments of `BoxData`.

    Raises:
        UserError: none of the formats is found, or several are.
    """

    def find_objects(self) -> Annotations:
        found = recognise(self.root)
        if not found:
            raise UserError(
                f"data.root={self.root} has no labels that are known: COCO JSON, Pascal VOC XML, YOLO txt named like "
                "the images, or masks 0, 1, 2 ... named like the images; data=image_folder reads class folders, "
                "data=mask_folder classes of pixels"
            )
        if len(found) > 1:
            raise UserError(
                f"data.root={self.root} has {' and '.join(one.says for one in found)}: "
                f"say which by {' or '.join(f'data={one.config}' for one in found)}"
            )
        say(f"data.root={self.root} has {found[0].says}: as data={found[0].config}")
        return found[0].read()
