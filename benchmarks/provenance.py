"""What it costs to record what a run is, at its start."""

import time
from pathlib import Path

from benchmarks.paired import Row, Setting
from lightbed.data.files import contents
from lightbed.runs.record import Record

FILES, BYTES = 10_000, 20_000
GOAL = 0.5  # seconds


def record(setting: Setting) -> list[Row]:
    """Packages, machine, code and the hashes of 10,000 files, when they are hashed and when they are known."""
    photos = setting.scratch / "photos"
    paths = [photos / f"class_{number % 10}" / f"{number:05}.jpg" for number in range(FILES)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "big") * (BYTES // 4))
    time.sleep(0.2)  # files that changed a moment ago are hashed again
    first, *further = [seconds(paths, setting.scratch, f"run_{number}") for number in range(6)]
    best = min(further)
    what = f"provenance at the start of a run, {FILES:,} files"
    return [
        Row(f"{what}, first use", f"{first:.2f} s", ""),
        Row(f"{what}, second use", f"{best:.2f} s", f"at most {GOAL} s", best <= GOAL),
    ]


def seconds(paths: list[Path], scratch: Path, name: str) -> float:
    """How long one run takes to record itself."""
    start = time.perf_counter()
    run = Record(scratch / name, ["lightbed", "train"], [], {"seed": 0, "threads": 2})
    found = contents(paths, scratch / "cache")
    run.write_data({"fingerprint": found.summary()}, found.hashes)
    return time.perf_counter() - start
