"""Which images a folder holds, in which split, with which labels: told by its sub-folders or by a table."""

import csv
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lightbed.data.files import SPLITS, Entry, find_files, find_images, split_of
from lightbed.errors import UserError


@dataclass
class Labelled:
    """Images with what is said of them."""

    files: list[Entry]
    splits: list[str]  # of each file
    labels: list[tuple[str, ...]]  # of each file: one class name, or any number where several are allowed
    classes: list[str]
    notes: list[str] = field(default_factory=list)  # what a user should know, one line each


def by_folders(root: Path) -> Labelled:
    """Images in class folders: `root/CLASS/...`, or `root/SPLIT/CLASS/...` where the splits are given.

    Splits are folders named train (training, trainval), val (valid, validation) and test (testing), in any case, or
    with more in all their names (training_set, test_set); train must be among them.

    Raises:
        UserError: there is no such folder, no image, no class folder, or only one class.
    """
    if not root.is_dir():
        kind = "is a file, not a folder of class folders" if root.exists() else "does not exist"
        raise UserError(f"data.root={root} {kind}")
    found = find_images(root)
    if not found:
        raise UserError(f"data.root={root} holds no images (jpg, png, bmp, gif, webp, tif ...){_others(root)}")
    places = _split_folders(root, found)
    files: list[Entry] = []
    splits: list[str] = []
    labels: list[tuple[str, ...]] = []
    beside: list[str] = []
    for file in found:
        parts = file.path.split("/")
        split = places.get(parts[0]) if places else "train"
        names = parts[1:-1] if places else parts[:-1]
        if split is None or not names:
            beside.append(file.path)
            continue
        files.append(file)
        splits.append(split)
        labels.append((names[0],))
    classes = sorted({names[0] for names in labels})
    if len(classes) < 2:
        _refuse(root, classes, beside, found)
    notes = [f"{len(beside)} images beside the class folders are left out, e.g. {beside[0]}"] if beside else []
    notes += _gaps(root, places, classes, splits, labels)
    return Labelled(files, splits, labels, classes, notes)


def _others(root: Path) -> str:
    """What is there instead of images, e.g. photos of a kind that Pillow does not read."""
    endings = Counter(Path(file.path).suffix.lower() for file in find_files(root, lambda name: "." in name))
    told = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(3))
    return f" but {told} files" if told else ""


def _split_folders(root: Path, found: Iterable[Entry]) -> dict[str, str]:
    """Names of sub-folders that are splits -> the split; empty where the folder has no splits of its own."""
    names = _folders(root)
    parts = [file.path.split("/") for file in found]
    filled = {part[0] for part in parts if len(part) > 1}
    places = {name: SPLITS[name.lower()] for name in names if name.lower() in SPLITS}
    worded = {name: split for name in sorted(filled) if (split := split_of(name))}
    if "train" in worded.values() and len(worded) == len(filled):  # not of classes such as train_station and harbour
        places |= worded
    if "train" not in places.values():
        if places and len(places) == len(names):
            raise UserError(f"data.root={root} has {' and '.join(sorted(places))} but no train folder")
        return {}  # a class may be called test
    if filled - set(places) and not any(part[0] in places and len(part) > 2 for part in parts):
        return {}  # or train, beside car and bus
    for split in set(places.values()):
        same = sorted(name for name in places if places[name] == split)
        if len(same) > 1:
            raise UserError(f"data.root={root} has {' and '.join(same)}, which both mean the {split} split: keep one")
    return places


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as children:
        return sorted(child.name for child in children if child.is_dir() and not child.name.startswith("."))


def _refuse(root: Path, classes: list[str], beside: list[str], found: Iterable[Entry]) -> None:
    if classes:
        parts = [file.path.split("/") for file in found]
        inner = sorted({part[1] for part in parts if part[0] == classes[0] and len(part) > 2})
        hint = f"; or are {', '.join(inner[:3])} the classes? Then data.root={root / classes[0]}" if inner[1:] else ""
        raise UserError(
            f"data.root={root} has only one class, {classes[0]}: to tell classes apart takes two or more{hint}"
        )
    raise UserError(
        f"data.root={root} holds images but no class folders, e.g. {beside[0]}: put each class's images into a folder "
        "of its own, or give data.labels=FILE.csv"
    )


def _gaps(
    root: Path, places: dict[str, str], classes: list[str], splits: list[str], labels: list[tuple[str, ...]]
) -> list[str]:
    """A line for each class that a split has no images of, and for each folder that is no class."""
    there = set(zip(splits, (names[0] for names in labels), strict=True))
    order = sorted(set(places.values()), key=("train", "val", "test").index) or ["train"]
    missing = [(split, name) for split in order for name in classes if (split, name) not in there]
    notes = [f"class {name} has no images in the {split} split" for split, name in missing]
    folders = {name for place in places or {"": "train"} for name in _folders(root / place)}
    return notes + [f"folder {name} holds no images and is no class" for name in sorted(folders - set(classes))]


def by_table(root: Path, table: Path, *, several: bool) -> Labelled:
    """Images listed in a CSV file with the columns `path` (below `root`), `labels` and, if it likes, `split`.

    Args:
        root: folder of the images.
        table: the file; several labels in a cell are separated by `|`. Splits are called as in `by_folders`.
        several: whether an image can have any number of labels, also none; else it has exactly one.

    Raises:
        UserError: a line is wrong, with its number; or the file cannot be read.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.labels={table} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not {"path", "labels"} <= set(columns):
        raise UserError(f"data.labels={table} has the columns {', '.join(columns) or 'none'}; it needs path,labels")
    found = Labelled([], [], [], [])
    seen: dict[str, int] = {}
    for line, row in rows:
        try:
            path = (row["path"] or "").strip()
            if path in seen:
                raise UserError(f"{path} stands in line {seen[path]} already")
            seen[path] = line
            found.files.append(_entry(root, path))
            found.labels.append(_names(row["labels"] or "", several=several))
            found.splits.append(_split(row.get("split")))
        except UserError as error:
            raise UserError(f"data.labels={table} line {line}: {error}") from error
    found.classes = _classes(found.labels, table, 1 if several else 2)
    return found


def _entry(root: Path, path: str) -> Entry:
    try:
        state = (root / path).stat()
    except OSError as error:
        raise UserError(f"there is no image {path or '(no path)'} in data.root={root}") from error
    if not (root / path).is_file():
        raise UserError(f"{path or '(no path)'} is no file in data.root={root}")
    return Entry.of(path, state)


def _names(cell: str, *, several: bool) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in cell.split("|") if name.strip()))
    if not several and len(names) != 1:
        raise UserError(
            f"an image has one label, not {len(names)} ({cell.strip() or 'empty'}); data.multilabel=true allows several"
        )
    return names


def _split(cell: str | None) -> str:
    name = (cell or "train").strip().lower()
    if name not in SPLITS:
        raise UserError(f"there is no split {cell}: use {', '.join(SPLITS)}")
    return SPLITS[name]


def _classes(labels: Iterable[tuple[str, ...]], table: Path, least: int) -> list[str]:
    classes = sorted({name for names in labels for name in names})
    if len(classes) < least:
        raise UserError(f"data.labels={table} names {len(classes)} labels; at least {least} are needed")
    return classes
