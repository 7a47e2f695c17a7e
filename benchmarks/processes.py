"""Whole processes from start to finish."""

import json
import os
import subprocess
import sys
import time

from benchmarks.paired import Row, Setting

GOAL = 0.8939  # the author's test accuracy after 250 epochs
LIMIT = 12  # times our own seconds: the author's recipe takes longer still, and need not be waited for


def accuracy(setting: Setting) -> list[Row]:
    """Start to finish until the author's test accuracy."""
    folder = setting.scratch / "fast"
    words = [f"paths.data={setting.data}", f"paths.outputs={setting.scratch}", f"hydra.run.dir={folder}"]
    threads = f"threads={setting.threads}"
    ours, _ = seconds("-m", "lightbed", "train", "experiment=fashion_mnist_fast", threads, *words)
    reached = json.loads((folder / "metrics.json").read_text())["test/accuracy"]
    place = [str(setting.data), str(setting.scratch / "author")]
    theirs, said = seconds("-m", "benchmarks.author", *place, str(GOAL), str(setting.threads), str(LIMIT * ours))
    author = json.loads(said)
    if reached < GOAL:
        return [Row("accuracy", f"not reached: {reached:.4f}", ">= 10 x", False)]
    theirs -= author["testing"]
    more = "" if author["accuracy"] >= GOAL else "more than "
    told = f"{more}{theirs:.1f} s ({author['accuracy']:.2%} after {author['epochs']} epochs)"
    times = f"{more}{theirs / ours:.1f} x: {ours:.1f} s ({reached:.2%}) to {told}"
    what = "process until 89.39 % test accuracy, fashion_mnist_fast to the author's recipe"
    return [Row(what, times, ">= 10 x", theirs / ours >= 10)]


def answers(setting: Setting) -> list[Row]:  # noqa: ARG001 - all benchmarks are called alike
    """How long the texts that need no torch take, as a share of `import torch`."""
    programs = {
        "import torch": ["-c", "import torch"],
        "--cfg job": ["-m", "lightbed", "train", "--cfg", "job"],
        "--help": ["-m", "lightbed", "train", "--help"],
    }
    taken = {name: min(seconds(*words)[0] for _ in range(5)) for name, words in programs.items()}
    rows = []
    for name, goal in (("--cfg job", 1 / 4), ("--help", 1 / 3)):
        share = taken[name] / taken["import torch"]
        measured = f"{share:.2f}: {taken[name]:.2f} s to {taken['import torch']:.2f} s"
        rows.append(Row(f"lightbed train {name} to `import torch`", measured, f"<= {goal:.2f}", share <= goal))
    return rows


def seconds(*words: str) -> tuple[float, str]:
    """How long this Python takes with these arguments, and what it prints.

    Raises:
        RuntimeError: it fails.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env={**os.environ})
    taken = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return taken, done.stdout
