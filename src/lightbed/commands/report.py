"""`lightbed report`: one table and one plot over many runs. Needs no torch."""

import os
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightbed.draw.figure import pixels, save
from lightbed.draw.overlay import Line, overlay
from lightbed.errors import UserError, one_of
from lightbed.sweeps import page, show
from lightbed.sweeps.collect import find_runs, split_places
from lightbed.sweeps.compare import Comparison, compare
from lightbed.terminal import Plain

_WIDTH = 140  # of the table where the output is no terminal


def report(cfg: DictConfig) -> None:
    """Print the table over `runs`, and write report.md, report.csv, report.html and curves.png.

    Raises:
        UserError: there are no runs, or no such column to sort by.
    """
    if missing := OmegaConf.missing_keys(cfg):
        raise UserError(f"please give {', '.join(f'{key}=...' for key in sorted(missing))}")
    one_of(cfg.format, ("table", "md", "csv"), "format")
    places = cfg.runs if isinstance(cfg.runs, str) else OmegaConf.to_container(cfg.runs)
    table = compare(find_runs(split_places(places)), sort=cfg.sort, seeds=cfg.seeds)
    folder = Path(HydraConfig.get().runtime.output_dir)
    written = write(table, folder)
    if cfg.format == "table":
        print_table(table, written)
    else:
        print(show.as_markdown(table, None) if cfg.format == "md" else show.as_csv(table), end="")


def summarise(sweep: Path) -> None:
    """Print the table over a multirun's jobs, and write it and the curves into the multirun's folder."""
    table = compare(find_runs([str(sweep)]))
    print_table(table, write(table, sweep))


def write(table: Comparison, folder: Path) -> list[Path]:
    """Write the table in all forms, the page, the curves, and samples side by side; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "curves.png"
    drawn = curves(table, picture)
    sampled = samples(table, folder)
    texts = {
        "report.md": show.as_markdown(table, picture.name if drawn else None),
        "report.csv": show.as_csv(table),
        "report.html": page.as_html(table, sampled),
    }
    for name, text in texts.items():
        beside = folder / f".{name}.tmp"
        beside.write_text(text, encoding="utf-8")
        beside.replace(folder / name)
    return [*(folder / name for name in texts), *([picture] if drawn else []), *sampled]


def curves(table: Comparison, path: Path) -> bool:
    """Draw the monitored metric and the loss of all runs; returns whether any run has curves."""
    lines = [Line(row.label(table.columns), [run.history for run in row.runs if run.history]) for row in table.rows]
    lines = [line for line in lines if line.histories]
    if not lines:
        return False
    metrics = dict.fromkeys([table.monitor.partition("/")[2], "loss"])
    save(pixels(overlay(lines, list(metrics), show.title(table))), path)
    return True


def samples(table: Comparison, folder: Path) -> list[Path]:
    """Put what the runs predicted of the same sample (`callbacks.pictures.samples`) side by side; returns the paths.

    The rows of the table stand in the order of their settings, each with its first run that has the sample.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    for row in table.in_order:
        label = row.label(table.columns)
        files = {file.name: file for run in reversed(row.runs) for file in run.folder.glob("pictures/sample_*.png")}
        for name, file in files.items():
            found.setdefault(name, []).append((label, file))
    written = []
    for name, files_of in sorted(found.items()):
        if len(files_of) > 1:
            # the drawing of panels needs torch, which takes longer to import than a report to make
            from lightbed.draw.side_by_side import side_by_side

            number = name.removeprefix("sample_").removesuffix(".png")
            save(
                pixels(side_by_side(files_of, f"Sample {number}", f"what {len(files_of)} runs predict")), folder / name
            )
            written.append(folder / name)
    return written


def print_table(table: Comparison, written: list[Path]) -> None:
    """The table, what failed, and where everything is, on the terminal."""
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Plain() if terminal else Plain(width=_WIDTH)
    console.print(show.for_terminal(table, console.width))
    for note in show.notes(table):
        print(note)
    for line in show.failures(table):
        print(f"not done: {line}")
    for path in written:
        print(f"  {path}")
