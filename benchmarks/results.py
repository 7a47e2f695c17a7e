"""docs/RESULTS.md from run folders: `python -m benchmarks.results outputs > docs/RESULTS.md`.

Every figure is read from the newest finished run of each experiment; nothing is typed. What an experiment's author
reported stands in the head of its config file, in a line `# reported: ...`, and what is to be said of the figure in
a line `# remark: ...`.
"""

import json
import re
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from lightbed.figures import read_figures

CONF = Path(__file__).parents[1] / "conf"

# every system that the project is to have, in the order in which it is told
SYSTEMS = {
    "Classification": [
        "fashion_mnist_dnn",
        "fashion_mnist_cnn",
        "fashion_mnist_fast",
        "horse_or_human_cnn",
        "horse_or_human_augmented",
        "sweep=horse_or_human",
        "transfer_feature_extraction",
        "transfer_fine_tuning",
        "sweep=transfer",
    ],
    "Localization": ["localizer", "overfeat"],
    "Detection": [
        "rcnn",
        "fast_rcnn",
        "faster_rcnn",
        "raccoon_faster_rcnn",
        "retinanet",
        "fcos",
        "ssdlite",
        "sweep=rcnn_family",
    ],
    "Instance segmentation": ["mask_rcnn_people", "sweep=few_images"],
    "Semantic segmentation": ["single_convolution", "fcn", "segnet", "deconvnet", "unet", "deeplabv3", "lraspp"],
    "Images from filters": ["neural_style"],
}

HEAD = """# Results

Made by `python -m benchmarks.results outputs > docs/RESULTS.md` from the run folders of the commands in the table.
Accuracy is that of the test split, or, where the author has only a validation set, of that (`val/`). The averages of
the other metrics are named in each run's own table. The seconds are those of the whole run, on a machine that was
computing other things at the same time, in most of them much.
"""

MAIN = ("pixel_accuracy", "accuracy", "f1", "map_50", "map", "iou", "detections", "highest_score", "loss")
COLUMNS = ("system", "reported", "measured", "command", "seconds", "machine", "remark")


def main(outputs: Path) -> None:
    runs = [read(path.parent) for path in sorted(outputs.rglob("run.json"))]
    done = [run for run in runs if run["status"] == "done" and run["metrics"]]
    print(HEAD)
    for section, names in SYSTEMS.items():
        print(f"## {section}\n\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
        for name in names:
            for row in rows(name, done):
                print(f"| {' | '.join(row)} |")
        print()
    table = outputs / "benchmarks.md"
    if table.is_file():
        print(table.read_text().strip())


def read(folder: Path) -> dict[str, Any]:
    """A run's record with its final metrics and configuration."""
    record = json.loads((folder / "run.json").read_text())
    config = folder / "config.yaml"
    return {
        **record,
        "folder": folder,
        "metrics": read_figures(folder / "metrics.json"),
        "config": yaml.safe_load(config.read_text()) if config.is_file() else {},
    }


def rows(name: str, runs: list[dict[str, Any]]) -> list[list[str]]:
    """The table's rows of one system: one for an experiment, one a job for a sweep."""
    sweep = name.partition("sweep=")[2]
    file = CONF / ("sweep" if sweep else "experiment") / f"{sweep or name}.yaml"
    if not file.is_file():
        return [[f"`{name}`", "", "not built yet", "", "", "", ""]]
    reported, remark = (
        "; ".join(re.findall(rf"^# {what}: (.*)$", file.read_text(), re.M)) for what in ("reported", "remark")
    )
    commands = [f"lightbed train -m {name}"] if sweep else written(name, file.read_text())
    for command in commands:
        mine = [run for run in runs if (name in run["command"] if sweep else is_run(run, command.split()[2:]))]
        if mine:
            break
    else:
        return [[f"`{name}`", reported, "no run", f"`{commands[0]}`", "", "", remark]]
    shown = f"`{command}`"
    if not sweep:
        figures, remark = measured(mine[-1]), "; ".join(filter(None, [over_seeds(command.split()[2:], runs), remark]))
        return [[f"`{name}`", reported, figures, shown, f"{mine[-1]['seconds']:.0f}", machine(mine[-1]), remark]]
    newest = mine[-1]["folder"].parent
    jobs = sorted((run for run in mine if run["folder"].parent == newest), key=by_settings)
    settings: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:  # those that differ in their seed alone are told in one row
        settings.setdefault(re.sub(r"(^|,)seed=\d+", "", job["folder"].name), []).append(job)
    return [
        [
            f"`{name}`: {setting or newest.name}",
            reported,
            measured(*group),
            shown,
            f"{mean(job['seconds'] for job in group):.0f}",
            machine(group[0]),
            remark,
        ]
        for setting, group in settings.items()
    ]


def by_settings(job: dict[str, Any]) -> list[tuple[bool, float, str]]:
    """A job's place: by the settings in its folder's name, numbers from the lowest on."""
    parts = re.split(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)", job["folder"].name)
    return [(bool(i % 2), float(part) if i % 2 else 0.0, part) for i, part in enumerate(parts)]


def over_seeds(words: list[str], runs: list[dict[str, Any]]) -> str:
    """Mean and standard deviation of the main figure where the experiment was run with several seeds."""
    by_seed = {run["seed"]: run["metrics"] for run in runs if is_run(run, words, "seed=")}
    if len(by_seed) < 2:
        return ""
    stage = "test" if all("test/loss" in metrics for metrics in by_seed.values()) else "val"
    key = next((f"{stage}/{main}" for main in MAIN if f"{stage}/{main}" in next(iter(by_seed.values()))), "")
    values = [metrics[key] for metrics in by_seed.values()]
    return f"{key} over {len(values)} seeds: {mean(values):.4f} ± {stdev(values):.4f}, best {max(values):.4f}"


def written(name: str, text: str) -> list[str]:
    """The commands that train the experiment as it stands, or with what its head says stands in for missing data."""
    other = re.findall(r"^#.*in its place: (lightbed train .*)$", text, re.M)
    return [f"lightbed train experiment={name}", *other]


def is_run(run: dict[str, Any], wanted: list[str], *more: str) -> bool:
    """Whether the run was of just these words: paths and folder may differ, and what begins like one of `more`."""
    free = ("paths.", "hydra.run.dir=", "callbacks.progress.", *more)
    words = [word for word in run["command"][2:] if word not in ("-m", "--multirun") and not word.startswith(free)]
    return sorted(words) == sorted(wanted)


def measured(*runs: dict[str, Any]) -> str:
    """Main figures: tested ones, or validated ones where there is no test split; mean ± deviation of several runs."""
    known = set[str].intersection(*({*run["metrics"]} for run in runs))
    stage = "test" if any(key.startswith("test/") for key in known) else "val"
    told = []
    for key in (f"{stage}/{name}" for name in MAIN if f"{stage}/{name}" in known):
        values = [run["metrics"][key] for run in runs]
        told.append(f"{key} {mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else ""))
    return ", ".join(told) + (f" over {len(runs)} seeds" if len(runs) > 1 else "")


def machine(run: dict[str, Any]) -> str:
    """The machine class, without its name."""
    hardware = run["hardware"]
    return ", ".join(hardware["gpus"]) or f"{hardware['cores']} CPU cores, {hardware['isa']}"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs"))
