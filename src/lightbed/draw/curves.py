"""curves.png: loss and main metric over the epochs."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightbed.draw.figure import BEST, FAINT, INK, LINES, TRAIN, VAL, headline, new_figure, place
from lightbed.runs.history import best_epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, float]]
_STAGES = (("train", "training", TRAIN), ("val", "validation", VAL))


def main_metric(rows: Rows, monitor: str) -> str | None:
    """The metric drawn beside the loss: the monitored one or, where that is a loss, the first other one there is."""
    names = {name for row in rows for name in row}
    wanted = monitor.partition("/")[2]
    if "loss" not in wanted:
        return wanted
    others = sorted(n.partition("/")[2] for n in names if n.split("/")[0] in ("train", "val") and "loss" not in n)
    return others[0] if others else None


def curves(rows: Rows, monitor: str, mode: str, name: str) -> "Figure":
    """Loss and main metric over epochs, training and validation in one plot each, the best epoch marked.

    Args:
        rows: at least one epoch.
        monitor: logged name that chooses the best epoch.
        mode: 'max' or 'min', which is better.
        name: of the run.
    """
    best = best_epoch(rows, monitor, mode)
    metric = main_metric(rows, monitor)
    panels = ["loss", *([metric] if metric else [])]
    figure = new_figure(5.2 * len(panels) + 0.2, 4.5)
    epochs = f"{len(rows)} epoch{'s' * (len(rows) != 1)}"
    value = next((row[monitor] for row in rows if row["epoch"] == best), math.nan)
    chosen = f"best epoch {best + 1} ({monitor} {value:.4f})" if best is not None else f"no {monitor}, so no best epoch"
    headline(figure, name, f"{epochs}, {chosen}")
    for i, panel in enumerate(panels):
        axes = place(figure, 0.75 + 5.2 * i, 0.55, 4.3, 2.95)
        _plot(axes, rows, panel, best)
    return figure


def _plot(axes: "Axes", rows: Rows, metric: str, best: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] + 1 for row in rows]
    drawn = False
    for stage, label, color in _STAGES:
        values = [_finite(row.get(f"{stage}/{metric}", math.nan)) for row in rows]
        if all(math.isnan(value) for value in values):
            continue
        drawn = True
        marker = "o" if len(rows) <= 30 else ""  # a single epoch, or one between two NaN, shows as a dot alone
        axes.plot(epochs, values, color=color, label=label, linewidth=1.8, marker=marker, markersize=3.5, zorder=3)
        if best is not None:
            at = values[[row["epoch"] for row in rows].index(best)]
            axes.plot([best + 1], [at], "o", color=color, markersize=7, markeredgecolor="white", zorder=4)
    if not drawn:
        axes.text(0.5, 0.5, f"no finite {metric}", ha="center", va="center", color=FAINT, transform=axes.transAxes)
    if best is not None:
        axes.axvline(best + 1, color=BEST, linewidth=1.2, linestyle=(0, (4, 3)), label=f"best: {best + 1}", zorder=2)
    axes.set_title(metric.replace("_", " "), loc="left", size=11, color=INK)
    axes.set_xlabel("epoch", size=9, color=INK)
    axes.set_ylabel(metric.replace("_", " "), size=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    pad = max(0.5 if len(rows) == 1 else 0.0, 0.02 * (epochs[-1] - epochs[0]))
    axes.set_xlim(epochs[0] - pad, epochs[-1] + pad)
    axes.grid(color=LINES, linewidth=0.8)
    axes.set_axisbelow(True)
    if drawn or best is not None:
        # above the plot, where no curve can run under it
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=3, fontsize=8, frameon=False, labelcolor=INK,
                    handlelength=1.6, columnspacing=1.2, borderaxespad=0.2)  # fmt: skip


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
