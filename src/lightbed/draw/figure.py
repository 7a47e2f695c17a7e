"""Figures without pyplot's global state: one look for all, and text that fits its place."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightbed.draw.letters import families, spelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, FAINT, LINES = "#1f2933", "#66727f", "#e3e7ec"
RIGHT, WRONG = "#1f5fc4", "#cf2e2e"
TRAIN, VAL, BEST = "#1f5fc4", "#e8760a", "#12855f"
# ten that stay apart, also for most colour-blind eyes (after Tableau 10)
SERIES = ("#1f5fc4", "#e8760a", "#12855f", "#cf2e2e", "#8457c2", "#8a5a44", "#d864a9", "#7a828c", "#a8a516", "#17a3b8")


def new_figure(width: float, height: float) -> "Figure":
    """A white figure of this size in inches, with a canvas of its own."""
    # matplotlib takes as long to import as a small network to train; it is loaded when something is drawn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def pixels(figure: "Figure") -> np.ndarray:
    """The figure as an image uint8 (H, W, 3)."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_fontfamily(families(text.get_text()))
            text.set_text(spelled(text.get_text()))
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(image: np.ndarray, path: Path, title: str = "") -> None:
    """Write an image uint8 (H, W, 3) as PNG, in one piece; what it shows can be told in the file as its Title."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    if title:
        told.add_itxt("Title", title)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    Image.fromarray(image).save(beside, format="PNG", dpi=(DPI, DPI), pnginfo=told)
    beside.replace(path)


def headline(figure: "Figure", title: str, *below: str) -> None:
    """A title in the figure's upper left corner and fainter lines below it, each shortened to the figure's width.

    It takes 0.27 inches, and 0.2 for each line below.
    """
    wide, high = figure.get_size_inches()
    lines = [
        (title, 13, 0.16, INK, "bold"),
        *((text, 9, 0.43 + 0.2 * i, FAINT, "normal") for i, text in enumerate(below)),
    ]
    for text, size, top, color, weight in lines:
        shown = shorten(figure, text, wide - 0.4, size, weight=weight)
        figure.text(
            0.2 / wide, 1 - top / high, shown, size=size, color=color, weight=weight, va="top", parse_math=False
        )


def place(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes at this place, in inches from the figure's lower left corner, in the common look."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high))
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=8, length=3)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(FAINT)
    return axes


# -- text that fits ----------------------------------------------------------------------------------------------------


def text_width(figure: "Figure", text: str, size: float, **style: Any) -> float:
    """Width in inches of the widest line of `text`."""
    from matplotlib.font_manager import FontProperties

    canvas: Any = figure.canvas
    measure, text = canvas.get_renderer().get_text_width_height_descent, spelled(text)
    font = FontProperties(family=families(text), size=size, **style)
    return max(float(measure(line, font, False)[0]) for line in text.split("\n")) / DPI


def shorten(figure: "Figure", text: str, width: float, size: float, **style: Any) -> str:
    """One line of `text` cut to `width` inches, an ellipsis where something is missing."""
    if text_width(figure, text, size, **style) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        fits = text_width(figure, text[:middle].rstrip() + "…", size, **style) <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…"


def shorten_apart(figure: "Figure", texts: Sequence[str], width: float, size: float) -> list[str]:
    """Each line cut to `width` inches; in the middle where cut ends would make different ones alike."""
    cut = [shorten(figure, text, width, size) for text in texts]
    if len(set(cut)) == len(set(texts)):
        return cut
    ends = [shorten(figure, text[::-1], width / 2, size)[::-1] for text in texts]
    heads = [shorten(figure, text, width / 2, size) for text in texts]
    pieces = zip(texts, cut, heads, ends, strict=True)
    return [text if text == short else f"{head[:-1]}{end}" for text, short, head, end in pieces]


def wrap(figure: "Figure", text: str, width: float, size: float) -> str | None:
    """`text` in one line or, broken at a space as evenly as can be, in two that fit `width` inches; else None."""
    if text_width(figure, text, size) <= width:
        return text
    words = text.split(" ")
    broken = [f"{' '.join(words[:i])}\n{' '.join(words[i:])}" for i in range(1, len(words))]
    if not broken:
        return None
    widths = [text_width(figure, candidate, size) for candidate in broken]
    narrowest = widths.index(min(widths))
    return broken[narrowest] if widths[narrowest] <= width else None


def fit_titles(
    figure: "Figure", titles: Sequence[str], width: float, largest: float = 9, smallest: float = 6
) -> tuple[list[str], float]:
    """All titles in at most two lines of `width` inches, and the largest common size that allows it.

    What does not even fit at the smallest size is cut, in two lines where it says 'not X but Y'.
    """
    for size in np.arange(largest, smallest, -0.5):
        wrapped = [wrap(figure, title, width, float(size)) for title in titles]
        if all(title is not None for title in wrapped):
            return [str(title) for title in wrapped], float(size)
    return [wrap(figure, title, width, smallest) or _cut(figure, title, width, smallest) for title in titles], smallest


def _cut(figure: "Figure", title: str, width: float, size: float) -> str:
    head, but, tail = title.partition(" but ")
    lines = [head, f"but {tail}"] if but else [title]
    return "\n".join(shorten(figure, line, width, size) for line in lines)


def grid_columns(count: int, most: int = 10) -> int:
    """Columns of a grid of `count` cells, about as many as rows: 6 for 36."""
    return max(1, min(most, math.ceil(math.sqrt(count))))
