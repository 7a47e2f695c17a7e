"""Images with their objects, as every format of label files tells them, and what is wrong in such files."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightbed.data.files import Entry

Shape = list[list[float]] | dict[str, Any]
"""An object's outline: polygons [x, y, x, y, ...], or a mask run-length encoded as COCO has it, {size, counts}."""

_SLACK = 1.0  # pixels that a box may lie outside by rounding, or by counting from 1, without being a fault
_PROPORTION = 0.01  # by how much width / height may differ where an image was made smaller after it was labelled


class Fault(NamedTuple):
    """Something wrong in a label file."""

    kind: str  # in the plural, with what was done, for counting: 'boxes without area, dropped'
    where: str  # file and line
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.kind})"


NO_AREA = "boxes without area, dropped"
OUTSIDE = "boxes outside their image, dropped"
CLIPPED = "boxes partly outside their image, clipped"
NO_NUMBER = "boxes that are no finite numbers, dropped"
MALFORMED = "objects that cannot be read, dropped"
UNKNOWN = "objects of an unknown class, dropped"
NO_MASK = "objects without an outline, given their box as one"
BAD_MASK = "outlines that cannot be read, replaced by their box"
ORPHAN = "objects of images that the file does not list, dropped"
NO_IMAGE = "images that are missing, left out"
NO_LABELS = "images without a label file, left out"
UNREADABLE = "label files that cannot be read, their images left out"
UNLISTED = "lists of splits that lack images, which are left out"
RESIZED = "images of another size than their labels say, boxes scaled"
OTHER_SIZE = "images of another size than their labels say, left out"
TURNED = "images labelled before they were turned upright, boxes turned with them"
TWICE = "images in two splits, kept in the one further from training"
SHARED_ID = "images that share their id with another, left out"
AGAIN = "images labelled twice, kept once, with the labels that come first"
SAME_SPLIT = "splits that are the training split again, cut from it instead"


@dataclass
class Annotated:
    """An image with its n objects."""

    image: Entry
    split: str
    file: str = ""  # where its objects are told
    unit: str = "line"  # what `numbers` count in it
    numbers: list[int | str] = field(default_factory=list)  # line or id of each object
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))  # float64 (n, 4): xyxy in pixels
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (n,)
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # (n,): a group that is no single object
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (n,) in pixels, NaN where it is not said
    shapes: list[Shape | None] = field(default_factory=list)  # n outlines
    size: tuple[int, int] | None = None  # (height, width) as the label file says
    relative: bool = False  # boxes and polygons are fractions of width and height

    def where(self, index: int) -> str:
        """The place of an object, for messages."""
        return f"{self.file} {self.unit} {self.numbers[index]}"

    def chosen(self, keep: np.ndarray) -> "Annotated":
        """The image with those objects alone that `keep`, bool (n,), names."""
        if keep.all():
            return self
        places = keep.nonzero()[0].tolist()
        arrays = {name: getattr(self, name)[keep] for name in ("boxes", "labels", "crowd", "areas")}
        rows: dict[str, Any] = {name: [getattr(self, name)[i] for i in places] for name in ("numbers", "shapes")}
        return replace(self, **arrays, **rows)


@dataclass
class Annotations:
    """What the label files of a data set say."""

    images: list[Annotated]
    classes: list[str]
    files: list[Path]  # the label files
    faults: list[Fault] = field(default_factory=list)
    ids: list[Any] | None = None  # what the label files call each class, where that is no name


class Object(NamedTuple):
    """One object as a parser has read it."""

    number: int | str  # line or id
    box: Sequence[float]
    label: int
    crowd: bool = False
    area: float = float("nan")
    shape: Shape | None = None


def annotated(
    image: Entry, split: str, file: Path, objects: Sequence[Object], unit: str = "line", **more: Any
) -> Annotated:
    """An `Annotated` of single objects."""
    return Annotated(
        image,
        split,
        str(file),
        unit,
        [one.number for one in objects],
        np.array([one.box for one in objects], np.float64).reshape(-1, 4),
        np.array([one.label for one in objects], np.int64),
        np.array([one.crowd for one in objects], bool),
        np.array([one.area for one in objects], np.float64),
        [one.shape for one in objects],
        **more,
    )


def settle(one: Annotated, size: tuple[int, int], *, masks: bool) -> tuple[Annotated | None, list[Fault]]:
    """The image with those objects that can be learnt from, in pixels of the image as it is read.

    Boxes are clipped to the image; those without area, without numbers or outside are dropped.

    Args:
        one: as a parser has read it.
        size: the image's (height, width), upright.
        masks: an object without a shape is a fault, its box becomes its mask; else shapes are forgotten.

    Returns:
        None for an image whose labels are of another image, and what was found wrong.
    """
    height, width = size
    factors, faults = _factors(one, size)
    if factors is None:
        return None, faults
    whole = one.boxes * np.array([*factors, *factors])
    shapes = [_scaled(shape, factors) if masks else None for shape in one.shapes]
    areas = one.areas * (1.0 if one.relative else factors[0] * factors[1])
    one = replace(one, boxes=whole, shapes=shapes, areas=areas, size=size, relative=False)
    if not len(whole):
        return one, faults
    finite: np.ndarray = np.isfinite(whole).all(1)
    limits = np.array([width, height, width, height], np.float64)
    clipped = np.clip(np.where(finite[:, None], whole, 0), 0, limits)
    positive: np.ndarray = np.all(whole[:, 2:] > whole[:, :2], axis=1)
    inside: np.ndarray = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
    beyond = (np.abs(clipped - whole) > _SLACK).any(1)
    for i in np.flatnonzero(~finite | ~inside | beyond).tolist():
        kind = NO_NUMBER if not finite[i] else NO_AREA if not positive[i] else OUTSIDE if not inside[i] else CLIPPED
        box = [round(value, 2) for value in whole[i].tolist()]
        faults.append(Fault(kind, one.where(i), f"box {box} of an image of {width}x{height}"))
    kept = replace(one, boxes=clipped).chosen(finite & inside)
    return (_with_masks(kept, faults) if masks else kept), faults


def _factors(one: Annotated, size: tuple[int, int]) -> tuple[tuple[float, float] | None, list[Fault]]:
    """By what x and y in the label file are multiplied to be pixels of the image; None where they cannot be."""
    height, width = size
    if one.relative:
        return (width, height), []
    if one.size is None or min(one.size) <= 0 or one.size == size:
        return (1.0, 1.0), []
    said = f"{one.image.path} is {width}x{height} pixels, its labels are of {one.size[1]}x{one.size[0]}"
    said += " (turned by EXIF?)" if size == one.size[::-1] else ""
    factors = (width / one.size[1], height / one.size[0])
    if abs(factors[0] / factors[1] - 1) <= _PROPORTION:
        return factors, [Fault(RESIZED, one.file, said)]
    return None, [Fault(OTHER_SIZE, one.file, said)]


def _scaled(shape: Shape | None, factors: tuple[float, float]) -> Shape | None:
    if shape is None or isinstance(shape, dict) or factors == (1.0, 1.0):
        return shape
    return [(np.array(polygon).reshape(-1, 2) * factors).ravel().tolist() for polygon in shape]


def _with_masks(one: Annotated, faults: list[Fault]) -> Annotated:
    """With a rectangle for the shape of each object that has none."""
    shapes = list(one.shapes)
    for i, shape in enumerate(shapes):
        if shape is None:
            x1, y1, x2, y2 = one.boxes[i].tolist()
            shapes[i] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            faults.append(Fault(NO_MASK, one.where(i), "no outline"))
    return replace(one, shapes=shapes)


def without_twins(images: Sequence[Annotated]) -> tuple[list[Annotated], list[Fault]]:
    """The images, each once and in one split alone: in test rather than val, in val rather than train."""
    rank = {"train": 0, "val": 1, "test": 2}
    best: dict[str, str] = {}
    for one in images:
        path = one.image.path
        best[path] = max(best.get(path, one.split), one.split, key=rank.__getitem__)
    faults = [
        Fault(TWICE, one.file, f"{one.image.path} is in {one.split} and in {best[one.image.path]}")
        for one in images
        if one.split != best[one.image.path]
    ]
    first: dict[str, Annotated] = {}
    for one in images:
        if one.split == best[one.image.path] and first.setdefault(one.image.path, one) is not one:
            faults.append(Fault(AGAIN, one.file, f"{one.image.path}, also in {first[one.image.path].file}"))
    return list(first.values()), faults


def summary(faults: Iterable[Fault]) -> dict[str, int]:
    """How many faults there are of each kind, most first."""
    return dict(Counter(fault.kind for fault in faults).most_common())
