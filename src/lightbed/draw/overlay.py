"""Curves of many runs in one picture."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lightbed.draw.figure import FAINT, INK, LINES, SERIES, headline, new_figure, place, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#c3cad2"
_WIDE, _HIGH, _STEP = 5.2, 3.3, 6.0  # inches of a plot, and from one to the next


class Line(NamedTuple):
    """The histories of one row of a table: one run, or several of one setting."""

    label: str
    histories: Sequence[Sequence[Mapping[str, float]]]


def overlay(lines: Sequence[Line], metrics: Sequence[str], title: str) -> "Figure":
    """Each metric over the epochs, all lines in one plot: validation solid, training dashed.

    The first lines, at most ten, have a colour and stand in the legend; further ones are grey.

    Args:
        lines: the best first.
        metrics: names without their stage, a plot each.
        title: first line.
    """
    named = min(len(lines), len(SERIES))
    foot = 0.75 + 0.22 * named + (0.22 if len(lines) > named else 0)
    figure = new_figure(_STEP * len(metrics) + 0.3, _HIGH + foot + 0.95)
    headline(figure, title, "solid: validation, dashed: training")
    for i, metric in enumerate(metrics):
        axes = place(figure, 0.75 + _STEP * i, foot, _WIDE, _HIGH)
        _plot(axes, lines, metric)
    wide, high = figure.get_size_inches()
    for i, line in enumerate(lines[:named]):
        y = (foot - 0.62 - 0.22 * i) / high
        text = shorten(figure, line.label, wide - 1.4, 8.5)
        figure.text(0.75 / wide, y, "━━", size=9, color=SERIES[i], va="center", weight="bold")
        figure.text(1.15 / wide, y, text, size=8.5, color=INK, va="center", parse_math=False)
    if len(lines) > named:
        y = (foot - 0.62 - 0.22 * named) / high
        figure.text(1.15 / wide, y, f"and {len(lines) - named} more in grey", size=8.5, color=FAINT, va="center")
    return figure


def _plot(axes: "Axes", lines: Sequence[Line], metric: str) -> None:
    from matplotlib.ticker import MaxNLocator

    longest = max((len(history) for line in lines for history in line.histories), default=0)
    marker = "o" if longest <= 30 else ""  # a single epoch shows as a dot alone
    for i, line in reversed(list(enumerate(lines))):  # the best on top
        color, over = (SERIES[i], 3) if i < len(SERIES) else (_GREY, 2)
        for history in line.histories:
            for stage, style, width in (("train", (0, (3, 2)), 1.0), ("val", "solid", 1.6)):
                values = [(row["epoch"] + 1, row.get(f"{stage}/{metric}", math.nan)) for row in history]
                points = [(epoch, value) for epoch, value in values if math.isfinite(value)]
                if points:
                    axes.plot(*zip(*points, strict=True), color=color, linestyle=style, linewidth=width, marker=marker,
                              markersize=2.5, zorder=over, alpha=0.9)  # fmt: skip
    if not axes.lines:
        axes.text(0.5, 0.5, f"no finite {metric}", ha="center", va="center", color=FAINT, transform=axes.transAxes)
    axes.set_title(metric.replace("_", " "), loc="left", size=11, color=INK)
    axes.set_xlabel("epoch", size=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color=LINES, linewidth=0.8)
    axes.set_axisbelow(True)
