"""`python -m benchmarks.rcnn_family FOLDER`: seconds an image of R-CNN, Fast and Faster R-CNN, a table and a plot.

FOLDER is that of `lightbed train sweep=rcnn_family`; they are written into it as seconds.md and seconds.png.
"""

import json
import sys
from pathlib import Path

import yaml

from lightbed.draw.figure import FAINT, INK, SERIES, headline, new_figure, pixels, place, save

PARTS = {"proposals": "proposals", "network": "network", "rest": "reading, judging"}
STAGES = {"train": "Training, seconds an image in {} epochs", "test": "Inference, seconds an image"}
ORDER = ("rcnn", "fast_rcnn", "faster_rcnn")


def main(folder: Path) -> Path:
    """Write the table and draw the plot; returns the plot's path."""
    runs, epochs = {}, set()
    for file in sorted(folder.glob("*/metrics.json")):
        experiment = next(
            (
                word.partition("=")[2]
                for word in yaml.safe_load((file.parent / "overrides.yaml").read_text())
                if word.startswith("experiment=")
            ),
            "",
        )
        metrics = json.loads(file.read_text())
        if experiment in ORDER and "test/seconds_proposals" in metrics:
            runs[experiment] = metrics
            epochs.add(yaml.safe_load((file.parent / "config.yaml").read_text())["trainer"]["max_epochs"])
    names = [name for name in ORDER if name in runs]
    if not names:
        sys.exit(f"{folder} holds no finished run of sweep=rcnn_family")
    text = table(names, runs)
    (folder / "seconds.md").write_text(text)
    print(text)
    path = folder / "seconds.png"
    save(pixels(draw(names, runs, sorted(epochs))), path)
    return path


def table(names: list[str], runs: dict[str, dict[str, float]]) -> str:
    """A row a system: AP50, how many proposals an image cover which share of the objects, seconds an image."""
    columns = ["test/map_50", "test/proposals", "test/proposal_recall"]
    columns += [f"{stage}/seconds_{part}" for stage in STAGES for part in PARTS]
    lines = [["system", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(f"{runs[name][column]:.4f}" for column in columns)] for name in names]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(names: list[str], runs: dict[str, dict[str, float]], epochs: list[int]):
    figure = new_figure(9.6, 1.75 + 0.5 * len(names))
    told = "below each name: AP50 of its detections, and how many proposals an image cover what share of all objects"
    headline(figure, "What R-CNN, Fast R-CNN and Faster R-CNN spend their time on", told)
    labels = [
        "{}\nAP50 {:.2f}; {:.0f} cover {:.0%}".format(
            name, *(runs[name][f"test/{value}"] for value in ("map_50", "proposals", "proposal_recall"))
        )
        for name in names
    ]
    for column, (stage, title) in enumerate(STAGES.items()):
        axes = place(figure, 1.9 + 3.95 * column, 0.45, 3.45, 0.5 * len(names))
        for row, name in enumerate(names):
            start = 0.0
            for part, color in zip(PARTS, SERIES, strict=False):
                seconds = runs[name][f"{stage}/seconds_{part}"]
                axes.barh(row, seconds, left=start, color=color, height=0.6, label=PARTS[part] if not row else None)
                start += seconds
            axes.text(start, row, f" {start:.3g}", va="center", size=8, color=INK)
        axes.set_yticks(range(len(names)), labels if not column else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
        axes.set_title(title.format("/".join(map(str, epochs))), size=9, color=FAINT, loc="left")
    bars, parts = axes.get_legend_handles_labels()
    high = figure.get_size_inches()[1]
    figure.legend(
        bars,
        parts,
        ncols=len(parts),
        fontsize=8,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0.19, 1 - 0.65 / high),
    )
    return figure


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(main(Path(sys.argv[1])))
