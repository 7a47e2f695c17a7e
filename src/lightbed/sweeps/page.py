"""The report's page: one HTML file that needs no other file and no network."""

import base64
import html
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightbed.draw.figure import SERIES
from lightbed.folders import run_name
from lightbed.monitor import mode_of
from lightbed.sweeps import charts, show
from lightbed.sweeps.collect import Run
from lightbed.sweeps.compare import Comparison

_TEMPLATE = Path(__file__).with_name("page.html")
_WIDTH = 1000  # pixels of a picture in the page
_QUALITY = 85  # of its JPEG


def as_html(table: Comparison, samples: Sequence[Path] = ()) -> str:
    """The page: what came out best, the table, the charts, pictures of the best and the worst run, what is not done.

    A click on a column's head sorts the table by it.

    Args:
        table: see `compare`.
        samples: pictures that show predictions of several runs.
    """
    metric = table.monitor.partition("/")[2]
    drawn = {
        "loss": charts.curves(table, "loss"),
        "metric": charts.curves(table, metric) if metric != "loss" else None,
        "time": charts.against_time(table),
        "parallel": charts.parallel(table),
    }
    shown = {name: chart for name, chart in drawn.items() if chart is not None}
    parts = {
        "title": html.escape(show.title(table)),
        "cards": _cards(table),
        "table": _table(table),
        "notes": "".join(f"<p>{html.escape(note)}</p>" for note in show.notes(table)),
        "charts": _charts(table, shown),
        "pictures": _pictures(table, samples),
        "failures": _failures(table),
        "figures": _embedded(shown),
        "plotly": plotly_js() if shown else "",
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    head, *rest = page.split("{{")  # a text of a run is never looked through for names of parts
    return head + "".join(parts[piece.partition("}}")[0]] + piece.partition("}}")[2] for piece in rest)


def plotly_js() -> str:
    """The library that draws the charts, from plotly's package, which itself takes a second to import."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        return ""
    return (Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _embedded(figures: Mapping[str, Any]) -> str:
    """JSON inside a script element: nothing in it can end that."""
    return json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _cards(table: Comparison) -> str:
    """What one wants to know first: the best setting and its figure, how many runs ended how, the time of all."""
    cards = []
    best = table.rows[0]
    if table.sort in best.figures:
        label = best.label(table.columns)
        cards.append((f"best {table.sort}", show.figure(best.figures[table.sort], table.sort), label))
    counts = Counter(run.status for run in table.runs)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items())
    cards.append(("runs", str(len(table.runs)), ended))
    known = [run.seconds for run in table.runs if run.seconds is not None]
    if known:
        cards.append(("time of all runs", show.duration(sum(known)), f"the longest {show.duration(max(known))}"))
    most = max((run.memory for run in table.runs if run.memory is not None), default=None)
    if most is not None:
        gpu = max((run.gpu_memory for run in table.runs if run.gpu_memory is not None), default=None)
        cards.append(("peak memory", show.size(most), f"on a GPU {show.size(gpu)}" if gpu else "of a process"))
    return "".join(
        f'<div class="card"><span>{html.escape(name)}</span><strong>{html.escape(value)}</strong>'
        f"<span>{html.escape(more)}</span></div>"
        for name, value, more in cards
    )


def _table(table: Comparison) -> str:
    names = show.heads(table)
    rows = [show.cells(table, row, rank) for rank, row in enumerate(table.rows, 1)]
    numeric = [all(text == "" or _value(text) is not None for text in column) for column in zip(*rows, strict=True)]
    head = "".join(
        f"<th{' class=number' * right}>{html.escape(name)}</th>" for name, right in zip(names, numeric, strict=True)
    )
    body = []
    for rank, row in enumerate(rows):
        cells = "".join(_cell(*cell) for cell in zip(row, names, numeric, strict=True))
        body.append(f'<tr style="--row:{charts.color(rank)}">{cells}</tr>')
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>"


def _cell(text: str, name: str, numeric: bool) -> str:
    if not numeric:
        return f"<td>{html.escape(text)}</td>"
    value = _value(text)
    plain = "" if value is None or math.isnan(value) else value
    return f'<td class="number" data-value="{plain}" title="{html.escape(name)}">{html.escape(text)}</td>'


def _value(text: str) -> float | None:
    """The number that a cell begins with, sizes in MiB; None where it is none."""
    number, _, unit = text.partition(" ")
    try:
        value = float(number)
    except ValueError:
        return None
    return value * (1024 if unit == "GiB" else 1) if unit in ("", "MiB", "GiB") or unit.startswith("±") else None


def _charts(table: Comparison, shown: Mapping[str, Any]) -> str:
    """The charts' places, with what they are switched by."""
    if not shown:
        return ""
    boxes = (
        ("train", "training (dashed)", " checked"),
        ("val", "validation (solid)", " checked"),
        ("log", "logarithmic loss", ""),
    )
    tools = "".join(f'<label><input type="checkbox" id="{name}"{on}> {text}</label>' for name, text, on in boxes)
    switches = f'<div class="tools">{tools}</div><div class="legend">{_legend(table)}</div>'
    sections = "".join(_section(name, table, shown) for name in shown)
    head = "<h2>Curves and comparison</h2>" + (switches if {"loss", "metric"} & shown.keys() else "")
    return f'{head}<div class="charts">{sections}</div>'


def _legend(table: Comparison) -> str:
    """A button a row with a colour of its own; it hides the row's curves and shows them again."""
    named = table.rows[: len(SERIES)]
    items = [(charts.color(i), row.label(table.columns)) for i, row in enumerate(named)]
    if len(table.rows) > len(named):
        items.append((charts.GREY, f"{len(table.rows) - len(named)} more"))
    return "".join(
        f'<button type="button" data-row="{i}" style="--row:{shade}">{html.escape(label)}</button>'
        for i, (shade, label) in enumerate(items)
    )


def _section(name: str, table: Comparison, shown: Mapping[str, Any]) -> str:
    """A chart's place with its head."""
    metric = table.monitor.partition("/")[2]
    better = "higher" if mode_of(table.sort if table.sort in table.figures else table.monitor) == "max" else "lower"
    heads = {
        "loss": "Loss",
        "metric": metric.replace("_", " ").capitalize(),
        "time": f"Against time: {better} is better, dotted what no other run beats in both",
        "parallel": "Settings and result: drag along an axis to choose, drag its name to move it",
    }
    axes = len(shown[name]["data"][0].get("dimensions", ()))
    wide = ' class="wide"' if axes > 4 or (axes and len(shown) % 2) else ""
    least = f' style="min-width:{max(130 * axes, 260)}px"' if axes else ""
    return f'<section{wide}><h3>{html.escape(heads[name])}</h3><div><div id="{name}"{least}></div></div></section>'


def extremes(table: Comparison) -> list[tuple[str, Run]]:
    """The run with the best and the one with the worst figure, of those that are done and have pictures."""
    metric = table.sort if table.sort in table.figures else next(iter(table.figures), "")
    runs = [run for run in table.runs if math.isfinite(run.metrics.get(metric, math.nan)) and _picture(run)]
    if not runs:
        return []
    sign = -1 if mode_of(metric) == "max" else 1
    runs.sort(key=lambda run: sign * run.metrics[metric])
    named = {"best": runs[0], "worst": runs[-1]} if len(runs) > 1 else {"only": runs[0]}
    return [(f"The {name} run, {metric} {run.metrics[metric]:.4f}: {run_name(run.folder)}", run)
            for name, run in named.items()]  # fmt: skip


def _picture(run: Run) -> Path | None:
    path = run.folder / "pictures" / "predictions.png"
    return path if path.is_file() else None


def _pictures(table: Comparison, samples: Sequence[Path]) -> str:
    drawn = [(text, path) for text, run in extremes(table) if (path := _picture(run)) is not None]
    drawn += [("The same sample, predicted by all runs", path) for path in samples]
    figures = [
        f'<figure><figcaption>{html.escape(text)}</figcaption><img alt="{html.escape(text)}" src="{source}"></figure>'
        for text, path in drawn
        if (source := _jpeg(path))
    ]
    return f'<h2>Predictions</h2><div class="pictures">{"".join(figures)}</div>' if figures else ""


def _jpeg(path: Path) -> str:
    """A picture of at most `_WIDTH` pixels as the address of an image element; none where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:
        return ""
    small.thumbnail((_WIDTH, 4 * _WIDTH))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _failures(table: Comparison) -> str:
    ill = show.failures(table)
    return "<h2>Not done</h2><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in ill) + "</ul>" if ill else ""
