"""`lightbed check`: what a training would meet late, met at once, in a folder that is gone afterwards."""

import re
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
from lightbed.data.base import DataModule
from lightbed.data.look import look
from lightbed.errors import UserError
from lightbed.runs import processes
from lightbed.runs.cost import cost
from lightbed.runs.load import load_run
from lightbed.runs.record import Record
from lightbed.runs.results import write_metrics
from lightbed.runs.resume import alone
from lightbed.runs.signals import sigterm_stops
from lightbed.trainer import make_trainer

WIDTH = 100
_INDENT = 11
_PICTURED = 4  # images in the grid of predictions
_NAMED = 10  # classes

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
    probe = Probe(_to(sys.stdout))
    with redirect_stdout(StringIO()) as said:  # bars are drawn on the standard error
        config, data, task = train.prepare(config, record, None)
        trainer = make_trainer(config, record)
    trainer.callbacks.insert(0, probe)  # type: ignore[attr-defined]
    network = type(task.model).__name__
    _tell("run", f"{config['name']}: {type(task).__name__} with {network}, {size_line(task.model)}")
    _tell("data", f"{type(data).__name__}, {_classes(data.classes)}")
    for line in said.getvalue().splitlines():
        if "log.txt" not in line:  # there is none to look into; what it would list is counted below
            _tell("", line)
    warnings, faults = left_out(data, record.folder), list[str]()
    for split in data.splits:
        seen = look(data, split, images)
        _tell(f"  {split}", seen.text)
        warnings += seen.warnings
        faults += seen.faults
    if "val" not in data.splits:
        warnings.append("data: there is no val split, so the last epoch is tested, and nothing shows when it overfits")
    if faults:
        _list("fault", faults[1:])
        raise UserError(faults[0])
    printed = steps(train.Prepared(config, data, task), record, trainer, probe)
    warnings += [f"run: {line}" for line in remarks(printed, read_log(record.folder))]
    if "val" in data.splits and probe.steps and not probe.marks["val"]:
        every = f"trainer.check_val_every_n_epoch={config['trainer']['check_val_every_n_epoch']}"
        warnings.append(f"validation: {every} of {probe.epochs} epochs: there is none, so the last epoch is tested")
    warnings += cost(config, record.folder, task, probe)
    _list("warning", warnings)


def left_out(data: DataModule, folder: Path) -> list[str]:
    """What was wrong in files of the data, with an example of each kind, which the log in `folder` has."""
    lines = [f"data: files left out: {len(data.skipped):,}, e.g. {data.skipped[0]}"] if data.skipped else []
    log = read_log(folder)
    for kind, count in data.label_faults.items():
        found = re.search(rf"label fault: (.*) \({re.escape(kind)}\)$", log, re.M)
        lines.append(f"data: {count:,} {kind}" + (f", e.g. {found[1]}" if found else ""))
    return lines


def read_log(folder: Path) -> str:
    """The log of a run so far."""
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")


def remarks(printed: str, log: str) -> list[str]:
    """What a run has said of its steps, in lines that it has printed and logged: neither tables nor epochs."""
    logged = set(re.findall(r"^[\d-]{10} [\d:]{8} (\S.*)$", log, re.M))
    said = (line for line in printed.splitlines() if line in logged)
    return list(dict.fromkeys(line for line in said if not re.match(r"epoch +\d|[\d,]+ parameters, ", line)))


def steps(run: train.Prepared, record: Record, trainer: L.Trainer, probe: Probe) -> str:
    """Take steps of everything with the run's own trainer; returns what it has printed on the way."""
    try:
        with redirect_stdout(StringIO()) as printed:
            with processes.together(trainer, record):
                metrics = train.fit_and_test(run.config, trainer, run.task, run.data, None)
            write_metrics(record.folder, metrics, train.tested_epoch(trainer), write=record.writes)
            probe.doing = "while its checkpoint is loaded"
            names = [file.name for file in checkpoints(record.folder)]
            if names and record.writes:
                load_run(record.folder, trust=True)  # it names what this command line named
    except Exception as error:
        gone = "; what was written there is gone, and train keeps it" if str(record.folder) in str(error) else ""
        probe.tell("failed", probe.doing + gone)
        raise
    pictures = ", ".join(sorted(file.stem for file in record.folder.rglob("*.png")))
    probe.tell(
        "  saved", f"{' and '.join(names)}, loaded again" if names else "no checkpoint: callbacks.checkpoint is off"
    )
    probe.tell("  drawn", pictures or "no pictures")
    return printed.getvalue()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run."""
    return sorted((folder / "checkpoints").glob("*.ckpt"))


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
