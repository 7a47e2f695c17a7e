"""Many titled images in one picture, and one with a caption."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lightbed.draw.figure import DPI, fit_titles, grid_columns, headline, new_figure, pixels
from lightbed.draw.panels import Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE, _GAP, _HEAD = 0.15, 0.12, 0.9  # inches: a line of a title, between cells, above all


def image_grid(panels: Sequence[Panel], title: str, *below: str) -> "Figure":
    """Panels in rows from the upper left, as square a grid as can be: 36 become 6 x 6.

    Pixels are placed one to one, without axes: a grid of 36 axes takes matplotlib seconds. Small images are enlarged by
    whole factors, so that their pixels stay sharp squares.
    """
    columns = grid_columns(len(panels))
    rows = -(-len(panels) // columns)
    cell = 1.75 if columns > 2 else 2.6
    # the cell takes the images' shape, within reason
    shape = float(np.median([panel.image.shape[0] / panel.image.shape[1] for panel in panels]))
    high = cell * min(max(shape, 0.5), 1.6)
    titles, size = fit_titles(new_figure(1, 1), [panel.title for panel in panels], cell)
    strip = 0.08 + _LINE * (2 if any("\n" in text for text in titles) else 1)
    step = (cell + _GAP, high + strip + _GAP)
    figure = new_figure(max(columns * step[0], 3.6) + 0.4 - _GAP, rows * step[1] + _HEAD + 0.1)
    headline(figure, title, *below)
    tall = figure.get_figheight()
    for i, (panel, text) in enumerate(zip(panels, titles, strict=True)):
        left = 0.2 + (i % columns) * step[0]
        top = tall - _HEAD - (i // columns) * step[1] - strip  # upper edge of the image
        image = scale(panel.image, int(high * DPI), int(cell * DPI))
        x = left + (cell - image.shape[1] / DPI) / 2
        figure.figimage(image, xo=round(x * DPI), yo=round(top * DPI) - image.shape[0], origin="upper")
        _write(figure, text, left + cell / 2, top + 0.07, size, panel.color)
    return figure


def _write(figure: "Figure", text: str, x: float, y: float, size: float, color: str) -> None:
    """Lines centred at `x` inches, the last one's baseline at `y`; so that baselines of neighbours are level."""
    wide, tall = figure.get_size_inches()
    for i, line in enumerate(reversed(text.split("\n"))):
        figure.text(x / wide, (y + i * _LINE) / tall, line, size=size, color=color, ha="center", parse_math=False)


def scale(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image uint8 (H, W, 3) as large as fits into (height, width), its proportions kept."""
    factor = min(height / image.shape[0], width / image.shape[1])
    if factor >= 2:
        whole = int(factor)
        return image.repeat(whole, axis=0).repeat(whole, axis=1)
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def captioned(panel: Panel, smallest: int = 320) -> np.ndarray:
    """One panel with its title above as an image uint8 (H, W, 3); enlarged if both sides are under `smallest`."""
    longest = max(panel.image.shape[:2])
    image = panel.image if longest >= smallest else scale(panel.image, smallest, smallest)
    height, width = image.shape[0] / DPI, max(image.shape[1] / DPI, 1.5)
    (text,), size = fit_titles(new_figure(1, 1), [panel.title], width - 0.1, largest=10)
    strip = 0.1 + _LINE * (text.count("\n") + 1)
    figure = new_figure(width, height + strip)
    figure.figimage(image, xo=round((width * DPI - image.shape[1]) / 2), yo=0, origin="upper")
    _write(figure, text, width / 2, height + 0.09, size, panel.color)
    return pixels(figure)
