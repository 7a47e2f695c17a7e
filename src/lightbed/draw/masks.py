"""A class for each pixel as pictures: colours of classes, overlays, errors."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lightbed.draw.figure import INK
from lightbed.draw.panel import Panel, as_pixels

VOID = 255
Colours = Mapping[str, Sequence[int]]
_VOID_COLOUR = (255, 255, 255)
_GROUND = (38, 43, 51)  # of a class that is called background
_WRONG = (214, 39, 40)
_GAP = 4  # white pixels between the pictures of a strip, of images 256 pixels high
_NAMED = 4  # classes in a title
# hues in steps of 0.29 of a turn, with four pairs of brightness and saturation: of many tried, these keep 24 apart best
# and, begun at blue, away from the red of errors
_FIRST, _TURN, _TONES = 0.61, 0.29, ((1.0, 0.95), (0.5, 0.95), (0.95, 0.4), (0.7, 0.6))


def colour(number: int) -> tuple[int, int, int]:
    """Red, green and blue of the class or instance of this number, in 0..255."""
    bright, strong = _TONES[number % len(_TONES)]
    red, green, blue = (
        round(255 * part) for part in colorsys.hsv_to_rgb((_FIRST + number * _TURN) % 1, strong, bright)
    )
    return red, green, blue


def palette(classes: Sequence[str], own: Colours | None = None) -> np.ndarray:
    """A colour for each class, uint8 (256, 3); `own` has RGB by name, and what it lacks gets one of ours."""
    colours = np.zeros((256, 3), np.uint8)
    for i, name in enumerate(classes):
        colours[i] = (own or {}).get(name, _GROUND if i == 0 and name == "background" else colour(i))
    colours[VOID] = _VOID_COLOUR
    return colours


def coloured(mask: Any, classes: Sequence[str], own: Colours | None = None) -> np.ndarray:
    """A mask of classes (H, W) in the classes' colours, uint8 (H, W, 3); void is white."""
    colours: np.ndarray = palette(classes, own)[_array(mask)]
    return colours


def overlay(
    image: np.ndarray, mask: Any, classes: Sequence[str], own: Colours | None = None, opacity: float = 0.55
) -> np.ndarray:
    """The image uint8 (H, W, 3) under the colours of its mask (H, W); a class called background is left clear."""
    classed, colours = _array(mask), palette(classes, own)
    clear = 0 if classes and classes[0] == "background" else VOID
    drawn = image.copy()
    for row, labels in zip(drawn, classed, strict=True):  # a row at a time: large images need no larger copies
        mixed = (row * (1 - opacity) + colours[labels] * opacity).round()
        row[labels != clear] = mixed[labels != clear]
    return drawn


def errors(image: np.ndarray, mask: Any, truth: Any) -> np.ndarray:
    """Wrong pixels red on the faded grey image, void ones white; uint8 (H, W, 3)."""
    predicted, true = _array(mask), _array(truth)
    drawn = np.repeat(image.mean(2, keepdims=True) * 0.35 + 140, 3, axis=2)
    drawn[(predicted != true) & (true != VOID)] = _WRONG
    drawn[true == VOID] = _VOID_COLOUR
    return drawn.round().astype(np.uint8)


def segmented(image: Tensor, prediction: Any, target: Any, classes: Sequence[str], own: Colours | None = None) -> Panel:
    """Image, truth, prediction and errors side by side, titled with the image's pixel accuracy.

    Where the truth is not known: the prediction laid over the image, titled with the shares of its classes.
    """
    pixels, mask = as_pixels(image), _array(prediction["mask"])
    if "mask" not in target:
        found = class_shares(mask, classes)
        shares = [f"{name} {share:.0%}" for name, share in found.items()]
        more = [f"and {len(shares) - _NAMED} more"] if len(shares) > _NAMED else []
        present = _legend(classes, [i for i, name in enumerate(classes) if name in found], own)
        return Panel(overlay(pixels, mask, classes, own), ", ".join([*shares[:_NAMED], *more]), INK, present)
    truth = _array(target["mask"])
    parts = [pixels, coloured(truth, classes, own), coloured(mask, classes, own), errors(pixels, mask, truth)]
    valid = truth != VOID
    right = f"pixel accuracy {(mask == truth)[valid].mean():.1%}" if valid.any() else "all void"
    legend = _legend(classes, [*range(len(classes)), *([VOID] if not valid.all() else [])], own)
    return Panel(_strip(parts), right, INK, legend)


def save_mask(mask: Any, classes: Sequence[str], path: Path, own: Colours | None = None) -> None:
    """Write a mask (H, W) as a PNG whose values are the classes, with their colours as its palette."""
    picture = Image.fromarray(_array(mask).astype(np.uint8), "P")
    picture.putpalette(palette(classes, own).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def class_shares(mask: Any, classes: Sequence[str]) -> dict[str, float]:
    """The share of the pixels of a mask (H, W) that each class has, the largest first, without those it lacks."""
    counts = np.zeros(len(classes), np.int64)
    for row in _array(mask):  # a row at a time: counting takes eight bytes a pixel
        counts += np.bincount(row, minlength=len(classes))[: len(classes)]
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    return {str(classes[i]): float(counts[i] / np.asarray(mask).size) for i in order}


def _legend(
    classes: Sequence[str], labels: Sequence[int] | np.ndarray, own: Colours | None
) -> tuple[tuple[str, str], ...]:
    """Name and colour of each of these classes, and of void."""
    colours, names = palette(classes, own), {**dict(enumerate(classes)), VOID: "void"}
    return tuple((str(names[int(i)]), "#{:02x}{:02x}{:02x}".format(*colours[int(i)])) for i in labels)


def _strip(parts: Sequence[np.ndarray]) -> np.ndarray:
    height = parts[0].shape[0]
    gap = np.full((height, max(1, round(_GAP * height / 256)), 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)


def _array(mask: Any) -> np.ndarray:
    array: np.ndarray = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    return array
