"""Run folders, found and read."""

import csv
import glob
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightbed.errors import UserError
from lightbed.figures import read_figures
from lightbed.monitor import mode_of

# the C parser is ten times faster, which 500 configs need
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Run:
    """What a run folder says, as far as a comparison needs it."""

    folder: Path
    settings: dict[str, str]  # what each group chose, then each key of the config by its dotted name
    choices: set[str]  # those of the settings that are groups
    named: list[str]  # settings that its command line named
    status: str  # done, failed, interrupted, running, pruned or killed
    seconds: float | None
    memory: float | None  # MiB at most of its largest process
    gpu_memory: float | None  # MiB at most that torch took on one GPU
    monitor: str
    metrics: dict[str, float]  # final ones; `epoch` is that of the tested weights, from 0
    history: list[dict[str, float]] = field(repr=False)
    error: str = ""

    @property
    def best(self) -> dict[str, float] | None:
        """The row of the epoch with the best monitored value, the first of equals; None where there is none."""
        rows = [row for row in self.history if row.get(self.monitor, float("nan")) == row.get(self.monitor)]
        if not rows:
            return None
        sign = -1 if mode_of(self.monitor) == "max" else 1
        return min(rows, key=lambda row: sign * row[self.monitor])


def find_runs(places: Sequence[str]) -> list[Run]:
    """All training runs in folders, and in the folders in them; a place may be a pattern with * and **.

    Raises:
        UserError: a place does not exist, or there is no run in any.
    """
    folders: dict[Path, None] = {}
    sweeps: dict[Path, None] = {}
    for place in places:
        for start in _starts(place):
            for folder, is_run in _walk(start.resolve()):
                (folders if is_run else sweeps)[folder] = None
    runs = [run for folder in folders if (run := read_run(folder)) is not None]
    runs += [run for folder in sweeps for run in _never_began(folder)]
    spent = {job: seconds for folder in sweeps for job, seconds in _spent(folder)}
    for run in runs:
        if run.seconds is None:  # it was killed, so it could not say it itself
            run.seconds = spent.get(run.folder)
    if not runs:
        raise UserError(
            f"runs={','.join(places)} holds no training runs: give a folder that has some, e.g. runs=outputs"
        )
    return runs


def split_places(places: Any) -> list[str]:
    """Places as the config gives them, a list or a text with commas; job folders have commas in their names, too."""
    if not isinstance(places, str):
        return [str(place) for place in places]
    found: list[str] = []
    parts = places.split(",")
    while parts:
        # the longest beginning that exists; what does not is told later, by name
        cuts = [i for i in range(len(parts), 0, -1) if _matches(",".join(parts[:i]).strip())]
        cut = cuts[0] if cuts else 1
        found.append(",".join(parts[:cut]).strip())
        parts = parts[cut:]
    return [place for place in found if place]


def _matches(place: str) -> list[str]:
    path = os.path.expanduser(place)  # noqa: PTH111 - a pattern is no path
    return [path] if Path(path).exists() else glob.glob(path, recursive=True)  # noqa: PTH207


def _starts(place: str) -> list[Path]:
    matches = [Path(path) for path in sorted(_matches(place)) if Path(path).is_dir()]
    if not matches:
        what = "fits no folder" if glob.has_magic(place) else "is no folder"
        raise UserError(f"runs={place} {what}: give folders of runs or of multiruns, e.g. runs=outputs")
    return matches


def _walk(start: Path) -> Iterator[tuple[Path, bool]]:
    """Folders with a run.json (True) or a sweep.json at or below `start`; links such as `latest` are not followed."""
    for folder, inside, files in os.walk(start):
        inside[:] = sorted(name for name in inside if not name.startswith("attempt_"))  # what a job's retry set aside
        if "sweep.json" in files and "frozen" in inside:  # configs and code
            inside.remove("frozen")
        if "run.json" in files:  # runs hold no others
            inside.clear()
            yield Path(folder), True
        elif "sweep.json" in files:
            yield Path(folder), False


def _spent(sweep: Path) -> Iterator[tuple[Path, float]]:
    """The seconds of the last attempt of each job of a sweep, as far as it has ended."""
    for job in _json(sweep / "sweep.json").get("jobs", []):
        for attempt in (job.get("attempts") or [])[-1:]:
            if isinstance(seconds := attempt.get("seconds"), int | float):
                yield sweep / str(job.get("folder")), float(seconds)


def _never_began(sweep: Path) -> Iterator[Run]:
    """The jobs of a sweep that ended before they became a run: killed at once, or out of memory while they began."""
    for job in _json(sweep / "sweep.json").get("jobs", []):
        folder = sweep / str(job.get("folder"))
        if job.get("status") not in ("failed", "killed") or (folder / "run.json").exists():
            continue
        frozen = _json(sweep / "frozen" / f"{job.get('id')}.json")
        config = frozen.get("config", {})
        chosen = frozen.get("hydra", {}).get("runtime", {}).get("choices", {})
        choices = {name: str(value) for name, value in chosen.items() if value and not name.startswith("hydra/")}
        yield Run(
            folder=folder,
            settings=choices | dict(flatten(config)),
            choices=set(choices),
            named=_keys(job.get("overrides", [])),
            status=job["status"],
            seconds=None,
            memory=None,
            gpu_memory=None,
            monitor=str((config.get("task") or {}).get("monitor") or "val/loss"),
            metrics={},
            history=[],
            error=" ".join(str(job.get("error") or "").split()),
        )


def read_run(folder: Path) -> Run | None:
    """The run in a folder, None where it is no training; parts that are missing or damaged are empty."""
    record = _json(folder / "run.json")
    if record.get("kind", "train") != "train":
        return None
    config = _yaml(folder / "config.yaml")
    config = config if isinstance(config, dict) else {}
    words = _yaml(folder / "overrides.yaml") or []
    choices = {name: str(value) for name, value in (record.get("choices") or {}).items() if value is not None}
    status, memory = _status(record), record.get("memory") or {}
    return Run(
        folder=folder,
        settings=choices | dict(flatten(config)),
        choices=set(choices),
        named=_keys(words),
        status=status,
        seconds=record.get("seconds"),
        memory=max((memory[name] for name in ("process", "child") if name in memory), default=None),
        gpu_memory=memory.get("gpu"),
        monitor=str((config.get("task") or {}).get("monitor") or "val/loss"),
        metrics=read_figures(folder / "metrics.json"),
        history=_history(folder / "metrics.csv"),
        error="" if status in ("done", "running") else _last_line(record, folder),
    )


def _keys(words: Sequence[str]) -> list[str]:
    return [str(word).lstrip("+~").partition("=")[0].partition("@")[0] for word in words]


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names of a config's values, and the values as a command line would say them."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", spell(value)


def spell(value: Any) -> str:
    """A value as a command line would say it: null, true, 0.001, [1,2]."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def _status(record: Mapping[str, Any]) -> str:
    """The run's status; a run that stopped without saying so, and whose process is gone, was killed."""
    status = str(record.get("status", "unknown"))
    process = record.get("process") or {}
    if status != "running" or process.get("host") != platform.node():
        return status
    try:
        os.kill(int(process["pid"]), 0)
    except ProcessLookupError:
        return "killed"
    except (OSError, KeyError, ValueError):
        pass
    return status


def _last_line(record: Mapping[str, Any], folder: Path) -> str:
    text = str(record.get("error") or record.get("pruned") or "")
    if not text:
        log = folder / "log.txt"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _history(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv; empty cells, and what a killed run left half written, are left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: value for name, text in row.items() if (value := _number(text)) is not None}
                for row in csv.DictReader(file)]  # fmt: skip
    return [row for row in rows if "epoch" in row]


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
