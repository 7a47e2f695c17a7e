"""A comparison as text: for the terminal, Markdown, CSV, and one HTML page that needs nothing else."""

import base64
import csv
import html
import io
import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightbed.folders import run_name
from lightbed.sweeps.compare import Comparison, Figure, Row


def heads(table: Comparison) -> list[str]:
    """Column titles of the tables for people: rank, settings, figures, seconds, status, and how many runs or which."""
    return ["", *table.columns, *shown(table), *_rest(table)]


def cells(table: Comparison, row: Row, rank: int) -> list[str]:
    """A row's texts under `heads`."""
    figures = [_figure(row.figures.get(name), name) for name in shown(table)]
    rest = {
        "runs": str(len(row.runs)),
        "seconds": "" if row.seconds is None else f"{row.seconds:.1f}",
        "status": row.status,
        "run": run_name(row.runs[0].folder),
    }
    return [str(rank), *(row.settings[name] for name in table.columns), *figures, *(rest[key] for key in _rest(table))]


def shown(table: Comparison) -> list[str]:
    """The metrics that tables show; the CSV has all.

    All of the test (else of the validation), what was monitored with its training value, or the training loss where
    there is none, and the epoch of both.
    """
    stage = "test/" if any(name.startswith("test/") for name in table.figures) else "val/"
    trained = f"train/{table.monitor.partition('/')[2]}"
    more = (table.sort, table.monitor, trained if trained in table.figures else "train/loss", "epoch")
    return [name for name in table.figures if name.startswith(stage) or name in more]


def _rest(table: Comparison) -> list[str]:
    grouped = any(len(row.runs) > 1 for row in table.rows)
    failed = any(row.status != "done" for row in table.rows)
    return [*(["runs"] if grouped else []), "seconds", *(["status"] if failed else []), *([] if grouped else ["run"])]


def _figure(figure: Figure | None, name: str) -> str:
    if figure is None:
        return ""
    if name == "epoch":
        return f"{figure.value:g}" if not figure.deviation else f"{figure.value:.1f} ± {figure.deviation:.1f}"
    deviation = "" if figure.deviation is None else f" ± {figure.deviation:.4f}"
    return f"{figure.value:.4f}{deviation}"


def title(table: Comparison) -> str:
    """What is compared, in a line."""
    runs = table.runs
    rows = "" if len(runs) == len(table.rows) else f" in {len(table.rows)} settings"
    seconds = sum(run.seconds or 0.0 for run in runs)
    size, unit = next(
        (size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= 10 * size or size == 1
    )
    spent = f"{seconds / size:.0f} {unit}"
    best = "" if table.sort in table.columns else " best first" if table.sort != "seconds" else " fastest first"
    return f"{len(runs)} run{'s' * (len(runs) != 1)}{rows}, {spent}, by {table.sort}{best and ','}{best}"


def common(table: Comparison) -> str:
    """What to know of the columns: how a deviation is meant."""
    if all(len(row.runs) == 1 for row in table.rows):
        return ""
    return "mean ± standard deviation (n - 1) over seeds; seconds are a run's mean"


def failures(table: Comparison) -> list[str]:
    """A line for each run that did not end well: which, how, and the last that it said."""
    ill = [run for run in table.runs if run.status not in ("done", "running")]
    return [f"{run_name(run.folder)}: {run.status}{': ' if run.error else ''}{run.error}" for run in ill]


def for_terminal(table: Comparison, width: int) -> Table:
    """The table for a terminal of that many columns; where it is narrow, only the main figures."""
    names = heads(table)
    rows = [cells(table, row, rank) for rank, row in enumerate(table.rows, 1)]
    wide = [max(len(text) for text in column) + 3 for column in zip(names, *rows, strict=True)]
    # where there is too little room, leave out run names that the settings tell already, then the lesser figures
    settings = [tuple(row.settings.values()) for row in table.rows]
    spare = ["run"] if len(set(settings)) == len(settings) and table.columns else []
    spare += [name for name in reversed(shown(table)) if name not in (table.sort, table.monitor)]
    hidden: set[str] = set()
    for name in spare:
        if sum(size for size, head in zip(wide, names, strict=True) if head not in hidden) + 1 <= width:
            break
        hidden.add(name)
    kept = [i for i, name in enumerate(names) if name not in hidden]
    drawn = Table(title=title(table), title_justify="left", caption=common(table) or None, caption_justify="left",
                  title_style="bold", box=SIMPLE_HEAD, show_edge=False)  # fmt: skip
    texts = {*table.columns, "status", "run"}
    for i in kept:
        drawn.add_column(names[i], justify="left" if names[i] in texts else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(row[i] for i in kept))
    return drawn


def as_markdown(table: Comparison, picture: str | None) -> str:
    """The table as Markdown, with the curves where they are drawn."""
    names = heads(table)
    texts = {*table.columns, "status", "run"}
    lines = [f"# {title(table)}", "", _row(names), _row(["---" if name in texts else "---:" for name in names])]
    lines += [_row(cells(table, row, rank)) for rank, row in enumerate(table.rows, 1)]
    lines += ["", common(table)] if common(table) else []
    lines += ["", "Not done:", "", *(f"- {line}" for line in failures(table))] if failures(table) else []
    lines += ["", f"![curves of all runs]({picture})"] if picture else []
    return "\n".join(lines) + "\n"


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"


def as_csv(table: Comparison) -> str:
    """All figures in full precision: a line a row of the table, `NAME std` where rows are several runs."""
    grouped = any(len(row.runs) > 1 for row in table.rows)
    figures = [key for name in table.figures for key in ([name, f"{name} std"] if grouped else [name])]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.columns, *figures, "runs", "seconds", "status", "folder"])
    for row in table.rows:
        values: list[float | str] = []
        for name in table.figures:
            figure = row.figures.get(name)
            values.append("" if figure is None else figure.value)
            if grouped:
                values.append("" if figure is None or figure.deviation is None else figure.deviation)
        seconds = "" if row.seconds is None else round(row.seconds, 3)
        folders = ";".join(str(run.folder) for run in row.runs)
        writer.writerow(
            [*(row.settings[name] for name in table.columns), *values, len(row.runs), seconds, row.status, folders]
        )
    return out.getvalue()


def as_html(table: Comparison, png: bytes | None) -> str:
    """One page with table and curves that needs no other file and no network; a click on a head sorts by it."""
    names = heads(table)
    texts = {*table.columns, "status", "run"}
    head = "".join(f"<th{'' if name in texts else ' class=number'}>{html.escape(name)}</th>" for name in names)
    body = "\n".join(
        "<tr>" + "".join(_cell(text, name) for text, name in zip(cells(table, row, rank), names, strict=True)) + "</tr>"
        for rank, row in enumerate(table.rows, 1)
    )
    parts = [f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>']
    if common(table):
        parts.append(f"<p>{html.escape(common(table))}</p>")
    if ill := failures(table):
        parts.append("<h2>Not done</h2><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in ill) + "</ul>")
    if png:
        source = base64.b64encode(png).decode()
        parts.append(f'<h2>Curves</h2><img alt="curves of all runs" src="data:image/png;base64,{source}">')
    return _PAGE.replace("{title}", html.escape(title(table))).replace("{body}", "\n".join(parts))


def _cell(text: str, name: str) -> str:
    try:
        number = float(text.partition(" ")[0])
    except ValueError:
        return f"<td>{html.escape(text)}</td>"
    plain = "" if math.isnan(number) else number
    return f'<td class="number" data-value="{plain}" title="{html.escape(name)}">{html.escape(text)}</td>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2933; margin: 2em auto; padding: 0 1.5em; max-width: 110em }
h1 { font-size: 1.3em } h2 { font-size: 1.05em; margin-top: 2em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .35em .8em; border-bottom: 1px solid #e3e7ec; text-align: left; white-space: nowrap }
th { cursor: pointer; border-bottom: 2px solid #66727f; position: sticky; top: 0; background: white }
.number { text-align: right } tbody tr:hover { background: #f3f6fa }
img { max-width: 100% } p { color: #66727f }
</style></head><body>
<h1>{title}</h1>
{body}
<script>
document.querySelectorAll("th").forEach((head, column) => head.onclick = () => {
  const rows = [...document.querySelectorAll("tbody tr")], up = head.dataset.up = head.dataset.up === "1" ? "" : "1";
  const key = row => { const cell = row.cells[column]; return cell.dataset.value ?? cell.textContent; };
  rows.sort((a, b) => key(a).localeCompare(key(b), undefined, { numeric: true }));
  const numbers = rows.every(row => key(row) === "" || !isNaN(key(row)));
  if (numbers) rows.sort((a, b) => key(a) === "" ? 1 : key(b) === "" ? -1 : key(a) - key(b));
  (up ? rows : rows.reverse()).forEach(row => row.parentNode.append(row));
});
</script>
</body></html>
"""
