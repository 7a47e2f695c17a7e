"""One pure function a prediction kind: an image and what was predicted of it -> the drawn image and its title."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightbed.draw.figure import INK, RIGHT, WRONG


class Panel(NamedTuple):
    """One drawn image: pixels uint8 (H, W, 3), and a title in a colour that says whether all is right."""

    image: np.ndarray
    title: str
    color: str
    legend: tuple[tuple[str, str], ...] = ()  # name and #rrggbb of what colours in the image mean
    inches: float = 0.0  # width that it needs in a grid, where there is writing in the image


def as_pixels(image: Tensor) -> np.ndarray:
    """An image uint8 (C, H, W), C = 1 or 3 -> uint8 (H, W, 3)."""
    array = image.detach().cpu().expand(3, -1, -1) if image.shape[0] == 1 else image.detach().cpu()
    return np.ascontiguousarray(array.permute(1, 2, 0).numpy())


def draw(
    image: Tensor,
    prediction: Any,
    target: Any,
    classes: Sequence[str],
    colours: Mapping[str, Sequence[int]] | None = None,
) -> Panel:
    """The panel of one image, by the kind of its prediction.

    Args:
        image: uint8 (C, H, W).
        prediction: see `types.Prediction`.
        target: see `types.Target`; None or empty where the truth is not known.
        classes: class names.
        colours: RGB of classes by name, for masks of classes; what it lacks gets one of ours.
    """
    from lightbed.draw.boxes import detected  # they build on this module
    from lightbed.draw.localized import localized
    from lightbed.draw.masks import segmented
    from lightbed.draw.stylised import stylised

    if "mask" in prediction:
        return segmented(image, prediction, target or {}, classes, colours)
    for key, pictured in (("boxes", detected), ("box", localized), ("image", stylised)):
        if key in prediction:
            return pictured(image, prediction, target or {}, classes)
    kind = next(key for key in PANELS if key in prediction)
    return PANELS[kind](image, prediction, target or {}, classes)


def classified(image: Tensor, prediction: Any, target: Any, classes: Sequence[str]) -> Panel:
    """'X, right' in blue, 'not X but Y' in red; the class and its probability where the truth is not known."""
    said = _names(prediction["label"], classes)
    if "label" not in target:
        scores = prediction["scores"]
        shown = said if scores.ndim == 0 or prediction["label"].ndim else f"{said} {float(scores.max()):.0%}"
        return Panel(as_pixels(image), shown, INK)
    truth = _names(target["label"], classes)
    if said == truth:
        return Panel(as_pixels(image), f"{truth}, right", RIGHT)
    return Panel(as_pixels(image), f"not {said} but {truth}", WRONG)


def _names(label: Any, classes: Sequence[str]) -> str:
    """The name of a class index (), or the names of those labels (K,) that are over 0.5."""
    label = torch.as_tensor(label).cpu()
    if label.ndim == 0:
        return str(classes[int(label)])
    return " + ".join(str(classes[i]) for i in (label > 0.5).nonzero()[:, 0].tolist()) or "none"


PANELS: dict[str, Callable[[Tensor, Any, Any, Sequence[str]], Panel]] = {"label": classified}
"""By the key that a prediction has; the first that fits draws it, so what holds more stands before what holds less."""
