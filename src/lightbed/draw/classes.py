"""Pictures of a classifier's results: confusion matrix, precision-recall curves, scores of labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightbed.draw.figure import (
    FAINT,
    INK,
    LINES,
    RIGHT,
    SERIES,
    WRONG,
    headline,
    new_figure,
    place,
    shorten,
    shorten_apart,
    text_width,
)
from lightbed.draw.letters import spelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WITH_COUNTS = 25  # classes; with more, cells are too small for a number
_NAMED = 10  # curves that a legend names
_HEAD = 1.0  # inches above the plot


def confusion_matrix(
    matrix: np.ndarray,
    classes: Sequence[str],
    title: str,
    *below: str,
    counted: str = "images",
    background: bool = False,
) -> "Figure":
    """Counts in cells coloured by their share of the row; recall of each class at the right.

    Args:
        matrix: int (K, K), row = truth, column = prediction.
        classes: K names.
        title: first line.
        below: further lines.
        counted: what the numbers count.
        background: the last class is what is there beside the objects, of which nothing is to be recalled.
    """
    count = len(classes)
    images = matrix.sum(1)
    side = min(max(0.52 * count, 3.2), 6.5 if count <= 10 else 11.0)
    cell = side / count
    size = min(9.0, max(cell * 72 * 0.82, 5.5))
    probe = new_figure(1, 1)
    names = shorten_apart(probe, [spelled(name) for name in classes], 1.8, size)
    rows = [f"{name} ({total:,})" for name, total in zip(names, images, strict=True)]
    left = max(text_width(probe, row, size) for row in rows) + 0.5
    widest = max(text_width(probe, name, size) for name in names)
    turn = 0 if widest < cell * 0.92 else 45 if count <= _WITH_COUNTS else 90
    bottom = {0: 0.2, 45: 0.75 * widest + 0.15, 90: widest + 0.12}[turn] + 0.42
    figure = new_figure(left + side + 0.95, bottom + side + _HEAD + 0.25)
    headline(figure, title, *below)
    axes = place(figure, left, bottom, side, side)
    share = matrix / np.maximum(images, 1)[:, None]
    # the root lets a few percent be seen among so much white
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=size, pad=3)
    every = max(1, int(np.ceil(count * size * 1.05 / (side * 72))))  # names that would touch are left out
    ticks = list(range(0, count, every))
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=turn, ha="right" if turn == 45 else "center",
                    rotation_mode="anchor" if turn == 45 else None, parse_math=False)  # fmt: skip
    axes.set_yticks(ticks, [rows[i] for i in ticks], parse_math=False)
    figure.text((left + side / 2) / figure.get_figwidth(), 0.12 / figure.get_figheight(), "predicted", size=9,
                color=FAINT, ha="center", va="bottom")  # fmt: skip
    figure.text(0.13 / figure.get_figwidth(), (bottom + side / 2) / figure.get_figheight(), f"true class ({counted})",
                size=9, color=FAINT, rotation=90, ha="left", va="center")  # fmt: skip
    if count <= _WITH_COUNTS:
        _write_cells(axes, matrix, share, cell)
    _write_recall(axes, share.diagonal(), images, [i for i in ticks if not background or i < count - 1], size)
    return figure


def _write_cells(axes: "Axes", matrix: np.ndarray, share: np.ndarray, cell: float) -> None:
    edges = np.arange(len(matrix) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color=LINES, linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    size = min(12.0, cell * 72 * 0.9 / (0.64 * len(f"{matrix.max():,}")))
    for i, j in np.ndindex(matrix.shape):
        color = "white" if share[i, j] > 0.35 else INK if matrix[i, j] else "#c3cad2"
        axes.text(j, i, f"{matrix[i, j]:,}", ha="center", va="center", size=size, color=color)


def _write_recall(axes: "Axes", recall: np.ndarray, images: np.ndarray, ticks: Sequence[int], size: float) -> None:
    count = len(recall)
    right = count - 0.5 + count * 0.012
    axes.text(right, -0.5 - count * 0.012, "recall", size=min(8.0, size + 1), color=FAINT, ha="left", va="bottom")
    for i in ticks:
        text = f"{recall[i]:.1%}" if images[i] else "-"
        axes.text(right, i, text, size=size, color=INK, ha="left", va="center_baseline")


def precision_recall(curves: Any, classes: Sequence[str], title: str, *below: str) -> "Figure":
    """Precision over recall of each class, its average precision in the legend; of many, the ten lowest are named.

    Args:
        curves: `precision` and `recall` (K, bins) over rising thresholds and `average_precision` (K,), as
            `metrics.PrecisionRecall` computes them; a class without images has recall NaN.
        classes: K names.
        title: first line.
        below: further lines.
    """
    precision, recall, average = (np.asarray(curves[name]) for name in ("precision", "recall", "average_precision"))
    figure = new_figure(7.9, 5.1)
    headline(figure, title, *below)
    axes = place(figure, 0.7, 0.55, 4.6, 3.55)
    seen = [i for i in np.argsort(-average, kind="stable") if not np.isnan(recall[i]).any()]
    named = seen[-_NAMED:]
    for i in [i for i in seen if i not in named]:
        axes.plot(*_steps(precision[i], recall[i]), color="#c9d0d8", linewidth=0.7)
    for color, i in zip(SERIES, named, strict=False):
        name = shorten(figure, spelled(classes[i]), 1.35, 8)
        label = f"{average[i]:.3f}  {name}".replace("$", r"\$")
        axes.plot(*_steps(precision[i], recall[i]), color=color, linewidth=1.6, label=label)
    if len(seen) > 1:
        grid = np.linspace(0, 1, 201)
        axes.plot(grid, _mean_precision(precision[seen], recall[seen], grid), color=INK, linewidth=1.6,
                  linestyle=(0, (4, 2)), label=f"{average[seen].mean():.3f}  mean of {len(seen)}")  # fmt: skip
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.set_xlabel("recall", size=9, color=INK)
    axes.set_ylabel("precision", size=9, color=INK)
    axes.grid(color=LINES, linewidth=0.8)
    axes.set_axisbelow(True)
    if seen:
        heading = "average precision" + (f",\nthe {_NAMED} lowest of {len(seen)}" if len(seen) > _NAMED else "")
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), fontsize=8, frameon=False, title=heading,
                             title_fontsize=8.5, alignment="left", labelcolor=INK, handlelength=1.6)  # fmt: skip
        legend.get_title().set_color(FAINT)
    return figure


def _steps(precision: np.ndarray, recall: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a curve's steps, from recall 1 down to 0; the area under them is the average precision."""
    keep = np.append(np.diff(recall) != 0, recall[-1] > 0)  # thresholds at which something is found
    points, heights = recall[keep], precision[keep]
    return np.append(np.repeat(points, 2)[1:], 0.0), np.repeat(heights, 2)


def _mean_precision(precision: np.ndarray, recall: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Mean over classes (K, bins) of the precision at the highest threshold that still reaches each recall."""
    last = (recall[:, :, None] >= grid - 1e-9).sum(1) - 1  # (K, len(grid))
    mean: np.ndarray = np.take_along_axis(precision, last.clip(0), axis=1).mean(0)
    return mean


def label_scores(counts: np.ndarray, classes: Sequence[str], title: str, *below: str) -> "Figure":
    """Of each label a bar of images where it was found, missed and wrongly called; precision, recall and F1 beside it.

    Args:
        counts: int (4, K): true positives, false positives, false negatives, true negatives.
        classes: K names.
        title: first line.
        below: further lines.
    """
    found, wrong, missed = counts[:3].astype(np.int64)
    f1 = 2 * found / np.maximum(2 * found + wrong + missed, 1)
    most = 40  # rows; of more labels the lowest
    order = np.argsort(-f1, kind="stable")[-most:]
    height = 0.27 * len(order)
    figure = new_figure(8.2, height + _HEAD + 0.8)
    cut = [f"the {most} labels with the lowest F1"] if len(order) < len(classes) else []
    headline(figure, title, *below[:-1], ", ".join([*below[-1:], *cut]))
    names = [shorten(figure, f"{spelled(classes[i])} ({found[i] + missed[i]:,})", 1.9, 8) for i in order]
    left = max(text_width(figure, name, 8) for name in names) + 0.3
    axes = place(figure, left, 0.5, 8.2 - left - 2.1, height)
    rows = np.arange(len(order))
    start = np.zeros(len(order))
    for values, label, color in (
        (found, "found", RIGHT),
        (missed, "missed", "#a9c3ec"),
        (wrong, "wrongly called", WRONG),
    ):
        axes.barh(rows, values[order], left=start, height=0.66, color=color, label=label)
        start = start + values[order]
    axes.set_yticks(rows, names, parse_math=False)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlabel("images", size=9, color=INK)
    axes.grid(axis="x", color=LINES, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize=8, frameon=False, labelcolor=INK,
                borderaxespad=0.1)  # fmt: skip
    with_names = zip(("precision", "recall", "F1"), (found / np.maximum(found + wrong, 1),
                     found / np.maximum(found + missed, 1), f1), strict=True)  # fmt: skip
    for column, (name, values) in enumerate(with_names):
        x = 1.09 + 0.62 * column / axes.get_position().width / 8.2
        axes.text(x, 1 + 0.07 / height, name, transform=axes.transAxes, size=8, color=FAINT, ha="center", va="bottom")
        for row, i in enumerate(order):
            axes.text(x, row, f"{values[i]:.3f}", transform=axes.get_yaxis_transform(), size=8, color=INK, ha="center",
                      va="center")  # fmt: skip
    return figure
