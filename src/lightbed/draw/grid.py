"""Many titled images in one picture, and one with a caption."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lightbed.draw.figure import (
    DPI,
    FAINT,
    INK,
    fit_titles,
    grid_columns,
    headline,
    new_figure,
    pixels,
    shorten,
    text_width,
)
from lightbed.draw.panel import Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FRAME = 228  # grey of the line around an image
_LINE, _GAP, _HEAD = 0.15, 0.12, 0.9  # inches: a line of a title, between cells, above all
_KEY = 0.22  # inches: a row of the legend
_NARROWEST, _WIDEST = 1.5, 100.0  # inches of writing beside an image alone; matplotlib draws up to 65,535 pixels
_STRIP = 0.45  # height over width of images that stand in two columns at most: several pictures side by side


def image_grid(panels: Sequence[Panel], title: str, *below: str) -> "Figure":
    """Panels in rows from the upper left, as square a grid as can be: 36 become 6 x 6.

    Pixels are placed one to one, without axes: a grid of 36 axes takes matplotlib seconds. Small images are enlarged by
    whole factors, so that their pixels stay sharp squares.
    """
    shape = float(np.median([panel.image.shape[0] / panel.image.shape[1] for panel in panels]))
    least = max(panel.inches for panel in panels)
    columns, cell = _columns(len(panels), shape, least)
    rows = -(-len(panels) // columns)
    # the cell takes the images' shape, within reason
    high = cell * min(max(shape, 0.5 if columns > 2 else 0.15), 1.6)
    if least:  # pixel for pixel inside of the frame
        high = (cell - 2 / DPI) * shape + 2.5 / DPI
    titles, size = fit_titles(new_figure(1, 1), [panel.title for panel in panels], cell)
    strip = 0.08 + _LINE * (2 if any("\n" in text for text in titles) else 1)
    step = (cell + _GAP, high + strip + _GAP)
    width = max(columns * step[0], 3.6) + 0.4 - _GAP
    names = _legend_rows([entry for panel in panels for entry in panel.legend], width)
    figure = new_figure(width, rows * step[1] + _HEAD + 0.1 + _KEY * len(names))
    headline(figure, title, *below)
    _draw_legend(figure, names)
    tall = figure.get_figheight()
    for i, (panel, text) in enumerate(zip(panels, titles, strict=True)):
        left = 0.2 + (i % columns) * step[0]
        top = tall - _HEAD - (i // columns) * step[1] - strip  # upper edge of the image
        image = scale(panel.image, int(high * DPI) - 2, int(cell * DPI) - 2)
        image = np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=_FRAME)  # white pictures end somewhere, too
        x = left + (cell - image.shape[1] / DPI) / 2
        figure.figimage(image, xo=round(x * DPI), yo=round(top * DPI) - image.shape[0], origin="upper")
        _write(figure, text, left + cell / 2, top + 0.07, size, panel.color)
    return figure


def _columns(count: int, shape: float, least: float) -> tuple[int, float]:
    """Columns, and a cell's width in inches, of `count` images of that height over width; strips stand in two.

    Those that are `least` inches wide fill a width of 14 inches.
    """
    if least:
        return max(1, min(grid_columns(count), int(14 / least))), least
    if shape < _STRIP:
        return min(count, 2), 6.6
    columns = grid_columns(count)
    return columns, 1.75 if columns > 2 else 2.6


def _legend_rows(
    entries: Sequence[tuple[str, str]], width: float, zoom: float = 1.0
) -> list[list[tuple[float, str, str]]]:
    """Place in inches, name and colour of each different entry, in rows of at most `width` inches."""
    rows: list[list[tuple[float, str, str]]] = []
    x = width
    figure = new_figure(1, 1)
    for entry, color in dict.fromkeys(entries):
        name = shorten(figure, entry, width - 0.55 * zoom, 8.5 * zoom)
        wide = text_width(figure, name, 8.5 * zoom) + 0.45 * zoom
        if x + wide > width - 0.1:
            rows.append([])
            x = 0.2 * zoom
        rows[-1].append((x, name, color))
        x += wide
    return rows


def _draw_legend(figure: "Figure", rows: Sequence[Sequence[tuple[float, str, str]]], zoom: float = 1.0) -> None:
    """A patch and a name for each entry, at the figure's lower edge."""
    from matplotlib.patches import Rectangle

    wide, tall = figure.get_size_inches()
    for i, row in enumerate(rows):
        y = (0.09 + _KEY * (len(rows) - 1 - i)) * zoom
        for x, name, color in row:
            corner, side = (x / wide, y / tall), 0.14 * zoom
            figure.add_artist(Rectangle(corner, side / wide, side / tall, facecolor=color, edgecolor=FAINT, lw=0.5))
            place = ((x + 0.2 * zoom) / wide, (y + 0.02 * zoom) / tall)
            figure.text(*place, name, size=8.5 * zoom, color=INK, parse_math=False)


def _write(figure: "Figure", text: str, x: float, y: float, size: float, color: str, line: float = _LINE) -> None:
    """Lines centred at `x` inches, the last one's baseline at `y`; so that baselines of neighbours are level."""
    wide, tall = figure.get_size_inches()
    for i, words in enumerate(reversed(text.split("\n"))):
        figure.text(x / wide, (y + i * line) / tall, words, size=size, color=color, ha="center", parse_math=False)


def scale(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image uint8 (H, W, 3) as large as fits into (height, width), its proportions kept."""
    factor = min(height / image.shape[0], width / image.shape[1])
    if factor >= 2:
        whole = int(factor)
        return image.repeat(whole, axis=0).repeat(whole, axis=1)
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def captioned(panel: Panel, smallest: int = 320) -> np.ndarray:
    """One panel as an image uint8 (H, W, 3): at its own size, its title above, larger on larger images.

    An image whose longer side fits twice or more into `smallest` is enlarged by a whole factor. Only the writing is a
    figure, for matplotlib would need forty times the memory of a large image.
    """
    longest, shortest = max(panel.image.shape[:2]), min(panel.image.shape[:2])
    image = panel.image if 2 * longest > smallest else scale(panel.image, smallest, smallest)
    width = min(max(image.shape[1] / DPI, _NARROWEST), _WIDEST)
    zoom = max(1.0, min(longest / 1200, shortest / 150))
    (text,), size = fit_titles(new_figure(1, 1), [panel.title], width - 0.1, largest=10 * zoom, smallest=6 * zoom)
    head = new_figure(width, zoom * (0.1 + _LINE * (text.count("\n") + 1)))
    _write(head, text, width / 2, 0.09 * zoom, size, panel.color, _LINE * zoom)
    parts = [pixels(head), image]
    if names := _legend_rows(panel.legend, width, zoom):
        foot = new_figure(width, zoom * (_KEY * len(names) + 0.12))
        _draw_legend(foot, names, zoom)
        parts.append(pixels(foot))
    return _stacked(parts)


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Images uint8 (H, W, 3) one below the other, each in the middle of what the widest takes, on white."""
    stack = np.full((sum(part.shape[0] for part in parts), max(part.shape[1] for part in parts), 3), 255, np.uint8)
    top = 0
    for part in parts:
        left = (stack.shape[1] - part.shape[1]) // 2
        stack[top : top + part.shape[0], left : left + part.shape[1]] = part
        top += part.shape[0]
    return stack
