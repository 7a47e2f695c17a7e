"""One pure function a prediction kind: an image and what was predicted of it -> the drawn image and its title."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightbed.draw.boxes import detected
from lightbed.draw.figure import INK, RIGHT, WRONG
from lightbed.draw.localized import localized
from lightbed.draw.masks import segmented
from lightbed.draw.panel import Panel, as_pixels
from lightbed.draw.stylised import stylised


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
    if "mask" in prediction:
        return segmented(image, prediction, target or {}, classes, colours)
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


PANELS: dict[str, Callable[[Tensor, Any, Any, Sequence[str]], Panel]] = {
    "boxes": detected,
    "box": localized,
    "image": stylised,
    "label": classified,
}
"""By the key that a prediction has; the first that fits draws it, so what holds more stands before what holds less."""
