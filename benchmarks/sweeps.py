"""Multiruns: whether the jobs keep the machine busy, what starting one costs, and how long many take to be checked."""

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from benchmarks.paired import Row, Setting

JOBS, CHECKED = 12, 500
SMALL = ["callbacks.pictures=null", "logger.tensorboard=false", "model.channels=[8]", "trainer.max_epochs=8"]


def launcher(setting: Setting) -> list[Row]:
    """All of it."""
    seeds, words = f"seed=range(0,{JOBS})", [*SMALL, "threads=1", "trainer.accelerator=cpu"]
    forked = sweep(setting.scratch / "fork", seeds, *words)
    jobs = [job["attempts"][-1] for job in forked]
    slots = len(os.sched_getaffinity(0))
    begin = min(datetime.fromisoformat(job["start"]).timestamp() for job in jobs)
    end = max(datetime.fromisoformat(job["start"]).timestamp() + job["seconds"] for job in jobs)
    ideal = sum(job["seconds"] for job in jobs) / slots
    ratio = (end - begin) / ideal
    busy = f"{ratio:.2f} x: {end - begin:.1f} s to {ideal:.1f} s, {JOBS} jobs on {slots} cores"
    rows = [Row("multirun's makespan to its jobs' seconds / cores", busy, "<= 1.15 x", ratio <= 1.15)]
    taken = {"fork": before_run(setting.scratch / "fork", forked)}
    fresh = sweep(setting.scratch / "fresh", "seed=0,1", *words, "hydra.launcher.start=fresh")
    taken["fresh"] = before_run(setting.scratch / "fresh", fresh)
    share = taken["fork"] / taken["fresh"]
    told = f"{share:.2f}: {taken['fork']:.1f} s to {taken['fresh']:.1f} s"
    rows.append(Row("a job's seconds outside its run: forked to a new Python", told, "<= 0.5", share <= 0.5))
    seconds = checked(setting.scratch)
    what = f"{CHECKED} jobs composed and checked, start of the command included"
    return [*rows, Row(what, f"{seconds:.1f} s", "<= 30 s", seconds <= 30)]


def sweep(folder: Path, *words: str) -> list[dict]:
    """Run a multirun; returns what its sweep.json says of the jobs."""
    run("-m", *words, f"hydra.sweep.dir={folder}", code=0)
    jobs: list[dict] = json.loads((folder / "sweep.json").read_text())["jobs"]
    return jobs


def before_run(folder: Path, jobs: list[dict]) -> float:
    """Mean seconds of the jobs that were not their runs'."""
    runs = [json.loads((folder / job["folder"] / "run.json").read_text())["seconds"] for job in jobs]
    return (sum(job["attempts"][-1]["seconds"] for job in jobs) - sum(runs)) / len(jobs)


def checked(scratch: Path) -> float:
    """Seconds until a multirun is refused whose faults stand in its second half only."""
    start = time.perf_counter()
    run("-m", "test=last,bset", f"seed=range(0,{CHECKED // 2})", f"hydra.sweep.dir={scratch / 'checked'}", code=2)
    taken = time.perf_counter() - start
    frozen = sum(1 for _ in (scratch / "checked" / "frozen").glob("*.json"))
    if frozen != CHECKED:
        raise RuntimeError(f"{frozen} jobs were composed instead of {CHECKED}")
    return taken


def run(*words: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "lightbed", "train", *words], capture_output=True, text=True)
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
