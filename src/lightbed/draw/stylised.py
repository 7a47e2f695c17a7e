"""Content and style on the left, the image that has both on the right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lightbed.draw.figure import INK
from lightbed.draw.panel import Panel, as_pixels

_GAP = 4  # white pixels between images
_INCHES = 7.0


def stylised(image: Tensor, prediction: Any, target: Any, classes: Sequence[str]) -> Panel:  # noqa: ARG001
    """The content image, the style image below it, both at half their height, and the result."""
    result = as_pixels(prediction["image"])
    height = result.shape[0]
    parts = [image, *([target["style"]] if "style" in target else [])]
    half = (height - _GAP) // 2
    small = [
        as_pixels(F.resize(part, [half, round(half * part.shape[-1] / part.shape[-2])], antialias=True))
        for part in parts
    ]
    width = max(part.shape[1] for part in small)
    left = np.full((height, width + _GAP, 3), 255, np.uint8)
    for i, part in enumerate(small):
        top = i * (height - half)
        left[top : top + half, : part.shape[1]] = part
    return Panel(np.concatenate([left, result], axis=1), "content, style and result", INK, inches=_INCHES)
