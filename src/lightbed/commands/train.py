"""`lightbed train`: fit, test the best checkpoint, leave a run folder."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from torch.nn.parameter import is_lazy

from lightbed import build, folders
from lightbed.callbacks.checkpoint import Checkpoints
from lightbed.chance import derive, seed_all
from lightbed.data.base import DataModule
from lightbed.errors import Pruned, UserError, one_of
from lightbed.figures import read_figures
from lightbed.runs import kernels, memory, processes, sharded, transfer
from lightbed.runs.board import Board
from lightbed.runs.checkpoint import read_checkpoint, settle
from lightbed.runs.differences import changed_files, known_files
from lightbed.runs.log import say
from lightbed.runs.overhead import keep_memory, settle_devices, skip_empty_hooks, skip_filling
from lightbed.runs.places import absolute
from lightbed.runs.record import Record, point_latest
from lightbed.runs.results import show_results, write_metrics
from lightbed.runs.resume import Resumed, alone, check_fits, own_config, training_record
from lightbed.runs.settings import check_monitor
from lightbed.runs.signals import sigterm_stops
from lightbed.tasks.base import Task
from lightbed.tasks.segmenter import Segmenter
from lightbed.trainer import make_trainer

Once = Callable[[build.Config, Record, Path | None, int | None], float | None]
"""What `run` does with a configuration, see `run_once`."""


class Prepared(NamedTuple):
    """What a run is made of: the configuration, with the data's facts filled in, and what it builds."""

    config: build.Config
    data: DataModule
    task: Task


def train(cfg: DictConfig) -> float | None:
    """Run the training that `cfg` describes; returns the monitored value for Hydra's sweepers.

    Raises:
        UserError: the configuration or the data is wrong.
    """
    config = build.resolve(cfg)
    processes.settle_rank(config["trainer"])
    with sigterm_stops():
        resume, _, _ = config.pop("resume"), config.pop("trust"), config.pop("sweep")
        if resume is not None:
            return go_on(cfg)
        config = absolute(config)
        with suppress(Pruned), Record.of_job(config, "train") as record, alone(record.folder):
            if "parent" in record.content:
                folders.note_sweep(record.folder.parent)
            point_latest(record.folder, Path(config["paths"]["outputs"]).expanduser())
            return run(config, record)
        say("this trial ends here: the search goes on with others")
        return None


def go_on(cfg: DictConfig) -> float | None:
    """Resume the run that `cfg` names, in its folder, from its last checkpoint or, where it has none, from the start.

    Raises:
        UserError: it cannot go on, or not with these overrides.
    """
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        raise UserError("resume goes on with one run: leave out -m")
    folder = folders.find_run(cfg.resume)
    config = own_config(folder, cfg, list(hydra.overrides.task))
    processes.settle_rank(config["trainer"])
    with alone(folder):
        last = folder / "checkpoints" / "last.ckpt"
        before = read_checkpoint(last) if last.is_file() else {"global_step": 0}
        if training_record(folder).get("status") == "done" and not longer(config, before):
            say(f"{folder} is done: nothing is left to do; trainer.max_epochs=N trains on")
            return read_figures(folder / "metrics.json").get(config["task"]["monitor"])
        record = Resumed(folder, config, before["global_step"])
        with record:
            if record.differences:
                say(f"the last bits may differ, for the run goes on with {', '.join(record.differences)}")
            return run(config, record, last if last.is_file() else None, before["global_step"])


def longer(config: build.Config, checkpoint: dict[str, Any]) -> bool:
    """Whether a run is to train for more epochs than its checkpoint says."""
    if "lightbed" not in checkpoint:
        return True
    then = json.loads(checkpoint["lightbed"]["config_json"])
    now, before = (_end(of["trainer"]["max_epochs"]) for of in (config, then))
    return now > before


def _end(epochs: int | None) -> float:
    return math.inf if epochs in (None, -1) else float(epochs or 0)


def run(
    config: build.Config,
    record: Record,
    last: Path | None = None,
    since: int | None = None,
    once: Once | None = None,
) -> float | None:
    """`run_once`, and again in smaller batches where it ran out of memory and `trainer.batch_size_on_oom` says so.

    `once` does something else with the same machinery.
    """
    while True:
        try:
            with processes.noted(record):
                return (once or run_once)(config, record, last, since)
        except memory.OutOfMemoryError as error:
            config = memory.halved(error, config, record)
        memory.free()  # the error, which held the failed step, is gone here
        start = record.folder / "checkpoints" / "last.ckpt"
        last = start if start.is_file() else None
        since = read_checkpoint(start)["global_step"] if last else 0


def run_once(config: build.Config, record: Record, last: Path | None, since: int | None) -> float | None:
    """Build everything, fit, test, and write the results into the record's folder.

    Args:
        config: resolved.
        record: of the run.
        last: checkpoint that it goes on from.
        since: its step; None for a new run.
    """
    config, data, task = prepare(config, record, last)
    note_data(record, data, since)
    folder = record.folder
    say(f"{config['name']} in {folder}" + ("" if since is None else f" goes on after step {since:,}"))

    trainer = make_trainer(config, record, since)
    with processes.together(trainer, record):
        metrics = fit_and_test(config, trainer, task, data, last)
    final = write_metrics(folder, metrics, tested_epoch(trainer), write=record.writes)
    if record.writes:
        show_results(folder, metrics, task, Path(config["paths"]["outputs"]))
    for logger in trainer.loggers:
        if isinstance(logger, Board):
            logger.finish("done", record.spent(), trainer.global_step)
    return final.get(task.monitor)


def prepare(config: build.Config, record: Record, last: Path | None) -> Prepared:
    """Open the data and make the task, with the weights that it begins with; arguments as in `run_once`."""
    check_monitor(config)
    set_machine(config["threads"])
    if config.get("weights") and last is None:
        config = {**config, "weights": transfer.find_source(config["weights"])}  # the one file, also for a rerun
    data, given = build.make_data(config), config
    config = build.with_facts(config, data)
    task = make_task(config, data, record.content["versions"])
    if last is not None:
        check_fits(task, last)
    record.begin()
    record.write_config(config)
    if config.get("weights"):
        record.write(weights={**record.content.get("weights", {}), **transfer.begin(task, given, data, last)})
    return Prepared(config, data, task)


def fit_and_test(
    config: build.Config, trainer: L.Trainer, task: Task, data: DataModule, last: Path | None
) -> dict[str, float]:
    """Train, from the checkpoint `last` on where there is one, and test; returns what was found in the test."""
    if "val" not in data.splits:
        trainer.limit_val_batches = 0  # Lightning warns of a validation without batches
    if trainer.max_epochs != 0:  # null, beside trainer.max_steps, is as many as it takes
        skip_empty_hooks(trainer, task)
        with stages(config, trainer, data):
            trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
    else:
        # zero epochs are a run, too: the untrained network is tested
        trainer.strategy.connect(task)
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
        settle(trainer)
    with stages(config, trainer, data):
        return evaluate(config, trainer, task, data)


@contextmanager
def stages(config: build.Config, trainer: L.Trainer, data: DataModule) -> Iterator[None]:
    """Tell faults of fit, validation and test that torch has no plain words for."""
    with memory.told(trainer, data), sharded.told(config), kernels.named(), kernels.warned():
        try:
            yield
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "a batch norm was given a single value of each channel, which has no variance: where an epoch's last "
                f"batch of data.batch_size={config['data']['batch_size']} has one image, set data.drop_last=true"
            ) from error


def set_machine(threads: int) -> None:
    """What holds for the whole process: threads, devices, memory."""
    build.set_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # or Lightning chooses, for several processes
    # what cuBLAS needs to give the same bits again; it reads it once, with its first product
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settle_devices()
    keep_memory()
    skip_filling()
    torch.set_float32_matmul_precision("high")


def make_task(config: build.Config, data: DataModule, versions: dict[str, str]) -> Task:
    """The task with new weights, and with all that its checkpoints are to say of it."""
    seed_all(derive(config["seed"], "weights"))  # the weights do not depend on what the data drew
    task = build.make_task(config, data.classes, data.preprocess)
    task.colours = {name: list(data.colours[name]) for name in data.classes if name in data.colours}
    if isinstance(task, Segmenter):
        task.largest = data.largest()
    task.provenance = {
        "config_json": json.dumps(config),
        "seed": config["seed"],
        "threads": config["threads"],
        "versions": versions,
        **({"category_ids": data.category_ids} if data.category_ids else {}),
    }
    task.example_input_array = torch.zeros(1, data.preprocess.channels, *data.facts()["image_size"])
    if any(is_lazy(weight) for weight in task.model.parameters()):  # layers that take their shapes from a first image
        with torch.no_grad():
            task.model.eval()(data.preprocess(task.example_input_array))
        task.model.train()
    return task


def note_data(record: Record, data: DataModule, since: int | None) -> None:
    """Write down what the data is; where the run goes on after step `since`, say which files are others than then."""
    contents = data.contents()
    if since and (changed := changed_files(known_files(record.folder), contents.hashes)):
        say(f"the run goes on with other files of data than it began with: {changed}")
    record.write_data({**describe(data), "fingerprint": contents.summary()}, contents.hashes)


def describe(data: DataModule) -> dict[str, Any]:
    """The data's part of the record: images a split, classes, what was broken or wrong."""
    counts = {name: len(source) for name, source in data.splits.items()}
    skipped = {"skipped": len(data.skipped), "skipped_files": data.skipped, "label_faults": data.label_faults}
    return {"images": counts, "classes": data.classes, **skipped}


def tested_epoch(trainer: L.Trainer) -> int | None:
    """The epoch whose weights were tested last, as far as it is another than the last one."""
    if Path(trainer.ckpt_path or "").stem != "best":
        return None
    return next(c.best_epoch for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]


def evaluate(config: build.Config, trainer: L.Trainer, task: Task, data: DataModule) -> dict[str, float]:
    """Test the checkpoint that `test` names; without a test split, validate the last weights instead."""
    choice = one_of(config["test"], ("auto", "best", "last", "none"), "test")
    best = Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt"
    if choice == "none":
        return {}
    if choice == "best" and not best.is_file():
        raise UserError("test=best: there is no best checkpoint, for nothing was validated; use test=last")
    file = best if choice == "best" or (choice == "auto" and best.is_file()) else best.with_name("last.ckpt")
    # a run without callbacks.checkpoint has no file: the weights that it ended with are tested as they are
    path = str(file) if file.is_file() else None
    if "test" in data.splits:
        found = trainer.test(task, datamodule=data, ckpt_path=path, verbose=False, weights_only=True)
    elif "val" in data.splits:
        found = trainer.validate(task, datamodule=data, ckpt_path=path, verbose=False, weights_only=True)
    else:
        return {}
    return {name: float(value) for name, value in found[0].items()}
