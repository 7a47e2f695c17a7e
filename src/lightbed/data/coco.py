"""COCO's JSON files: boxes, polygons, run-length codes, crowds."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightbed.data.annotations import (
    BAD_MASK,
    MALFORMED,
    NO_IMAGE,
    ORPHAN,
    SHARED_ID,
    UNKNOWN,
    Annotations,
    Fault,
    Object,
    annotated,
)
from lightbed.data.boxes import BoxData
from lightbed.data.files import Entry, find_files, split_of
from lightbed.data.lookup import Images
from lightbed.data.shapes import checked
from lightbed.errors import UserError

_LARGEST = 10**15  # exact as a float
_ID = (int, float, str)
Json = dict[str, Any]


def parse_coco(files: Mapping[str, Path], images: Images) -> Annotations:
    """The objects of COCO files; classes are the categories in the order of their ids, which may have gaps.

    Args:
        files: the file of each split.
        images: the images that they may be about.

    Raises:
        UserError: a file is no JSON of this form.
    """
    read = {split: read_coco(file) for split, file in files.items()}
    ids: dict[str, Any] = {}  # of several of one name the first
    for content in read.values():
        for category in sorted(content["categories"], key=_order):
            ids.setdefault(str(category["name"]), category["id"])
    found = Annotations([], list(ids), list(files.values()), ids=list(ids.values()))
    for split, content in read.items():
        _parse(found, content, files[split], split, images)
    return found


def read_coco(file: Path) -> Json:
    """A file's content, sure to have lists of images, annotations and categories.

    Raises:
        UserError: it has not.
    """
    try:
        content: Json = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file} line {error.lineno} is no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no JSON: {error.reason}") from error
    keys = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}
    for key, inner in keys.items():
        values = content.get(key) if isinstance(content, dict) else None
        if not isinstance(values, list) or not all(isinstance(one, dict) and set(inner) <= set(one) for one in values):
            what = f" of objects with {' and '.join(inner)}" if inner else ""
            raise UserError(f"{file} is no COCO file: it needs a list `{key}`{what}")
        wrong = [one["id"] for one in values if "id" in inner and not isinstance(one["id"], _ID)]
        if wrong:
            raise UserError(f"{file} is no COCO file: the id {str(wrong[0])[:60]} in `{key}` is no number")
    return content


def _order(category: Json) -> tuple[bool, Any]:
    """By what categories are sorted: their numbers, and ids that are texts behind them."""
    return isinstance(category["id"], str), category["id"]


def _parse(found: Annotations, content: Json, file: Path, split: str, images: Images) -> None:
    numbers = {one["id"]: found.classes.index(str(one["name"])) for one in content["categories"]}
    ids, categories = _spelled(one["id"] for one in content["images"]), _spelled(numbers)
    named: dict[Any, set[str]] = {}
    for one in content["images"]:
        named.setdefault(one["id"], set()).add(str(one["file_name"]))
    objects: dict[Any, list[Object]] = {one["id"]: [] for one in content["images"]}
    sizes = {one["id"]: _size(one) for one in content["images"]}
    for place, one in enumerate(content["annotations"]):
        number = one["id"] if isinstance(one.get("id"), int | str) else f"number {place}"
        where = f"{file} annotation {number}"
        image = ids.get(str(one.get("image_id")))
        if image is None:
            found.faults.append(Fault(ORPHAN, where, f"image_id {one.get('image_id')}"))
            continue
        one = {**one, "category_id": categories.get(str(one.get("category_id")), one.get("category_id"))}
        read = _object(one, number, numbers, sizes[image], where, found.faults)
        if read is not None:
            objects[image].append(read)
    folder = file.parent.relative_to(images.root).as_posix() if file.is_relative_to(images.root) else ""
    for one in content["images"]:
        if len(named[one["id"]]) > 1:
            found.faults.append(Fault(SHARED_ID, f"{file} image {one['id']}", str(one["file_name"])))
            continue
        entry = images.find(str(one["file_name"]), "" if folder == "." else folder, split)
        if isinstance(entry, Entry):
            size = sizes[one["id"]]
            found.images.append(annotated(entry, split, file, objects[one["id"]], "annotation", size=size))
        else:
            found.faults.append(Fault(NO_IMAGE, f"{file} image {one['id']}", entry))


def _spelled(ids: Iterable[Any]) -> dict[str, Any]:
    """Ids by how they are spelled, for some tools write a number here and its text there; whole floats as integers."""
    found: dict[str, Any] = {}
    for one in ids:
        found.setdefault(str(one), one)
        if isinstance(one, float) and one.is_integer():
            found.setdefault(str(int(one)), one)
        elif isinstance(one, int):
            found.setdefault(str(float(one)), one)
    return found


def _size(image: Json) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _object(
    one: Json,
    number: int | str,
    numbers: Mapping[Any, int],
    size: tuple[int, int] | None,
    where: str,
    faults: list[Fault],
) -> Object | None:
    """An annotation as an object, or None where it is none; what is wrong is added to `faults`."""
    box, category = one.get("bbox"), one.get("category_id")
    if not isinstance(category, _ID) or category not in numbers:
        faults.append(Fault(UNKNOWN, where, f"category_id {category} is not among the categories"))
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        faults.append(Fault(MALFORMED, where, f"bbox {str(box)[:60]} is not [x, y, width, height]"))
        return None
    shape = None
    try:
        outline = one.get("segmentation")
        if isinstance(outline, dict) and size is not None and tuple(outline["size"]) != size:
            raise ValueError(f"a run-length code of {outline['size']}, but the image is {list(size)}")
        shape = checked(outline)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        shape = None
        faults.append(Fault(BAD_MASK, where, f"segmentation: {str(error).splitlines()[0][:120]}"))
    x, y, width, height = box
    area = one.get("area")
    known = _is_number(area) and area > 0  # type: ignore[operator]  # it is a number
    return Object(
        number,
        (x, y, x + width, y + height),
        numbers[category],
        one.get("iscrowd") in (1, "1"),  # True is 1, too
        float(area) if known else math.nan,  # type: ignore[arg-type]  # it is a number
        shape,
    )


def _is_number(value: Any) -> bool:
    """Whether it is a float, or an integer that one can hold."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST)


def find_coco(root: Path) -> list[Path]:
    """Files below `root` that look like COCO's, by what stands in them."""
    files = [root / entry.path for entry in find_files(root, lambda name: name.lower().endswith(".json"))]
    return [file for file in files if _looks_like_coco(file)]


def _looks_like_coco(file: Path) -> bool:
    try:
        content = file.read_bytes()
    except OSError:
        return False
    if not all(f'"{key}"'.encode() in content for key in ("images", "annotations", "categories")):
        return False
    return b'"bbox"' in content or re.search(rb'"annotations"\s*:\s*\[\s*\]', content) is not None


def by_split(root: Path, files: list[Path]) -> dict[str, Path]:
    """The file of each split, by the words in their paths; one without such a word is for training.

    Raises:
        UserError: there is none, or there are several of one split.
    """
    if not files:
        raise UserError(
            f"data.root={root} holds no COCO file (JSON with images, annotations and categories): "
            "give data.annotations={train: FILE.json}"
        )
    found: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: "instances" not in file.name):
        split = split_of(file.relative_to(root).as_posix()) or "train"
        taken = found.setdefault(split, file)
        if taken != file and ("instances" in taken.name) == ("instances" in file.name):
            raise UserError(
                f"{taken} and {file} both seem to be of the {split} split: "
                f"say which by data.annotations={{{split}: FILE.json, ...}}"
            )
    if "train" not in found:
        raise UserError(
            f"{next(iter(found.values()))}: there is no file to train on; give data.annotations={{train: ...}}"
        )
    return found


class Coco(BoxData):
    """Images with COCO files, wherever they lie below `root`.

    Args:
        root: the folder.
        annotations: the JSON file of each split (train, val, test), or of all images, as paths below `root`; None:
            they are found, their splits told by their paths. Splits that are not given are cut.
        common: the arguments of `BoxData`.

    Raises:
        UserError: a file is missing or of another form.
    """

    def __init__(self, root: str | Path, *, annotations: Mapping[str, str] | str | None = None, **common: Any) -> None:
        super().__init__(root, **common)
        given = {"train": annotations} if isinstance(annotations, str) else dict(annotations or {})
        self.annotations = {split: self.root / file for split, file in given.items()}
        if given and ("train" not in given or set(given) - {"train", "val", "test"}):
            raise UserError(f"data.annotations={given} must have train, and may have val and test")

    def find_objects(self) -> Annotations:
        return parse_coco(self.annotations or by_split(self.root, find_coco(self.root)), Images(self.root))
