"""The charts of the report's page, as the plain dicts that plotly.js draws; plotly's own Python is not imported."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightbed.draw.figure import FAINT, INK, LINES, SERIES
from lightbed.monitor import mode_of
from lightbed.sweeps.compare import Comparison, Row

Chart = dict[str, Any]  # {"data": [...], "layout": {...}}

GREY = "#c3cad2"
_MOST = 300  # points of a curve; of longer ones every second, third ... is drawn, and the last
_DECADES = 50.0  # from this ratio on an axis is logarithmic
_FONT = {"family": "system-ui, sans-serif", "size": 12, "color": INK}


def color(rank: int) -> str:
    """Colour of a row, counted from 0: the first ten have one of their own."""
    return SERIES[rank] if rank < len(SERIES) else GREY


def curves(table: Comparison, metric: str) -> Chart | None:
    """A metric over the epochs, training dashed, validation solid; None where no run has a finite value.

    Rows without a colour of their own share a trace. `meta` names a trace's row and stage, which the page toggles.

    Args:
        table: its rows.
        metric: name without its stage.
    """
    traces = []
    named = [(i, [row]) for i, row in enumerate(table.rows[: len(SERIES)])]
    rest = table.rows[len(SERIES) :]
    for i, rows in [*named, *([(len(SERIES), rest)] if rest else [])]:
        for stage, dash, width in (("train", "dash", 1.2), ("val", "solid", 2.0)):
            x, y, texts = _points(rows, f"{stage}/{metric}", table.columns)
            if x:
                line = {"color": color(i), "dash": dash, "width": width}
                hover = f"%{{text}}<br>epoch %{{x}}: {stage}/{html.escape(metric)} %{{y:.4f}}<extra></extra>"
                traces.append({"type": "scatter", "mode": "lines+markers", "x": x, "y": y, "text": texts, "line": line,
                               "marker": {"size": 4}, "meta": {"row": i, "stage": stage},
                               "hovertemplate": hover, "connectgaps": False})  # fmt: skip
    if not traces:
        return None
    traces.reverse()  # the best on top
    longest = max((len(run.history) for run in table.runs), default=0)
    steps = {"dtick": 1} if longest <= 10 else {}  # or a short axis has halves of epochs
    return {"data": traces, "layout": _layout({**_axis("epoch"), **steps}, _axis(metric))}


def _points(rows: Sequence[Row], name: str, columns: Sequence[str]) -> tuple[list[Any], list[Any], list[Any]]:
    """Epochs from 1, values and labels of all runs of these rows, a gap after each run."""
    x: list[Any] = []
    y: list[Any] = []
    texts: list[Any] = []
    for row in rows:
        label = html.escape(row.label(columns))
        for run in row.runs:
            points = [
                (each["epoch"] + 1, each[name]) for each in run.history if math.isfinite(each.get(name, math.nan))
            ]
            points = [*points[:: math.ceil(len(points) / _MOST)][:-1], points[-1]] if points else []
            seed = f", seed={run.settings.get('seed')}" if len(row.runs) > 1 else ""
            for epoch, value in points:
                x.append(int(epoch))
                y.append(value)
                texts.append(label + seed)
            if points:
                for values in (x, y, texts):
                    values.append(None)
    return x[:-1], y[:-1], texts[:-1]


def parallel(table: Comparison) -> Chart | None:
    """Settings and the metric that the table is sorted by, a line a row; None where there is nothing to compare."""
    metric = _metric(table)
    rows = [row for row in table.rows if metric in row.figures and math.isfinite(row.figures[metric].value)]
    if len(rows) < 2 or not table.columns:
        return None
    varied = [column for column in table.columns if column != "trial"]
    axes = [_dimension(column, [row.settings[column] for row in rows]) for column in varied]
    values = [row.figures[metric].value for row in rows]
    axes.append({"label": metric, "values": values, **_range(values)})
    scale = [[0, GREY], [1, SERIES[0]]]
    line = {"color": values, "colorscale": scale, "reversescale": mode_of(metric) == "min"}
    trace = {"type": "parcoords", "dimensions": axes, "line": line, "labelfont": {"size": 12}, "tickfont": {"size": 11}}
    layout = {"margin": {"l": 90, "r": 60, "t": 50, "b": 20}, "font": _FONT, "height": 360, "paper_bgcolor": "white"}
    return {"data": [trace], "layout": layout}


def _dimension(label: str, texts: Sequence[str]) -> Chart:
    """An axis of numbers, by their logarithm where they lie far apart, or of words in their order."""
    numbers = [_number(text) for text in texts]
    if any(number is None for number in numbers):
        words = sorted(set(texts), key=lambda text: (text == "", text), reverse=True)
        shown = [_short(word) for word in words]
        return {"label": _short(label), "values": [words.index(text) for text in texts],
                "tickvals": list(range(len(words))), "ticktext": shown, "range": [-0.1, len(words) - 0.9]}  # fmt: skip
    values = [number for number in numbers if number is not None]
    found = sorted(set(values))
    log = found[0] > 0 and found[-1] / found[0] >= _DECADES
    placed = [math.log10(value) if log else value for value in values]
    ticks = found if len(found) <= 8 else [found[0], *_powers(found[0], found[-1]), found[-1]] if log else None
    axis: Chart = {"label": f"{_short(label)} (log)" if log else _short(label), "values": placed, **_range(placed)}
    if ticks:
        axis |= {"tickvals": [math.log10(t) if log else t for t in ticks], "ticktext": [f"{t:.4g}" for t in ticks]}
    return axis


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers, apart from both."""
    exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**n for n in exponents if low * 1.8 < 10.0**n < high / 1.8]


def _range(values: Sequence[float]) -> Chart:
    low, high = min(values), max(values)
    return {"range": [low - 0.5, high + 0.5]} if low == high else {}


def front(points: Sequence[tuple[float, float]], mode: str) -> list[int]:
    """Positions of the points (cost, value) that no other beats in both: the Pareto front, the cheapest first.

    Args:
        points: cost, which is better low, and value.
        mode: 'max' or 'min', which value is better.
    """
    sign = -1 if mode == "max" else 1
    kept: list[int] = []
    best = math.inf
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1])):
        if sign * points[i][1] < best:
            best = sign * points[i][1]
            kept.append(i)
    return kept


def against_time(table: Comparison) -> Chart | None:
    """The metric against a run's mean seconds, a point a row, and the front of those that none beats in both."""
    metric = _metric(table)
    found = [
        (i, row, row.seconds, row.figures[metric])
        for i, row in enumerate(table.rows)
        if row.seconds is not None and metric in row.figures and math.isfinite(row.figures[metric].value)
    ]
    if len(found) < 2:
        return None
    seconds, values = [each[2] for each in found], [each[3].value for each in found]
    best = [(seconds[i], values[i]) for i in front(list(zip(seconds, values, strict=True)), mode_of(metric))]
    best.append((max(seconds), best[-1][1]))  # what more time does not better
    texts = [html.escape(row.label(table.columns)) for _, row, _, _ in found]
    step = {"type": "scatter", "mode": "lines", "x": [x for x, _ in best], "y": [y for _, y in best], "meta": {},
            "line": {"shape": "hv", "color": FAINT, "width": 1.5, "dash": "dot"}, "hoverinfo": "skip"}  # fmt: skip
    deviations = [figure.deviation or 0.0 for _, _, _, figure in found]
    bars = {"error_y": {"array": deviations, "color": LINES, "thickness": 1.5}} if any(deviations) else {}
    dots = {"type": "scatter", "mode": "markers", "x": seconds, "y": values, "text": texts, "meta": {}, **bars,
            "marker": {"size": 10, "color": [color(i) for i, _, _, _ in found], "line": {"width": 1, "color": "white"}},
            "hovertemplate": f"%{{text}}<br>{html.escape(metric)} %{{y:.4f}} in %{{x:.1f}} s<extra></extra>",
            }  # fmt: skip
    x = _axis("seconds of a run")
    if min(seconds) > 0 and max(seconds) / min(seconds) >= _DECADES:
        x |= {"type": "log", "dtick": 1}
    return {"data": [step, dots], "layout": _layout(x, _axis(metric))}


def _metric(table: Comparison) -> str:
    """What the table is sorted by; where that is a setting or the time, its first metric."""
    return table.sort if table.sort in table.figures else next(iter(table.figures), "")


def _axis(title: str) -> Chart:
    return {"title": {"text": html.escape(title)}, "gridcolor": LINES, "zeroline": False, "automargin": True,
            "linecolor": FAINT}  # fmt: skip


def _layout(x: Mapping[str, Any], y: Mapping[str, Any]) -> Chart:
    return {"xaxis": dict(x), "yaxis": dict(y), "font": _FONT, "showlegend": False, "height": 340,
            "margin": {"l": 60, "r": 16, "t": 12, "b": 48}, "hovermode": "closest", "plot_bgcolor": "white",
            "paper_bgcolor": "white"}  # fmt: skip


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _short(text: str) -> str:
    text = text or "(none)"
    return text if len(text) <= 24 else f"{text[:11]}…{text[-12:]}"
