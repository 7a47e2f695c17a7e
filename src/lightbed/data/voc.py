"""Pascal VOC's XML files: one an image, with a box and a name for each object."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.parsers import expat

from lightbed.data.annotations import (
    MALFORMED,
    NO_IMAGE,
    NO_LABELS,
    TWICE,
    UNLISTED,
    UNREADABLE,
    Annotations,
    Fault,
    Object,
    annotated,
)
from lightbed.data.boxes import BoxData
from lightbed.data.files import SPLITS, Entry, find_files, split_of
from lightbed.data.images import in_threads
from lightbed.data.lookup import Images
from lightbed.errors import UserError, one_of

_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Node:
    """An XML element, with the line that it begins in."""

    tag: str  # lower case
    line: int
    text: str = ""
    children: list["Node"] = field(default_factory=list)

    def child(self, tag: str) -> "Node | None":
        return next((node for node in self.children if node.tag == tag), None)

    def value(self, tag: str) -> str:
        """The text of a child, empty where there is none."""
        node = self.child(tag)
        return node.text.strip() if node else ""


def read_xml(content: bytes) -> Node:
    """The root element of an XML file.

    Raises:
        ValueError: it is no XML; the message says in which line.
    """
    top = Node("", 0)
    open_nodes = [top]
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        node = Node(tag.lower(), parser.CurrentLineNumber)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def text(content: str) -> None:
        open_nodes[-1].text += content

    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler = lambda _: open_nodes.pop()
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(f"line {error.lineno}: {expat.errors.messages[error.code]}") from error
    return top.children[0]


def parse_voc(
    files: Mapping[Entry, str], images: Images, *, one_based: bool = False, difficult: str = "ignore"
) -> Annotations:
    """The objects of XML files; classes are all names that occur, in alphabetical order.

    Args:
        files: the XML files below the images' folder, and the split of each.
        images: the images that they may be about.
        one_based: pixels count from 1, and xmax and ymax are the last ones inside, as PASCAL's own files have it.
        difficult: 'ignore' makes crowds of the objects that are marked so, 'learn' takes them like all others.
    """
    root = images.root
    contents = in_threads(lambda entry: _read(root / entry.path), list(files))
    names: dict[str, int] = {}
    found = Annotations([], [], [root / entry.path for entry in files])
    for (entry, split), content in zip(files.items(), contents, strict=True):
        file = root / entry.path
        if isinstance(content, str):
            found.faults.append(Fault(UNREADABLE, str(file), content))
            continue
        image = _image_of(content, PurePosixPath(entry.path), images, split)
        if not isinstance(image, Entry):
            found.faults.append(Fault(NO_IMAGE, str(file), image))
            continue
        nodes = [node for node in content.children if node.tag == "object"]
        objects = [_object(node, names, file, found.faults, one_based) for node in nodes]
        if difficult == "ignore":
            marked = [node.value("difficult") == "1" for node in nodes]
            objects = [one and one._replace(crowd=hard) for one, hard in zip(objects, marked, strict=True)]
        size = content.child("size")
        said = (_whole(size.value("height")), _whole(size.value("width"))) if size else None
        found.images.append(annotated(image, split, file, [one for one in objects if one], size=said))
    found.classes = sorted(names)
    order = {number: found.classes.index(name) for name, number in names.items()}
    for one in found.images:
        for i, label in enumerate(one.labels.tolist()):
            one.labels[i] = order[label]
    return found


def _read(file: Path) -> Node | str:
    """The content of a file, or why it cannot be used."""
    try:
        node = read_xml(file.read_bytes())
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    return node if node.tag == "annotation" else f"line {node.line}: <{node.tag}> where <annotation> should be"


def _image_of(content: Node, path: PurePosixPath, images: Images, split: str) -> Entry | str:
    """The image of the file's own name, with the ending that it says; else the one that it names."""
    name = content.value("filename").replace("\\", "/").rpartition("/")[2]
    own = images.find(path.stem + (PurePosixPath(name).suffix or ".jpg"), str(path.parent).removeprefix("."), split)
    if isinstance(own, Entry) or not name:
        return own
    return images.find(name, str(path.parent).removeprefix("."), split)


def _object(node: Node, names: dict[str, int], file: Path, faults: list[Fault], one_based: bool) -> Object | None:
    box, name = node.child("bndbox"), node.value("name")
    where = f"{file} line {box.line if box else node.line}"
    try:
        sides = [float(box.value(side)) for side in _SIDES] if box else []
    except ValueError:
        sides = []
    if not sides or not name:
        written = [child.text.strip()[:20] for child in box.children if child.tag in _SIDES] if box else []
        what = f"a box of {', '.join(written)}" if any(written) else "an object without xmin, ymin, xmax, ymax"
        faults.append(Fault(MALFORMED, where, what if name else "an object without a name"))
        return None
    if one_based:
        sides = [sides[0] - 1, sides[1] - 1, sides[2], sides[3]]
    return Object(box.line if box else node.line, sides, names.setdefault(name, len(names)))


def _whole(text: str) -> int:
    """A number of pixels; 0 where the file does not say it."""
    try:
        value = float(text)
    except ValueError:
        return 0
    return int(value) if math.isfinite(value) else 0


def find_voc(root: Path) -> list[Entry]:
    """XML files below `root`."""
    return find_files(root, lambda name: name.lower().endswith(".xml"))


def in_splits(root: Path, files: list[Entry], lists: Path | None) -> tuple[dict[Entry, str], list[Fault]]:
    """The files with their splits, and what is wrong with the lists.

    Splits are told by lists of names, one a line, as in ImageSets/Main/{train,val,test}.txt; where there are none by
    folders that are called so; else all files are for training.

    Args:
        root: the data's folder.
        files: the XML files.
        lists: folder of the lists; None: it is looked for.

    Raises:
        UserError: there are several such folders, or no list to train on.
    """
    folder = lists or _find_lists(root)
    if folder is None:
        named = {file: split_of(file.path.rpartition("/")[0]) for file in files}
        if "train" not in named.values():
            return dict.fromkeys(files, "train"), []
        return {file: split or "train" for file, split in named.items()}, []
    by_stem = {PurePosixPath(file.path).stem.lower(): file for file in files}
    found: dict[Entry, str] = {}
    faults: list[Fault] = []
    for list_file, split in list_files(folder).items():
        text = list_file.read_text(encoding="utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            names = [line.strip(), *line.split()[:1]]
            stems = [PurePosixPath(name.replace("\\", "/")).name.lower() for name in names if name]
            stems += [PurePosixPath(stem).stem for stem in stems]
            file = next((by_stem[stem] for stem in stems if stem in by_stem), None)
            if file is None:
                if line.strip():
                    faults.append(Fault(NO_LABELS, f"{list_file} line {number}", f"there is no XML file of {names[0]}"))
            elif split != found.setdefault(file, split):
                # a later list is of a split further from training
                faults.append(Fault(TWICE, f"{list_file} line {number}", f"{names[0]}: {found[file]} and {split}"))
                found[file] = split
    beside = [file for file in files if file not in found]
    if beside:
        faults.append(Fault(UNLISTED, str(folder), f"{len(beside)} XML files are in no list, e.g. {beside[0].path}"))
    return found, faults


def _find_lists(root: Path) -> Path | None:
    texts = find_files(root, lambda name: name.lower().endswith(".txt") and Path(name).stem.lower() in SPLITS)
    folders = sorted({(root / text.path).parent for text in texts if "train" in Path(text.path).stem.lower()})
    main = [folder for folder in folders if folder.name.lower() == "main"] or folders
    if len(main) > 1:
        raise UserError(f"{main[0]} and {main[1]} both hold lists of splits: say which by data.lists=FOLDER")
    return main[0] if main else None


def list_files(folder: Path) -> dict[Path, str]:
    """Lists and their splits, training first; train and val are parts of trainval, which counts where train is missing.

    Raises:
        UserError: there is none to train on.
    """
    if not folder.is_dir():
        raise UserError(f"data.lists={folder} does not exist")
    files = {file.stem.lower(): file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".txt"}
    words = [word for word in SPLITS if word in files and (word != "trainval" or "train" not in files)]
    if not words or SPLITS[words[0]] != "train":
        raise UserError(f"data.lists={folder} holds no train.txt")
    return {files[word]: SPLITS[word] for word in words}


class Voc(BoxData):
    """Images with Pascal VOC's XML files, wherever both lie below `root`.

    Args:
        root: the folder.
        lists: folder below it of train.txt, val.txt and test.txt, names of images line by line; None: it is looked for.
        one_based: pixels count from 1 and xmax, ymax are inside, as in PASCAL's own files; false: as most tools write.
        difficult: 'ignore': objects marked so are not learnt, and detections on them do not count, as in PASCAL's own
            evaluation; 'learn': they are like all others.
        common: the arguments of `BoxData`.

    Raises:
        UserError: there are no XML files, or several sets of lists.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        lists: str | None = None,
        one_based: bool = False,
        difficult: str = "ignore",
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        self.difficult = one_of(difficult, ("ignore", "learn"), "data.difficult")
        self.lists = self.root / lists if lists else None
        self.one_based = one_based

    def find_objects(self) -> Annotations:
        files, faults = in_splits(self.root, find_voc(self.root), self.lists)
        if not files:
            raise UserError(f"data.root={self.root} holds no XML files")
        found = parse_voc(files, Images(self.root), one_based=self.one_based, difficult=self.difficult)
        found.faults[:0] = faults
        return found
