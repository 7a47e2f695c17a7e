"""YOLO's text files: a line an object, `class x y width height` as fractions of the image, or a polygon."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lightbed.data.annotations import (
    MALFORMED,
    NO_IMAGE,
    SAME_SPLIT,
    TWICE,
    UNKNOWN,
    UNREADABLE,
    Annotations,
    Fault,
    Object,
    annotated,
)
from lightbed.data.boxes import BoxData
from lightbed.data.files import Entry, find_files, split_of
from lightbed.data.images import in_threads
from lightbed.data.lookup import Images
from lightbed.errors import UserError

_NO_NAMES = "it lacks `names`, the classes"
_MOST = 10_000  # classes, where nothing says how many there are; a larger number is no class
_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass
class Layout:
    """What data.yaml says, or what the folders say where there is none."""

    names: list[str] | None  # of the classes; None: numbers
    images: dict[Entry, str]  # the images with their splits
    files: list[Path] = field(default_factory=list)  # data.yaml and lists of images
    faults: list[Fault] = field(default_factory=list)


def parse_yolo(layout: Layout, root: Path) -> Annotations:
    """The objects of text files; an image without one has no objects.

    Labels of an image lie in the folder `labels` that stands beside its folder `images`, or beside the image.
    """
    texts = {entry.path.lower(): entry for entry in find_files(root, lambda name: name.lower().endswith(".txt"))}
    mine = {
        image: next((texts[path] for path in _places(image.path) if path in texts), None) for image in layout.images
    }
    used = [entry for entry in mine.values() if entry is not None]
    contents = dict(zip(used, in_threads(lambda entry: _read(root / entry.path), used), strict=True))
    known = None if layout.names is None else len(layout.names)
    found = Annotations([], layout.names or [], [*layout.files, *(root / entry.path for entry in used)])
    found.faults += layout.faults
    for image, entry in mine.items():
        objects: list[Object] = []
        file = root / (entry or image).path
        content = contents[entry] if entry else []
        if isinstance(content, str):
            found.faults.append(Fault(UNREADABLE, str(file), content))
            continue
        for number, line in enumerate(content, 1):
            if line.strip():
                read = _object(line, number, known)
                if isinstance(read, Object):
                    objects.append(read)
                else:
                    found.faults.append(read._replace(where=f"{file} line {number}"))
        found.images.append(annotated(image, layout.images[image], file, objects, relative=True))
    if layout.names is None:
        highest = max((int(one.labels.max()) for one in found.images if len(one.labels)), default=-1)
        found.classes = [str(number) for number in range(highest + 1)]
    found.faults += _without_image(set(texts.values()) - set(used), used, layout, root)
    return found


def _places(image: str) -> list[str]:
    """Where the labels of an image may lie, in lower case."""
    path = PurePosixPath(image.lower()).with_suffix(".txt")
    places = [str(path)]
    for i in reversed(range(len(path.parts) - 1)):
        if path.parts[i] == "images":
            places.insert(0, str(PurePosixPath(*path.parts[:i], "labels", *path.parts[i + 1 :])))
    return [*places, str(path.parent / "labels" / path.name)]


def _read(file: Path) -> list[str] | str:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeDecodeError:
        return "it is no text"


def _object(line: str, number: int, known: int | None) -> Object | Fault:
    """The object of a line, or what is wrong with it."""
    words = line.split()
    try:
        label, *values = (float(word) for word in words)
    except ValueError:
        return Fault(MALFORMED, "", f"`{line.strip()[:60]}` is not numbers")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        return Fault(MALFORMED, "", f"{len(words)} numbers, where class x y width height are 5")
    if not 0 <= label < (_MOST if known is None else known) or label != int(label):
        return Fault(UNKNOWN, "", f"class {words[0]}" + (f", there are 0..{known - 1}" if known else ""))
    if len(values) == 4:
        x, y, width, height = values
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return Object(number, box, int(label))
    if not all(abs(value) < 100 for value in values):
        return Fault(MALFORMED, "", "a polygon with a point that is nowhere")
    box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return Object(number, box, int(label), shape=[values])


def is_yolo_line(line: str) -> bool:
    """Whether a line is an object."""
    return isinstance(_object(line, 0, None), Object)


def _without_image(others: set[Entry], used: list[Entry], layout: Layout, root: Path) -> list[Fault]:
    """Text files among the label files that belong to no image."""
    folders = {entry.path.rpartition("/")[0] for entry in used}
    lists = {file.name for file in layout.files} | {"classes.txt", "readme.txt"}
    beside = [
        entry
        for entry in sorted(others)
        if entry.path.rpartition("/")[0] in folders
        and PurePosixPath(entry.path).name.lower() not in lists
        and not PurePosixPath(entry.path).name.lower().startswith("readme")
    ]
    return [Fault(NO_IMAGE, str(root / entry.path), "labels without an image") for entry in beside]


def find_yaml(root: Path) -> Path | None:
    """The file below `root` that names classes; data.yaml before others, None where there is none.

    Raises:
        UserError: there are several, or data.yaml is no YAML.
    """
    files = find_files(root, lambda name: name.lower().endswith((".yaml", ".yml")))
    read = {root / entry.path: _yaml(root / entry.path) for entry in files}
    for path, content in read.items():
        if path.stem.lower() == "data" and isinstance(content, str) and content != _NO_NAMES:
            raise UserError(f"{path}: {content}; mend it, or take another by data=yolo data.file=NAME.yaml")
    found = [path for path, content in read.items() if isinstance(content, dict)]
    named = [path for path in found if path.stem.lower() == "data"] or found
    if len(named) > 1:
        raise UserError(f"{named[0]} and {named[1]} both name classes: say which by data.file=FILE.yaml")
    return named[0] if named else None


def _yaml(file: Path) -> dict[str, Any] | str:
    """The content of data.yaml, or why it is none."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeDecodeError:
        return "it is no text"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return (f"line {mark.line + 1}: " if mark else "") + str(getattr(error, "problem", None) or "it is no YAML")
    if not isinstance(content, dict) or not isinstance(content.get("names"), dict | list):
        return _NO_NAMES
    return content


def read_layout(root: Path, file: Path | None, images: Images) -> Layout:
    """Which images are in which split, and what the classes are called.

    Args:
        root: the data's folder.
        file: data.yaml; None: names of classes are those of classes.txt or *.names if there is one. Without it, or
            where it names no splits, they are what the folders say.
        images: those below `root`.

    Raises:
        UserError: the file is wrong, or names places that do not exist.
    """
    if file is None:
        found = find_files(root, lambda name: name.lower() == "classes.txt" or name.lower().endswith(".names"))
        lines = _read(root / found[0].path) if found else []
        if isinstance(lines, str):
            raise UserError(f"{root / found[0].path}, which names the classes: {lines}; write it in UTF-8")
        names = [line.strip() for line in lines if line.strip()]
        return Layout(names or None, _by_folders(images), [root / found[0].path] if found else [])
    content = _yaml(file)
    if isinstance(content, str):
        raise UserError(f"{file}: {content}")
    layout = Layout(_names(content["names"], file), {}, [file])
    if not any(content.get(key) for key in _KEYS):
        layout.images = _by_folders(images)
        return layout
    base = file.parent / str(content.get("path") or ".")
    members: dict[str, dict[Entry, None]] = {"train": {}, "val": {}, "test": {}}
    for key, split in _KEYS.items():
        values = content.get(key) or []
        for value in values if isinstance(values, list) else [values]:
            place = _place(file, key, str(value), [base, file.parent, root])
            members[split] |= dict.fromkeys(_images_at(place, split, images, layout))
    if not members["train"]:
        raise UserError(f"{file}: `train` names no images, neither a folder nor a list of files")
    for split, entries in members.items():
        if split != "train" and entries and entries.keys() >= members["train"].keys():
            same = f"{split} has all images of train: it is cut from them instead"
            layout.faults.append(Fault(SAME_SPLIT, str(file), same))
            continue
        twice = [entry for entry in entries if entry in layout.images]
        layout.faults += [Fault(TWICE, str(file), f"{one.path}: {layout.images[one]} and {split}") for one in twice]
        layout.images |= dict.fromkeys(entries, split)
    return layout


def _by_folders(images: Images) -> dict[Entry, str]:
    """The split of each image by the names of its folders; all are for training where none is called so."""
    named = {entry: split_of(entry.path.rpartition("/")[0]) for entry in images.entries}
    several = "train" in named.values()
    return {entry: (split or "train") if several else "train" for entry, split in named.items()}


def _names(given: Any, file: Path) -> list[str]:
    names = dict(enumerate(given)) if isinstance(given, list) else given
    names = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
    if sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise UserError(f"{file}: names must be numbered 0..{len(names) - 1}, not {list(names)[:8]}")
    return [str(names[i]) for i in range(len(names))]


def _place(file: Path, key: str, value: str, bases: list[Path]) -> Path:
    """The folder or list of files that a value of data.yaml means; tools differ in what it is relative to."""
    path = value.replace("\\", "/")
    places = [base / part for base in bases for part in (path, path.removeprefix("../"))]
    place = next((place.resolve() for place in places if place.exists()), None)
    if place is None:
        raise UserError(f"{file}: {key}: {value} does not exist; it is looked for in {bases[0]}")
    root = bases[-1].resolve()
    if not place.is_relative_to(root):
        raise UserError(f"{file}: {key}: {value} is not below data.root={bases[-1]}")
    return place


def _images_at(place: Path, split: str, images: Images, layout: Layout) -> list[Entry]:
    """The images in a folder, or in a list of files."""
    if place.is_dir():
        inside = place.relative_to(images.root.resolve()).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        return [entry for entry in images.entries if entry.path.startswith(prefix)]
    layout.files.append(place)
    found: list[Entry] = []
    for number, line in enumerate(place.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        entry = images.find(line.strip(), split=split) if line.strip() else None
        if isinstance(entry, Entry):
            found.append(entry)
        elif entry is not None:
            layout.faults.append(Fault(NO_IMAGE, f"{place} line {number}", entry))
    return found


class Yolo(BoxData):
    """Images with YOLO's text files and data.yaml.

    Args:
        root: the folder.
        file: data.yaml, a path below `root`; None: it is looked for, and splits and classes are told by the folders
            and by classes.txt where there is none.
        common: the arguments of `BoxData`.

    Raises:
        UserError: data.yaml is wrong, or there are several.
    """

    def __init__(self, root: str | Path, *, file: str | None = None, **common: Any) -> None:
        super().__init__(root, **common)
        self.file = self.root / file if file else None

    def find_objects(self) -> Annotations:
        file = self.file or find_yaml(self.root)
        found = parse_yolo(read_layout(self.root, file, Images(self.root)), self.root)
        if not any(len(one.labels) for one in found.images):
            told = f": {found.faults[0]}" if found.faults else ""
            raise UserError(f"data.root={self.root} holds no YOLO labels of its images{told}")
        return found
