"""What a run would take of time, memory and disk, estimated from a few of its steps."""

import shutil
from pathlib import Path

from lightbed.build import Config
from lightbed.callbacks.probe import Probe
from lightbed.folders import near
from lightbed.runs.peak import MIB, machine_memory, peak_memory
from lightbed.sweeps.devices import cores
from lightbed.tasks.base import Task

_CLOSE = 0.8  # share of memory from which there is a warning
_BUSY = 1.5  # processes a core that want to run


def cost(config: Config, folder: Path, task: Task, probe: Probe) -> list[str]:
    """Tell what a run would take of time, memory and disk, by a few steps of it; returns what there is too little of.

    Args:
        config: of the run.
        folder: what the steps have written.
        task: of the run.
        probe: has watched the steps.
    """
    probe.tell("time", _time(config["trainer"], task, probe))
    busy = f"time: the machine was busy already (load {probe.load:.1f} on {cores()} cores): alone a run takes less"
    return [*([busy] if probe.load > _BUSY * cores() else []), *_memory(config, probe), *_disk(config, folder, probe)]


def _memory(config: Config, probe: Probe) -> list[str]:
    peak, room = peak_memory(), machine_memory()
    told: list[str] = []
    warnings: list[str] = []
    for name, what in (("process", "in this process"), ("child", "in a reading process"), ("gpu", "on the GPU")):
        if not peak.get(name) or (name == "child" and not config["data"].get("num_workers")):
            continue
        whole = room.get("gpu" if name == "gpu" else "cpu")
        of = f" of {_size(whole)}" if whole and name != "child" else ""
        told.append(f"{_size(peak[name])}{of} {what}")
        if whole and peak[name] > _CLOSE * whole:
            warnings.append(f"memory: {told[-1]} in a few steps; larger images or more objects in others may not fit")
    probe.tell("memory", f"at most {', '.join(told)}")
    return warnings


def _disk(config: Config, folder: Path, probe: Probe) -> list[str]:
    one = max((file.stat().st_size for file in folder.glob("checkpoints/*.ckpt")), default=0) / MIB
    # a checkpoint is written beside the former one
    needed = one + sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MIB
    outputs = Path(config["paths"]["outputs"]).expanduser().absolute()
    free = shutil.disk_usage(next(place for place in (outputs, *outputs.parents) if place.exists())).free / MIB
    probe.tell(
        "disk",
        f"a run writes about {_size(needed)}, a checkpoint has {_size(one)}; {_size(free)} free at {near(outputs)}",
    )
    if needed > free:
        return [f"disk: {_size(needed)} do not fit into the {_size(free)} that are free at {near(outputs)}"]
    return []


def _time(trainer: Config, task: Task, probe: Probe) -> str:
    epochs = probe.epochs
    epoch, whole = probe.seconds(max(epochs, 0), settles=hasattr(task.model, "settle"))
    if not probe.steps:
        return f"about {_span(whole)} for the test alone: trainer.max_epochs={epochs}"
    text = f"{_span(probe.pace('train'))} a step, so about {_span(epoch)} an epoch"
    if epochs == -1:
        return f"{text}; trainer.max_epochs=-1 sets no end (estimated from {probe.steps} steps)"
    limit = f", at most trainer.max_time={trainer['max_time']}" if trainer.get("max_time") else ""
    many = f"{epochs:,} epoch{'s' * (epochs != 1)}"
    return f"{text} and {_span(whole)} for {many} and the test{limit} (estimated from {probe.steps} steps)"


def _span(seconds: float) -> str:
    """`0.0052 s`, `42 s`, `12 min`, `3.5 h` or `2.1 days`: two digits, for it is an estimate."""
    size, unit = next(pair for pair in ((86400, "days"), (3600, "h"), (60, "min"), (0, "s")) if seconds >= 2 * pair[0])
    return f"{float(f'{seconds / (size or 1):.2g}'):g} {unit}"


def _size(mebibytes: float) -> str:
    if mebibytes >= 10_000:
        return f"{mebibytes / 1024:,.0f} GiB"
    return f"{mebibytes:,.0f} MiB" if mebibytes >= 10 else f"{mebibytes:.1f} MiB"
