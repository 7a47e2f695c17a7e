"""The one object of an image: true and predicted box in one picture."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightbed.draw.boxes import Mark, marked
from lightbed.draw.figure import INK, RIGHT, WRONG
from lightbed.draw.masks import colour
from lightbed.draw.panel import Panel, as_pixels
from lightbed.metrics.localization import IOU, paired_iou

_TRUTH, _FOUND = (46, 204, 113), (255, 159, 28)  # seen on photographs, and by most colour-blind eyes, apart
_SIDE = 260  # pixels of the longer side in a grid
_SMALLEST = 320  # pixels of the longer side below which a picture on its own is enlarged


def localized(image: Tensor, prediction: Any, target: Any, classes: Sequence[str]) -> Panel:
    """Both boxes, titled `X, IoU 0.83`: blue where the class is right and the IoU over 0.5, else red.

    Where the truth is not known: the predicted box with its class and probability.
    """
    pixels, name = as_pixels(image), str(classes[int(prediction["label"])])
    box, score = tuple(prediction["box"].tolist()), float(prediction["scores"].max())
    if "box" not in target:
        mark = Mark(box, colour(int(prediction["label"])), f"{name} {score:.2f}")
        return Panel(marked(pixels, [mark], _SMALLEST), f"{name} {score:.0%}", INK)
    truth = str(classes[int(target["label"])])
    iou = float(paired_iou(prediction["box"][None].cpu(), torch.as_tensor(target["box"])[None].cpu()))
    marks = [Mark(box, _FOUND, ""), Mark(tuple(target["box"].tolist()), _TRUTH, "")]
    title = f"{name}, IoU {iou:.2f}" if name == truth else f"not {name} but {truth}, IoU {iou:.2f}"
    right = name == truth and iou > IOU
    legend = (("truth", _hex(_TRUTH)), ("prediction", _hex(_FOUND)))
    return Panel(marked(pixels, marks, _SIDE, exactly=True), title, RIGHT if right else WRONG, legend)


def _hex(tone: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in tone)
