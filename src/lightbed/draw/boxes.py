"""Detections as pictures: boxes with class and score, instance masks, truth beside prediction."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from lightbed.draw.figure import DPI, INK, RIGHT, WRONG
from lightbed.draw.grid import scale
from lightbed.draw.letters import font_file, own_file
from lightbed.draw.masks import colour
from lightbed.draw.panel import Panel, as_pixels
from lightbed.metrics.coco_ap import CROWD, box_ious, shown

_SIDE = 480  # pixels of the longer side of each picture of a pair, so that what is written on it can be read
_SMALLEST = 320  # pixels of the longer side below which a picture on its own is enlarged
_GAP = 8  # white pixels between truth and prediction
_OPACITY = 0.45  # of an instance's colour
_CROWD = (122, 130, 140)
_HEAT = (255, 40, 40)
_NAMED = 4  # classes in a title
_COVERED = 0.12  # of a picture, by tags

Colour = tuple[int, int, int]


class Mark(NamedTuple):
    """What is drawn of one object."""

    box: tuple[float, ...]  # xyxy in pixels
    colour: Colour
    tag: str
    mask: np.ndarray | None = None  # bool (H, W)


def detected(image: Tensor, prediction: Any, target: Any, classes: Sequence[str]) -> Panel:
    """Truth and prediction side by side, titled with how many objects are found, and how many boxes are wrong.

    An object is found by a box of its class at IoU 0.5. Where the truth is not known: the prediction at the image's own
    size, titled with how many objects of which class it has and with the highest score. Instances have a colour each,
    the same on both sides; boxes without masks have that of their class. A score map reddens the prediction's image.
    """
    pixels = as_pixels(image)
    if "boxes" not in target:
        return Panel(marked(pixels, marks(prediction, classes), _SMALLEST), counts(prediction, classes), INK)
    boxes, labels, truth, crowd = _compared(prediction, target)
    ious = box_ious(boxes, _numpy(target["boxes"]).astype(np.float64), crowd)
    seen = shown(ious, labels, truth, crowd)
    found, wrong = int((seen == labels).sum()), int(((seen != labels) & (seen != CROWD)).sum())
    there = int((~crowd).sum())
    title = f"{found} of {there} found" if there else "no object"
    if wrong:
        title += f", {wrong} wrong"
    numbers = same_numbers(ious, len(truth))
    left = marked(pixels, marks(target, classes), _SIDE, exactly=True)
    if "score_map" in prediction:
        pixels = heated(pixels, _numpy(prediction["score_map"]))
    right = marked(pixels, marks(prediction, classes, numbers), _SIDE, exactly=True)
    gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
    pair = np.concatenate([left, gap, right], axis=1)
    color = RIGHT if found == there and not wrong else WRONG
    return Panel(pair, title, color, inches=(pair.shape[1] + 2.5) / DPI)


def heated(pixels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The image uint8 (H, W, 3), the redder the higher the scores (H, W) in 0..1 are."""
    share = 0.6 * np.clip(scores, 0, 1)[..., None]
    mixed: np.ndarray = pixels * (1 - share) + np.array(_HEAT) * share
    return mixed.round().astype(np.uint8)


def confident(prediction: Any, threshold: float) -> Any:
    """The prediction with those boxes alone that score `threshold` or more; one of another kind as it is."""
    if "boxes" not in prediction:
        return prediction
    kept = prediction["scores"] >= threshold
    return {name: values if name == "score_map" else values[kept] for name, values in prediction.items()}


def counts(prediction: Any, classes: Sequence[str]) -> str:
    """How many detections there are, of which class, and the highest score: `3 detections, highest score 0.98`."""
    labels = _numpy(prediction["labels"]).tolist()
    if not labels:
        return "no detections"
    text = f"{len(labels)} detection{'s' * (len(labels) != 1)}"
    if len(classes) > 1:
        common = Counter(labels).most_common()
        names = [f"{classes[label]} ×{count}" for label, count in common[:_NAMED]]
        text += ": " + ", ".join([*names, *(["..."] if len(common) > _NAMED else [])])
    return f"{text}, highest score {float(prediction['scores'].max()):.2f}"


def same_numbers(ious: np.ndarray, truths: int) -> list[int]:
    """A number for each detection: that of the truth it overlaps most, if by 0.5 at least, else one of its own.

    Args:
        ious: (n, m), detections from the best to the last; each truth gives its number once.
        truths: m.
    """
    numbers: list[int] = []
    free = np.ones(truths, bool)
    for row in np.where(ious >= 0.5, ious, 0.0):
        best = int((row * free).argmax()) if truths else 0
        taken = bool(truths and row[best] * free[best])
        numbers.append(best if taken else truths + len(numbers))
        if taken:
            free[best] = False
    return numbers


# -- marks -------------------------------------------------------------------------------------------------------------


def marks(objects: Any, classes: Sequence[str], numbers: Sequence[int] | None = None) -> list[Mark]:
    """What to draw of a prediction or a target, the best first.

    Args:
        objects: see `types.Prediction` and `types.Target`.
        classes: class names.
        numbers: of the instances, that colour their masks; by default from 0 on.
    """
    boxes, labels = _numpy(objects["boxes"]), _numpy(objects["labels"])
    masks = _numpy(objects["masks"]) if "masks" in objects else None
    crowd = _numpy(objects["crowd"]) if "crowd" in objects else np.zeros(len(labels), bool)
    scores = _numpy(objects["scores"]) if "scores" in objects else None
    made = []
    for i, label in enumerate(labels.tolist()):
        tag = str(classes[label])
        if scores is not None:
            tag += f" {scores[i]:.2f}"
        number = label if masks is None else i if numbers is None else numbers[i]
        tone = _CROWD if crowd[i] else colour(number)
        tag += " (not counted)" if crowd[i] else ""
        made.append(Mark(tuple(boxes[i].tolist()), tone, tag, None if masks is None else masks[i].astype(bool)))
    return made


def marked(pixels: np.ndarray, objects: Sequence[Mark], side: int, *, exactly: bool = False) -> np.ndarray:
    """The image uint8 (H, W, 3) with its objects, the first on top.

    Lines and writing grow with the picture. A tag that would cover another one is left out, and so are those of the
    lesser objects where there are very many.

    Args:
        pixels: the image.
        objects: the best first.
        side: pixels that the longer side has at least; smaller images are enlarged by a whole factor.
        exactly: pixels that it has at most, instead, and as nearly as whole factors allow.
    """
    own = pixels.shape[:2]
    if exactly:
        pixels = scale(pixels, side, side)
    elif max(own) < side:
        factor = -(-side // max(own))
        pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    high, wide = pixels.shape[:2]
    factors = (wide / own[1], high / own[0])
    line = max(2, round(max(high, wide) / 300))
    canvas = pixels.copy()
    for mark in reversed(objects):
        if mark.mask is not None:
            _tint(canvas, mark, line)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    places = [_corners(mark.box, factors, (high, wide)) for mark in objects]
    for mark, place in reversed(list(zip(objects, places, strict=True))):
        outer = (place[0] - 1, place[1] - 1, place[2] + 1, place[3] + 1)
        draw.rectangle(outer, outline=(255, 255, 255), width=line + 2)  # seen on any ground
        draw.rectangle(place, outline=mark.colour, width=line)
    _write_tags(draw, objects, places, (high, wide))
    return np.asarray(picture)


def _corners(box: tuple[float, ...], factors: tuple[float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel of a box's border, at least one pixel apart."""
    x1, x2 = (min(max(round(box[i] * factors[0]), 0), size[1] - 1) for i in (0, 2))
    y1, y2 = (min(max(round(box[i] * factors[1]), 0), size[0] - 1) for i in (1, 3))
    return x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)


def _tint(canvas: np.ndarray, mark: Mark, line: int) -> None:
    """Lay a mask's colour over its pixels, opaque along its outline."""
    mask = Image.fromarray(np.asarray(mark.mask, np.uint8) * 255)
    if mask.size != canvas.shape[1::-1]:
        mask = mask.resize(canvas.shape[1::-1], Image.Resampling.BILINEAR)
    there = np.asarray(mask) >= 128
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    if not len(rows):
        return
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    inside = np.pad(there[part], 1)  # so that an edge of the image is an outline, too
    core = Image.fromarray(inside).convert("L").filter(ImageFilter.MinFilter(2 * (line // 2) + 1))
    edge = (inside & (np.asarray(core) == 0))[1:-1, 1:-1]
    opacity = np.where(edge, 1.0, np.where(there[part], _OPACITY, 0.0))[..., None]
    mixed = canvas[part] * (1 - opacity) + np.array(mark.colour) * opacity
    canvas[part] = mixed.round().astype(np.uint8)


def _write_tags(
    draw: ImageDraw.ImageDraw, objects: Sequence[Mark], places: Sequence[tuple[int, ...]], size: tuple[int, int]
) -> None:
    """Each object's tag at its box, where it covers no tag of a better one, as long as the image is to be seen."""
    letters = max(11, round(max(size) / 44))
    above, below = _font(own_file(), letters).getmetrics()
    taken: list[tuple[float, ...]] = []
    height, room = above + below + 1, _COVERED * size[0] * size[1]
    for mark, (x1, y1, x2, y2) in zip(objects, places, strict=True):
        if not mark.tag:
            continue
        file, tag = font_file(mark.tag)
        font = _font(file, letters)
        width = font.getlength(tag) + 6
        spots = [(x1, y1 - height), (x1, y2 + 1), (x2 - width, y1 - height), (x2 - width, y2 + 1), (x1, y1),
                 (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)]  # fmt: skip
        for left, top in spots:
            left = min(max(left, 0), max(size[1] - width, 0))
            if top < 0 or top + height > size[0]:
                continue
            spot = (left, top, left + width, top + height)
            if not any(spot[0] < t[2] and t[0] < spot[2] and spot[1] < t[3] and t[1] < spot[3] for t in taken):
                room -= width * height
                if room < 0:
                    return
                taken.append(spot)
                draw.rectangle(spot, fill=mark.colour)
                draw.text((left + 3, top), tag, font=font, fill=_ink(mark.colour))
                break


def _ink(ground: Colour) -> Colour:
    """Black or white, whichever is read better on a colour."""
    bright = 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2]
    return (0, 0, 0) if bright > 140 else (255, 255, 255)


@lru_cache(maxsize=8)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def _compared(prediction: Any, target: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes and labels that are predicted, labels and crowds that are true."""
    truth = _numpy(target["labels"])
    crowd = _numpy(target["crowd"]).astype(bool) if "crowd" in target else np.zeros(len(truth), bool)
    return _numpy(prediction["boxes"]).astype(np.float64), _numpy(prediction["labels"]), truth, crowd


def _numpy(values: Any) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array
