"""A look at data before a run: what it holds, and what in it would spoil hours of training without an error."""

import math
import time
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightbed.chance import permutation
from lightbed.data.base import DataModule
from lightbed.data.boxes import BoxSource, targets_of
from lightbed.data.coding import VOID
from lightbed.data.source import Source, Subset
from lightbed.errors import UserError, first_sentence

_SECONDS = 10.0  # that a split is looked at
_APART = 16  # times the pixels from which images differ a lot in size
_UNEVEN = 100  # times as many of one class as of another from which that is told
_NAMED = 5  # classes and files that a message names
_SLACK = 1.0  # pixels that a box may lie outside by rounding

ALONE = "a mask of one class alone"


class Look(NamedTuple):
    """What was seen of a split."""

    text: str
    warnings: list[str]
    faults: list[str]  # for which a run could not go on, or would learn nonsense


class Tally:
    """What is known of the samples that were looked at.

    Args:
        data: its classes and preprocessing say what is right.
    """

    def __init__(self, data: DataModule) -> None:
        self.data, self.count = data, len(data.classes)
        self.read = 0
        self.sizes: Counter[tuple[int, ...]] = Counter()
        self.low, self.high = math.inf, -math.inf
        self.sums = torch.zeros(3, dtype=torch.float64)  # of normalised values: how many, their sum, that of squares
        self.classes = torch.zeros(self.count, dtype=torch.int64)
        self.classed = False  # whether targets tell of classes
        self.unit = "images"
        self.objects: list[int] = []  # of each image that can have several
        self.found: dict[str, list[str]] = {}  # kinds of oddities -> where
        self.wrong: list[str] = []

    def add(self, image: Tensor, target: Any, name: str) -> None:
        """Take in a sample."""
        self.read += 1
        image = image.as_subclass(Tensor)
        self.sizes[tuple(image.shape)] += 1
        if not image.numel():
            self.wrong.append(f"{name} has no pixels")
            return
        if image.is_floating_point() and not image.isfinite().all():
            self.wrong.append(f"{name} holds NaN or infinite pixels")
            return
        low, high = float(image.min()), float(image.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low == high:
            self._odd("all pixels alike", name)
        pixels = self.data.preprocess(image.clone()).double()
        self.sums += torch.tensor([pixels.numel(), float(pixels.sum()), float(pixels.square().sum())])
        for key, see in (("label", self._label), ("box", self._box), ("boxes", self._boxes), ("mask", self._mask)):
            if key in target:
                self.classed |= key != "box"
                see(target, image.shape[-2:], name)

    def _odd(self, what: str, name: str) -> None:
        self.found.setdefault(what, []).append(name)

    def _label(self, target: Any, size: Any, name: str) -> None:  # noqa: ARG002
        label = torch.as_tensor(target["label"])
        if label.ndim:
            if label.shape != (self.count,) or not bool(((label == 0) | (label == 1)).all()):
                self.wrong.append(f"{name} has labels that are not {self.count} values of 0 and 1")
                return
            self.classes += label.long()
            return
        self._count(label[None], name)

    def _count(self, labels: Tensor, name: str) -> None:
        inside = (labels >= 0) & (labels < self.count)
        if not inside.all():
            self.wrong.append(f"{name} has class {int(labels[~inside][0])}; there are 0 to {self.count - 1}")
        self.classes += torch.bincount(labels[inside].long(), minlength=self.count)

    def _box(self, target: Any, size: Any, name: str) -> None:
        self._check_boxes(torch.as_tensor(target["box"])[None], size, name)

    def _boxes(self, target: Any, size: Any, name: str) -> None:
        self.unit = "objects"
        boxes, labels = torch.as_tensor(target["boxes"]).as_subclass(Tensor), torch.as_tensor(target["labels"])
        masks = target.get("masks")
        if boxes.shape != (len(labels), 4) or (masks is not None and masks.shape != (len(labels), *size)):
            shapes = [str(list(value.shape)) for value in (boxes, labels, masks) if value is not None]
            self.wrong.append(f"{name} has boxes, labels and masks of shapes that do not fit: {', '.join(shapes)}")
            return
        self.objects.append(len(labels))
        self._count(labels, name)
        self._check_boxes(boxes, size, name)
        if masks is not None and len(masks) and not bool(masks.as_subclass(Tensor).flatten(1).any(1).all()):
            self._odd("an object whose mask is empty", name)

    def _check_boxes(self, boxes: Tensor, size: Any, name: str) -> None:
        if not boxes.isfinite().all():
            self.wrong.append(f"{name} has a box with NaN or infinite coordinates")
            return
        if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
            self._odd("a box without area", name)
        limits = boxes.new_tensor([size[1], size[0]] * 2)
        if bool(((boxes < -_SLACK) | (boxes > limits + _SLACK)).any()):
            self._odd("a box that reaches outside the image", name)

    def _mask(self, target: Any, size: Any, name: str) -> None:
        self.unit = "pixels"
        mask = torch.as_tensor(target["mask"]).as_subclass(Tensor)
        if mask.shape[-2:] != size:
            self.wrong.append(f"{name} is {list(size)} and its mask {list(mask.shape[-2:])} pixels")
            return
        known = mask[mask != VOID].long()
        inside = (known >= 0) & (known < self.count)
        if not inside.all():
            wrong, last = int(known[~inside][0]), self.count - 1
            self.wrong.append(f"{name} has class {wrong} in its mask; there are 0 to {last}, and {VOID} for void")
        counts = torch.bincount(known[inside], minlength=self.count)
        if not known.numel():
            self._odd("a mask that is all void", name)
        elif int((counts > 0).sum()) == 1:
            self._odd(ALONE, name)
        self.classes += counts


def look(data: DataModule, split: str, most: int | None) -> Look:
    """Read some images of a split, drawn at random by a fixed key, and say what is odd about them.

    Args:
        data: set up.
        split: its name.
        most: how many images, in some seconds at most; None for all, however long that takes.
    """
    source, start = data.splits[split], time.monotonic()
    order = permutation(len(source), 0, "look", split)[:most].tolist()
    tally, broken = Tally(data), []
    paths = getattr(source, "paths", None)
    for position in order:
        name = f"image {position} of {split}" if paths is None else str(paths[position])
        try:
            tally.add(*source[position], name)
        except Exception as error:
            broken.append(str(error) if isinstance(error, UserError) else f"{name}: {first_sentence(error)}")
        if most is not None and time.monotonic() - start > _SECONDS:
            break
    faults = [f"{split}: {line}" for line in tally.wrong]
    warnings: list[str] = []
    if broken:
        (warnings if data.broken == "skip" else faults).append(f"{split}: {_several(broken, 'cannot be read')}")
    if not tally.read:
        return Look(f"{len(source):,} images, none of which can be read", warnings, faults)
    counts, all_ = class_counts(source, tally)
    warnings += [f"{split}: {line}" for line in [*_images(tally), *_classes(data, split, tally, counts, all_)]]
    return Look(_text(data, split, tally, counts, all_), warnings, faults)


def class_counts(source: Source, tally: Tally) -> tuple[Tensor, bool]:
    """Images or objects of each class, int64 (K,): in the whole split where that is known without reading it, or not.

    Pixels are only known of what was looked at.
    """
    indices, inner = None, source
    while isinstance(inner, Subset):
        indices = inner.indices if indices is None else inner.indices[indices]
        inner = inner.source
    labels: Any = None
    if isinstance(inner, BoxSource) and tally.unit == "objects":
        labels = torch.cat([target["labels"] for target in targets_of(source)])
    elif isinstance(target := getattr(inner, "target", None), dict) and "label" in target:
        labels = target["label"] if indices is None else target["label"][indices]
    if labels is None or tally.wrong or (labels.ndim == 1 and len(labels) and int(labels.max()) >= tally.count):
        return tally.classes, tally.read == len(source)
    whole = labels.sum(0).long() if labels.ndim == 2 else torch.bincount(labels, minlength=tally.count)
    return whole, True


def _images(tally: Tally) -> list[str]:
    odd = {what: names for what, names in tally.found.items() if what != ALONE or len(names) == tally.read}
    lines = [_told(what, names, tally.read) for what, names in odd.items()]
    areas = [shape[-1] * shape[-2] for shape in tally.sizes]
    if max(areas) > _APART * max(min(areas), 1):
        lines.append(f"images differ a lot in size, {_sizes(tally)}: memory and seconds a step will vary as much")
    number, mean, std = _normalised(tally)
    if number and tally.high > tally.low and (abs(mean) > 3 or not 0.1 < std < 10):
        lines.append(
            f"normalised pixels have mean {mean:.2f} and deviation {std:.2f}, far from 0 and 1: "
            "are data.mean and data.std right?"
        )
    if tally.high <= 1 and number:
        lines.append("no pixel is brighter than 1 of 255: are the images scaled to 0..1 already, or black?")
    return lines


def _classes(data: DataModule, split: str, tally: Tally, counts: Tensor, all_: bool) -> list[str]:
    absent = [name for name, count in zip(data.classes, counts.tolist(), strict=True) if tally.classed and not count]
    lines = []
    if absent:
        names = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")
        what = "it cannot be learnt" if split == "train" else "its scores there say nothing"
        certain = f"no {tally.unit} of class {names}: {what}"
        lines.append(certain if all_ else f"none of the {tally.read:,} images looked at has {tally.unit} of {names}")
    there = counts[counts > 0]
    if len(there) > 1 and tally.unit != "pixels" and int(there.max()) > _UNEVEN * int(there.min()):
        lines.append(
            f"classes are uneven, {_balance(data, tally, counts)}: rare ones may not be learnt, and accuracy hides it"
        )
    if tally.objects and not sum(tally.objects):
        lines.append(f"none of the {tally.read:,} images looked at has an object")
    return lines


def _text(data: DataModule, split: str, tally: Tally, counts: Tensor, all_: bool) -> str:
    whole = len(data.splits[split])
    seen = "all" if tally.read == whole else f"{tally.read:,}"
    parts = [f"{whole:,} image{'s' * (whole != 1)}, {seen} looked at: {_sizes(tally)}"]
    if split == "train":  # others are told where they are odd
        _, mean, std = _normalised(tally)
        parts.append(f"pixels {tally.low:g} to {tally.high:g}, normalised mean {mean:.2f}, deviation {std:.2f}")
    if tally.objects:
        few, many = min(tally.objects), max(tally.objects)
        parts.append(f"{few} to {many} objects an image" if few < many else f"objects an image: {few}")
    if int(counts.sum()):
        parts.append(_balance(data, tally, counts) + ("" if all_ else " among these"))
    return "; ".join(parts)


def _balance(data: DataModule, tally: Tally, counts: Tensor) -> str:
    """`113 (8) to 130 (3) images a class`, of pixels their share."""
    low, high = int(counts.argmin()), int(counts.argmax())
    told = [f"{int(counts[i]):,}" for i in (low, high)]
    if tally.unit == "pixels":
        told = [f"{float(counts[i]) / float(counts.sum()):.1%}" for i in (low, high)]
    if len(counts) == 1:
        return f"{told[0]} {tally.unit} of class {data.classes[0]}"
    if int(counts.min()) == int(counts.max()):
        return f"{told[0]} {tally.unit} a class"
    return f"{told[0]} ({data.classes[low]}) to {told[1]} ({data.classes[high]}) {tally.unit} a class"


def _sizes(tally: Tally) -> str:
    """`3x224x224`, or the smallest and the largest."""
    shapes = sorted(tally.sizes, key=math.prod)
    ends = ["x".join(map(str, shape)) for shape in (shapes[0], shapes[-1])]
    return ends[0] if len(shapes) == 1 else f"{ends[0]} to {ends[1]}"


def _normalised(tally: Tally) -> tuple[float, float, float]:
    """How many values there are, their mean and standard deviation, as the network sees them."""
    number, total, squares = tally.sums.tolist()
    if not number:
        return 0.0, 0.0, 0.0
    mean = total / number
    return number, round(mean, 9) + 0.0, math.sqrt(max(squares / number - mean**2, 0.0))


def _told(what: str, names: list[str], read: int) -> str:
    return f"{len(names):,} of {read:,} images looked at {'have' if len(names) > 1 else 'has'} {what}, e.g. {names[0]}"


def _several(lines: list[str], what: str) -> str:
    more = f"; {len(lines)} of the images looked at {what}" if len(lines) > 1 else ""
    return f"{'; '.join(lines[:_NAMED])}{more}"
