"""The end of a run: metrics.json, the table of test metrics, where the pictures are."""

import json
from pathlib import Path

import lightning.pytorch as L
from rich.table import Table

from lightbed.runs.log import say, show
from lightbed.runs.record import write_text
from lightbed.tasks.base import Task


def write_metrics(folder: Path, metrics: dict[str, float], trainer: L.Trainer) -> None:
    """metrics.json: the final figures, and the last value of each training and validation curve."""
    logged = {name: float(value) for name, value in trainer.logged_metrics.items() if "/" in name}
    write_text(folder / "metrics.json", json.dumps({**logged, **metrics}, indent=2, sort_keys=True) + "\n")


def show_results(folder: Path, metrics: dict[str, float], task: Task, outputs: Path) -> None:
    """Print the table of final metrics, the paths of pictures, and the line that opens TensorBoard."""
    if metrics:
        stage = next(iter(metrics)).partition("/")[0]
        table = Table(title=f"{stage} metrics", title_justify="left")
        table.add_column("metric")
        table.add_column("value", justify="right")
        table.add_column("averaged")
        for name, value in metrics.items():
            table.add_row(name, f"{value:.4f}", task.averaging(name.partition("/")[2]))
        show(table)
    for path in sorted([*folder.glob("*.png"), *(folder / "pictures").glob("*.png")]):
        say(f"  {path}")
    say(f"tensorboard --logdir {outputs}")
