"""One drawn image with its title: what every drawing of a prediction ends in."""

from typing import NamedTuple

import numpy as np
from torch import Tensor


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
