"""The end of a run: metrics.json, the table of test metrics, where the pictures are."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightbed.figures import spelt
from lightbed.folders import near as near
from lightbed.runs.history import read_history
from lightbed.runs.log import say, show
from lightbed.runs.record import write_text
from lightbed.tasks.base import Task


def write_metrics(
    folder: Path, metrics: Mapping[str, float], epoch: int | None, *, write: bool = True
) -> dict[str, float]:
    """Write metrics.json and return what is in it.

    These are the final figures (`test/...`; `val/...` where there is no test split), and beside them the training and
    validation values of the epoch after which the tested weights were saved, which `epoch` names as metrics.csv does.

    Args:
        folder: the run folder.
        metrics: the final figures.
        epoch: of the tested weights; None for the last one.
        write: False in all processes of a run but its first.
    """
    rows = read_history(folder / "metrics.csv")
    row = next((row for row in rows if row["epoch"] == epoch), rows[-1] if rows else {})
    values = {name: value for name, value in row.items() if name == "epoch" or name.startswith(("train/", "val/"))}
    content = values | dict(metrics)
    if write:
        write_text(folder / "metrics.json", spelt(content))
    return content


def show_results(folder: Path, metrics: Mapping[str, float], task: Task, outputs: Path) -> None:
    """Print the table of final metrics, the paths of pictures, and the line that opens TensorBoard if it has files."""
    if metrics:
        stage = next(iter(metrics)).partition("/")[0]
        table = _table(f"{stage} metrics", "metric", "value")
        table.add_column("averaged")
        for name, value in metrics.items():
            if name.count("/") == 1:
                table.add_row(name, f"{value:.4f}", task.averaging(name.partition("/")[2]))
        show(table)
        _show_classes(metrics, stage)
    for path in sorted([*folder.glob("*.png"), *(folder / "pictures").glob("*.png")]):
        say(f"  {near(path)}")
    if any(folder.glob("events.out.tfevents.*")):
        home, whole = outputs.expanduser().absolute(), folder.absolute()
        # all runs of this name; in the whole of outputs the link `latest` would be one more
        shown = home.joinpath(*whole.relative_to(home).parts[:1]) if whole.is_relative_to(home) else folder
        say(f"tensorboard --logdir {shlex.quote(str(near(shown)))}")


def _show_classes(metrics: Mapping[str, float], stage: str) -> None:
    """A table of the metrics of single classes, `stage/METRIC/CLASS`: a row a class."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if name.count("/") > 1:
            _, metric, label = name.split("/", 2)
            rows.setdefault(label, {})[metric] = value
    if not rows:
        return
    names = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    table = _table(f"{stage} metrics by class", "class", *names)
    for label, row in rows.items():
        table.add_row(label, *(f"{row[metric]:.4f}" if metric in row else "" for metric in names))
    show(table)


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
