"""`python -m benchmarks [NAME ...]` prints one table: what was measured, in ratios paired in one run, and the goal."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import (
    detection,
    epochs,
    evaluation,
    exact_parts,
    exactness,
    folder,
    overfeat,
    processes,
    provenance,
    report,
    segmentation,
    sweeps,
)
from benchmarks.paired import Row, Setting

BENCHMARKS: dict[str, tuple[Callable[[Setting], list[Row]], str | None]] = {  # and the data that they need
    "recipe": (epochs.recipe, "FashionMNIST"),
    "template": (epochs.template, "FashionMNIST"),
    "folder": (folder.images, "horse-or-human"),
    "answers": (processes.answers, None),
    "accuracy": (processes.accuracy, "FashionMNIST"),
    "unet": (segmentation.step, None),
    "camvid": (segmentation.reading, "CamVid"),
    "dnn-exactness": (exactness.dnn, "FashionMNIST"),
    "dnn-exactness-parts": (exact_parts.dnn, "FashionMNIST"),
    "detector-exactness": (exactness.detector, None),
    "folder-exactness": (exactness.images, "horse-or-human"),
    "provenance": (provenance.record, None),
    "detectors": (detection.step, None),
    "boxes": (evaluation.boxes, None),
    "masks": (evaluation.masks, None),
    "sweep": (sweeps.launcher, None),
    "overfeat": (overfeat.passes, None),
    "report": (report.many, None),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(BENCHMARKS)}; all, if none is given")
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of data sets; $LIGHTBED_DATA")
    parser.add_argument("--threads", type=int, default=2, help="of torch, for all that is measured")
    parser.add_argument("--output", type=Path, help="Markdown file that the table is written to as well")
    chosen = parser.parse_args(argv)
    unknown = [name for name in chosen.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    torch.set_num_threads(chosen.threads)
    rows: list[Row] = []
    for name in chosen.names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr)
        rows += measure(name, chosen.data.expanduser().absolute(), chosen.threads)
    table = markdown(rows, chosen.threads)
    print(table)
    if chosen.output:
        chosen.output.write_text(table + "\n")
    return 0


def default_data() -> Path:
    """Where Lightbed looks for data sets."""
    return Path(os.environ.get("LIGHTBED_DATA", "~/.cache/lightbed/data"))


def measure(name: str, data: Path, threads: int) -> list[Row]:
    """The rows of one benchmark, or one that says why there are none."""
    benchmark, needs = BENCHMARKS[name]
    if needs and not (data / needs).is_dir():
        return [Row(name, f"skipped: no {needs} in {data}", "")]
    with tempfile.TemporaryDirectory() as scratch:
        return benchmark(Setting(data, threads, Path(scratch)))


def markdown(rows: list[Row], threads: int) -> str:
    """The table."""
    machine = f"{os.cpu_count()} cores, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    marks = {True: "yes", False: "no", None: ""}
    lines = [f"| {row.what} | {row.measured} | {row.goal} | {marks[row.met]} |" for row in rows]
    head = ["| what | measured | goal | met |", "| --- | --- | --- | --- |"]
    return "\n".join([f"## Benchmarks\n\n{machine}, {threads} threads, torch {torch.__version__}\n", *head, *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
