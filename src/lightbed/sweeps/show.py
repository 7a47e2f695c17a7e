"""A comparison as text: for the terminal, Markdown and CSV."""

import csv
import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightbed.folders import run_name
from lightbed.sweeps.compare import Comparison, Figure, Row, brief, short_names


def heads(table: Comparison) -> list[str]:
    """Column titles of the tables for people: rank, settings, figures, seconds, status, and how many runs or which."""
    return ["", *table.columns, *shown(table), *_rest(table)]


def cells(table: Comparison, row: Row, rank: int) -> list[str]:
    """A row's texts under `heads`."""
    figures = [figure(row.figures.get(name), name) for name in shown(table)]
    rest = {
        "runs": str(len(row.runs)),
        "seconds": "" if row.seconds is None else f"{row.seconds:.1f}",
        "memory": size(row.memory),
        "GPU memory": size(row.gpu_memory),
        "status": row.status,
        "run": run_name(row.runs[0].folder),
    }
    settings = (brief(row.settings[name]) for name in table.columns)
    return [str(rank), *settings, *figures, *(rest[key] for key in _rest(table))]


def shown(table: Comparison) -> list[str]:
    """The metrics that tables show; the CSV has all.

    Those of the test (else of the validation) but for single classes and parts of the loss, what was monitored with
    its training value, or the training loss where there is none, and the epoch of both.
    """
    stage = "test/" if any(name.startswith("test/") for name in table.figures) else "val/"
    trained = f"train/{table.monitor.partition('/')[2]}"
    more = (table.sort, table.monitor, trained if trained in table.figures else "train/loss", "epoch")
    main = [name for name in table.figures if name.startswith(stage) and name.count("/") == 1 and "/loss_" not in name]
    return [name for name in table.figures if name in main or name in more]


def _rest(table: Comparison) -> list[str]:
    grouped = any(len(row.runs) > 1 for row in table.rows)
    failed = any(row.status != "done" for row in table.rows)
    memory = ["memory"] if any(row.memory is not None for row in table.rows) else []
    memory += ["GPU memory"] if any(row.gpu_memory is not None for row in table.rows) else []
    ends = [*(["status"] if failed else []), *([] if grouped else ["run"])]
    return [*(["runs"] if grouped else []), "seconds", *memory, *ends]


def figure(found: Figure | None, name: str) -> str:
    """A figure in four places, with its deviation; an epoch as a whole number."""
    if found is None:
        return ""
    if name == "epoch":
        return f"{found.value:g}" if not found.deviation else f"{found.value:.1f} ± {found.deviation:.1f}"
    deviation = "" if found.deviation is None else f" ± {found.deviation:.4f}"
    return f"{found.value:.4f}{deviation}"


def size(memory: float | None) -> str:
    """`850 MiB` or `1.25 GiB`, of MiB."""
    if memory is None:
        return ""
    return f"{memory:.0f} MiB" if memory < 1000 else f"{memory / 1024:.2f} GiB"


def duration(seconds: float) -> str:
    """`95 s`, `12 min` or `31 h`."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 10 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def title(table: Comparison) -> str:
    """What is compared, in a line."""
    runs = table.runs
    rows = "" if len(runs) == len(table.rows) else f" in {len(table.rows)} setting{'s' * (len(table.rows) != 1)}"
    spent = duration(sum(run.seconds or 0.0 for run in runs))
    best = "" if table.sort in table.columns else " best first" if table.sort != "seconds" else " fastest first"
    return f"{len(runs)} run{'s' * (len(runs) != 1)}{rows}, {spent}, by {table.sort}{best and ','}{best}"


def notes(table: Comparison) -> list[str]:
    """What to know of the columns: of which epoch the values are, how a deviation is meant, what memory is."""
    found = [text for text in (_epochs(table),) if text]
    if any(len(row.runs) > 1 for row in table.rows):
        found.append("mean ± standard deviation (n - 1) over the seeds that are done; seconds are a run's mean")
    if any(row.memory is not None for row in table.rows):
        found.append("memory: the peak of a run's largest process, libraries included")
    return found


def _epochs(table: Comparison) -> str:
    """Which epoch's weights the final figures are of: the best one's or the last one's."""
    ended = [(run, run.best) for run in table.runs if "epoch" in run.metrics and run.best is not None]
    if not ended:
        return ""
    best = all(run.metrics["epoch"] == row["epoch"] for run, row in ended if row)
    last = all(run.metrics["epoch"] == run.history[-1]["epoch"] for run, _ in ended)
    which = [*(["the last"] if last else []), *([f"the best by {table.monitor}"] if best else [])]
    told = ", which is ".join(which) or "the best in some runs, the last in others"
    return f"values of the epoch whose weights were tested: {told}"


def failures(table: Comparison) -> list[str]:
    """A line for each run that did not end well: which, how, and the last that it said."""
    ill = [run for run in table.runs if run.status not in ("done", "running", "pruned")]
    return [f"{run_name(run.folder)}: {run.status}{': ' if run.error else ''}{run.error}" for run in ill]


def for_terminal(table: Comparison, width: int) -> Table:
    """The table for a terminal of that many columns; where it is narrow, only the main figures and first settings."""
    names = heads(table)
    rows = [cells(table, row, rank) for rank, row in enumerate(table.rows, 1)]
    shorter = short_names(table.columns)
    wide = [
        max(len(text) for text in (shorter.get(name, name), *column)) + 3
        for name, *column in zip(names, *rows, strict=True)
    ]
    # where there is too little room, leave out run names that the settings tell already, then the lesser figures,
    # then settings from the last one on: what varied by a command line's first words comes first
    settings = [tuple(row.settings.values()) for row in table.rows]
    spare = ["run"] if len(set(settings)) == len(settings) and table.columns else []
    spare += [name for name in reversed(shown(table)) if name not in (table.sort, table.monitor)]
    spare += [name for name in reversed(table.columns[1:]) if name != table.sort]
    hidden: dict[str, None] = {}
    for name in spare:
        if sum(size for size, head in zip(wide, names, strict=True) if head not in hidden) + 1 <= width:
            break
        hidden[name] = None
    kept = [i for i, name in enumerate(names) if name not in hidden]
    drawn = Table(title=title(table), title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
    if left_out := [name for name in table.columns if name in hidden]:
        drawn.caption = f"no room for {', '.join(left_out)}: see report.md, or set COLUMNS"
        drawn.caption_justify = "left"
    texts = {*table.columns, "status", "run"}
    full = sum(max(wide[i], len(names[i]) + 3) for i in kept) + 1 <= width
    for i in kept:
        head = names[i] if full else shorter.get(names[i], names[i])
        drawn.add_column(head, justify="left" if names[i] in texts else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(row[i] for i in kept))
    return drawn


def as_markdown(table: Comparison, picture: str | None) -> str:
    """The table as Markdown, with the curves where they are drawn."""
    names = heads(table)
    texts = {*table.columns, "status", "run"}
    lines = [f"# {title(table)}", "", _row(names), _row(["---" if name in texts else "---:" for name in names])]
    lines += [_row(cells(table, row, rank)) for rank, row in enumerate(table.rows, 1)]
    lines += [line for note in notes(table) for line in ("", note)]
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
    writer.writerow([*table.columns, *figures, "runs", "seconds", "memory_mib", "gpu_memory_mib", "status", "folder"])
    for row in table.rows:
        values: list[float | str] = []
        for name in table.figures:
            figure = row.figures.get(name)
            values.append("" if figure is None else figure.value)
            if grouped:
                values.append("" if figure is None or figure.deviation is None else figure.deviation)
        seconds = "" if row.seconds is None else round(row.seconds, 3)
        memory = ["" if peak is None else peak for peak in (row.memory, row.gpu_memory)]
        folders = ";".join(str(run.folder) for run in row.runs)
        settings = (row.settings[name] for name in table.columns)
        writer.writerow([*settings, *values, len(row.runs), seconds, *memory, row.status, folders])
    return out.getvalue()
