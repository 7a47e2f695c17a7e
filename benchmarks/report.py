"""The report over many runs: how long it takes, from the start of the command."""

import csv
import json
import random
import shutil
from pathlib import Path

import yaml

from benchmarks.paired import Row, Setting
from benchmarks.processes import seconds

RUNS, EPOCHS, SEEDS = 500, 50, 5
COPIED = ("overrides.yaml", "packages.txt")


def many(setting: Setting) -> list[Row]:
    """Folders of 500 runs with 50 epochs each, made of one real run: only numbers are different."""
    own = setting.scratch / "own"
    words = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "model.channels=[4]", "logger.tensorboard=false"]
    seconds("-m", "lightbed", "train", *words, f"hydra.run.dir={own}", f"paths.outputs={setting.scratch}")
    for number in range(RUNS):
        copy(own, setting.scratch / "runs" / str(number), number)
    out = setting.scratch / "report"
    command = ["-m", "lightbed", "report", f"runs={setting.scratch / 'runs'}", f"hydra.run.dir={out}"]
    taken, said = seconds(*command)
    if f"{RUNS} runs in {RUNS // SEEDS} settings" not in said:
        raise RuntimeError(said[-2000:])
    size = (out / "report.html").stat().st_size / 1e6
    what = f"report over {RUNS} runs of {EPOCHS} epochs, start of the command included (its page: {size:.0f} MB)"
    return [Row(what, f"{taken:.1f} s", "<= 10 s", taken <= 10)]


def copy(own: Path, folder: Path, number: int) -> None:
    """A run of another learning rate or seed."""
    folder.mkdir(parents=True)
    for name in COPIED:
        shutil.copy(own / name, folder / name)
    config = yaml.safe_load((own / "config.yaml").read_text())
    config["optimizer"]["lr"], config["seed"] = 0.001 * (1 + number // SEEDS), number % SEEDS
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    shutil.copy(own / "run.json", folder / "run.json")
    chance = random.Random(number)
    final = {name: value * chance.random() for name, value in json.loads((own / "metrics.json").read_text()).items()}
    (folder / "metrics.json").write_text(json.dumps(final))
    with (own / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        for epoch in range(EPOCHS):
            writer.writerow({**row, "epoch": epoch, "train/loss": chance.random(), "val/accuracy": chance.random()})
    shutil.copytree(own / "pictures", folder / "pictures")
