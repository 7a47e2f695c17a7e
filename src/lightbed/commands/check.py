"""`lightbed check`: what a training would meet late, met at once, in a folder that is gone afterwards."""

import shutil
import sys
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lightbed import build
from lightbed.callbacks.layers import size_line
from lightbed.callbacks.probe import Probe
from lightbed.commands import train
from lightbed.data.look import look
from lightbed.errors import UserError
from lightbed.folders import near
from lightbed.runs import processes
from lightbed.runs.load import load_run
from lightbed.runs.peak import MIB, machine_memory, peak_memory
from lightbed.runs.record import Record
from lightbed.runs.resume import alone
from lightbed.runs.results import write_metrics
from lightbed.runs.signals import sigterm_stops
from lightbed.tasks.base import Task
from lightbed.trainer import make_trainer

WIDTH = 100
_INDENT = 11
_PICTURED = 4  # images in the grid of predictions
_NAMED = 10  # classes
_CLOSE = 0.8  # share of memory from which there is a warning

Tell = Callable[[str, str], None]


def check(cfg: DictConfig) -> None:
    """Look at the data of the training that `cfg` describes, and take a few steps of it with all that belongs to it.

    Raises:
        UserError: the configuration or the data is wrong.
    """
    config = build.resolve(cfg)
    images = config.pop("images")
    if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 1):
        raise UserError(f"images={images} must be a whole number of at least 1, or null for all")
    hydra = HydraConfig.get()
    if config["resume"] is not None:
        raise UserError(f"resume={config['resume']}: a run that has begun is past its check; leave out resume")
    processes.settle_rank(config["trainer"])
    for key in ("resume", "trust", "sweep"):
        config.pop(key)
    if hydra.mode is RunMode.MULTIRUN:
        _tell("job", Path(hydra.runtime.output_dir).name)
    with sigterm_stops(), Record.of_job(config, "check") as record, alone(record.folder):
        train.run(smaller(config), record, once=partial(check_once, images=images))


def smaller(config: build.Config) -> build.Config:
    """The configuration with few images in the grid of predictions: to draw one shows whether all can be drawn."""
    callbacks = dict(config["callbacks"])
    for name, part in callbacks.items():
        if part and str(part.get("_target_")).endswith(".Pictures") and isinstance(part.get("count"), int):
            callbacks[name] = {**part, "count": min(part["count"], _PICTURED)}
    return {**config, "callbacks": callbacks}


def check_once(config: build.Config, record: Record, *_: Any, images: int | None) -> None:
    """Report on data, steps, time, memory and disk; the arguments are those of `train.run_once`."""
    config, data, task = train.prepare(config, record, None)
    probe = Probe(_to(sys.stdout))
    with redirect_stdout(StringIO()):  # a bar of its own would draw over the report
        trainer = make_trainer(config, record)
    trainer.callbacks.insert(0, probe)  # type: ignore[attr-defined]
    network = type(task.model).__name__
    _tell("run", f"{config['name']}: {type(task).__name__} with {network}, {size_line(task.model)}")
    _tell("data", f"{type(data).__name__}, {_classes(data.classes)}")
    warnings = [f"data: {count:,} {kind}" for kind, count in data.label_faults.items()]
    if data.skipped:
        warnings.append(f"data: {len(data.skipped):,} files cannot be read and are left out, e.g. {data.skipped[0]}")
    faults: list[str] = []
    for split in data.splits:
        seen = look(data, split, images)
        _tell(f"  {split}", seen.text)
        warnings += seen.warnings
        faults += seen.faults
    if "val" not in data.splits:
        warnings.append("data: there is no val split, so the last epoch is tested, and nothing shows when it overfits")
    if faults:
        _list("faults", faults[1:])
        raise UserError(faults[0])
    steps(train.Prepared(config, data, task), record, trainer, probe)
    warnings += cost(config, record, task, probe)
    _list("warnings", warnings)


def steps(run: train.Prepared, record: Record, trainer: L.Trainer, probe: Probe) -> None:
    """Take steps of everything with the run's own trainer; what a run says of itself on the way is left out."""
    try:
        with redirect_stdout(StringIO()):
            with processes.together(trainer, record):
                metrics = train.fit_and_test(run.config, trainer, run.task, run.data, None)
            write_metrics(record.folder, metrics, train.tested_epoch(trainer), write=record.writes)
            probe.doing = "loading its checkpoint"
            names = [file.name for file in checkpoints(record.folder)]
            if names and record.writes:
                load_run(record.folder, trust=True)  # it names what this command line named
    except Exception:
        probe.tell("failed", f"in {probe.doing}")
        raise
    pictures = ", ".join(sorted(file.stem for file in record.folder.rglob("*.png")))
    probe.tell("  saved", f"{' and '.join(names)}, loaded again" if names else "no checkpoint: callbacks.checkpoint is off")
    probe.tell("  drawn", pictures or "no pictures")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run."""
    return sorted((folder / "checkpoints").glob("*.ckpt"))


def cost(config: build.Config, record: Record, task: Task, probe: Probe) -> list[str]:
    """Report what the run would take of time, memory and disk; returns what there is too little of."""
    _tell("time", _time(config["trainer"], task, probe))
    warnings, peak, room = [], peak_memory(), machine_memory()
    told = []
    for name, what in (("process", "this process"), ("child", "a reading process"), ("gpu", "the GPU")):
        if not peak.get(name) or (name == "child" and not config["data"].get("num_workers")):
            continue
        whole = room.get("gpu" if name == "gpu" else "cpu")
        told.append(f"{what} {_size(peak[name])}" + (f" of {_size(whole)}" if whole and name != "child" else ""))
        if whole and peak[name] > _CLOSE * whole:
            warnings.append(f"memory: {told[-1]} in a few steps; larger images or more objects in others may not fit")
    _tell("memory", f"at most {', '.join(told)}")
    one = max((file.stat().st_size for file in checkpoints(record.folder)), default=0) / MIB
    # a checkpoint is written beside the former one
    needed = one + sum(file.stat().st_size for file in record.folder.rglob("*") if file.is_file()) / MIB
    outputs = Path(config["paths"]["outputs"]).expanduser().absolute()
    free = shutil.disk_usage(next(place for place in (outputs, *outputs.parents) if place.exists())).free / MIB
    _tell("disk", f"a run writes about {_size(needed)}, a checkpoint has {_size(one)}; {_size(free)} free at {near(outputs)}")
    if needed > free:
        warnings.append(f"disk: {_size(needed)} do not fit into the {_size(free)} that are free at {near(outputs)}")
    return warnings


def _time(trainer: build.Config, task: Task, probe: Probe) -> str:
    epochs = trainer["max_epochs"]
    epoch, whole = probe.seconds(max(epochs or 0, 0), settles=hasattr(task.model, "settle"))
    if not probe.steps:
        return f"about {_span(whole)} for the test alone: trainer.max_epochs={epochs}"
    text = f"{_span(probe.pace('train'))} a step, so about {_span(epoch)} an epoch"
    if epochs == -1:
        return f"{text}; trainer.max_epochs=-1 sets no end (estimated from {probe.steps} steps)"
    limit = f", at most trainer.max_time={trainer['max_time']}" if trainer.get("max_time") else ""
    return f"{text} and {_span(whole)} for {epochs:,} epochs and the test{limit} (estimated from {probe.steps} steps)"


def _span(seconds: float) -> str:
    """`0.0052 s`, `42 s`, `12 min`, `3.5 h` or `2.1 days`: two digits, for it is an estimate."""
    size, unit = next(pair for pair in ((86400, "days"), (3600, "h"), (60, "min"), (0, "s")) if seconds >= 2 * pair[0])
    return f"{float(f'{seconds / (size or 1):.2g}'):g} {unit}"


def _size(mebibytes: float) -> str:
    if mebibytes >= 10_000:
        return f"{mebibytes / 1024:,.0f} GiB"
    return f"{mebibytes:,.0f} MiB" if mebibytes >= 10 else f"{mebibytes:.1f} MiB"


def _classes(names: list[str]) -> str:
    """`3 classes: cat, dog, bird`; of many the first."""
    shown = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
    return f"{len(names)} class{'es' * (len(names) != 1)}: {shown}"


def _list(title: str, lines: list[str]) -> None:
    for line in lines:
        _tell(title, line)


def _to(output: TextIO) -> Tell:
    """What writes a label and its text to an output, in lines of `WIDTH`, from the first process."""

    @rank_zero_only
    def tell(label: str, text: str) -> None:
        lines = textwrap.wrap(text, WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False) or [""]
        told = [f"{label:<{_INDENT}}{lines[0]}", *(" " * _INDENT + line for line in lines[1:])]
        print(*(line.rstrip() for line in told), sep="\n", file=output, flush=True)

    return tell


def _tell(label: str, text: str) -> None:
    _to(sys.stdout)(label, text)
