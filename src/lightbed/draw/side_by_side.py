"""What several runs predict of one sample, in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lightbed.draw.figure import DPI, INK
from lightbed.draw.grid import image_grid
from lightbed.draw.panel import Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST, _MOST = 2.6, 4.5  # inches of a picture


def side_by_side(files: Sequence[tuple[str, Path]], title: str, *below: str) -> "Figure":
    """Pictures in rows, each with its label and with what its file says that it shows.

    Args:
        files: labels and PNG files, as `figure.save` writes them with a title.
        title: first line.
        below: further lines.
    """
    panels = []
    for label, file in files:
        with Image.open(file) as image:
            told = str(image.info.get("Title", ""))
            drawn = np.asarray(image.convert("RGB"))
        inches = min(max((drawn.shape[1] + 2.5) / DPI, _LEAST), _MOST)
        panels.append(Panel(drawn, f"{label}\n{told}" if told else label, INK, inches=inches))
    return image_grid(panels, title, *below)
