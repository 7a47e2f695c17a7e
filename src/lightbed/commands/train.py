"""`lightbed train`: fit, test the best checkpoint, leave a run folder."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import Callback
from omegaconf import DictConfig

from lightbed import build, folders
from lightbed.callbacks.chance import StepSeed
from lightbed.callbacks.checkpoint import Checkpoints
from lightbed.callbacks.epoch_start import EpochStart
from lightbed.callbacks.finite import Finite
from lightbed.callbacks.progress import Progress
from lightbed.callbacks.pruning import Pruning
from lightbed.callbacks.together import Together
from lightbed.chance import derive, seed_all
from lightbed.data.base import DataModule
from lightbed.errors import Pruned, UserError, one_of
from lightbed.figures import read_figures
from lightbed.monitor import mode_of
from lightbed.runs import kernels, memory, peers, sharded, transfer
from lightbed.runs.board import Board, parameters
from lightbed.runs.checkpoint import AtomicCheckpointIO, read_checkpoint
from lightbed.runs.device import check_devices
from lightbed.runs.differences import changed_files, known_files
from lightbed.runs.history import History, best_epoch
from lightbed.runs.log import say
from lightbed.runs.overhead import NoProfiler, keep_memory, settle_devices, skip_empty_hooks, skip_filling
from lightbed.runs.record import Record, point_latest
from lightbed.runs.results import show_results, write_metrics
from lightbed.runs.resume import Resumed, alone, check_fits, own_config, read_record
from lightbed.runs.signals import sigterm_stops
from lightbed.tasks.base import Task


def train(cfg: DictConfig) -> float | None:
    """Run the training that `cfg` describes; returns the monitored value for Hydra's sweepers.

    Raises:
        UserError: the configuration or the data is wrong.
    """
    config = build.resolve(cfg)
    peers.settle_rank(config["trainer"])
    with sigterm_stops():
        resume, _, _ = config.pop("resume"), config.pop("trust"), config.pop("sweep")
        if resume is not None:
            return go_on(cfg)
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
    peers.settle_rank(config["trainer"])
    with alone(folder):
        last = folder / "checkpoints" / "last.ckpt"
        before = read_checkpoint(last) if last.is_file() else {"global_step": 0}
        if read_record(folder).get("status") == "done" and not longer(config, before):
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
    return bool(config["trainer"]["max_epochs"] > then["trainer"]["max_epochs"])


def run(config: build.Config, record: Record, last: Path | None = None, since: int | None = None) -> float | None:
    """`run_once`, and again in smaller batches where it ran out of memory and `trainer.batch_size_on_oom` says so."""
    while True:
        try:
            return run_once(config, record, last, since)
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
    set_machine(config["threads"])
    if config.get("weights") and last is None:
        config = {**config, "weights": transfer.find_source(config["weights"])}  # the one file, also for a rerun
    data, given = build.make_data(config), config
    config = build.with_facts(config, data)
    record.write_config(config)
    task = make_task(config, data, record.content["versions"])
    if last is not None:
        check_fits(task, last)
    if config.get("weights"):
        record.write(weights={**record.content.get("weights", {}), **transfer.begin(task, given, data, last)})
    note_data(record, data, since)
    folder = record.folder
    say(f"{config['name']} in {folder}" + ("" if since is None else f" goes on after step {since:,}"))

    trainer = make_trainer(config, record, since)
    if "val" not in data.splits:
        trainer.limit_val_batches = 0  # Lightning warns of a validation without batches
    epochs = trainer.max_epochs
    if epochs:
        skip_empty_hooks(trainer, task)
        with stages(config, trainer, data):
            trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
    else:
        # zero epochs are a run, too: the untrained network is tested
        trainer.strategy.connect(task)
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    with stages(config, trainer, data):
        metrics = evaluate(config, trainer, task, data)
    final = write_metrics(folder, metrics, tested_epoch(trainer), write=record.writes)
    if record.writes:
        show_results(folder, metrics, task, Path(config["paths"]["outputs"]))
    for logger in trainer.loggers:
        if isinstance(logger, Board):
            logger.finish("done", record.spent(), trainer.global_step)
    return final.get(task.monitor)


@contextmanager
def stages(config: build.Config, trainer: L.Trainer, data: DataModule) -> Iterator[None]:
    """Tell faults of fit, validation and test that torch has no plain words for."""
    with peers.told(trainer), memory.told(trainer, data), sharded.told(config), kernels.named(), kernels.warned():
        yield


def set_machine(threads: int) -> None:
    """What holds for the whole process: threads, devices, memory."""
    build.set_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # or Lightning chooses, for several processes
    settle_devices()
    keep_memory()
    skip_filling()
    torch.set_float32_matmul_precision("high")


def make_task(config: build.Config, data: DataModule, versions: dict[str, str]) -> Task:
    """The task with new weights, and with all that its checkpoints are to say of it."""
    seed_all(derive(config["seed"], "weights"))  # the weights do not depend on what the data drew
    task = build.make_task(config, data.classes, data.preprocess)
    task.colours = {name: list(data.colours[name]) for name in data.classes if name in data.colours}
    task.provenance = {
        "config_json": json.dumps(config),
        "seed": config["seed"],
        "threads": config["threads"],
        "versions": versions,
        **({"category_ids": data.category_ids} if data.category_ids else {}),
    }
    task.example_input_array = torch.zeros(1, data.preprocess.channels, *data.facts()["image_size"])
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


def make_trainer(config: build.Config, record: Record, since: int | None = None) -> L.Trainer:
    """The Trainer with loggers and callbacks for the run of `record`; `since`: see `run`."""
    check_devices(config["trainer"])
    folder, monitor, epochs = record.folder, config["task"]["monitor"], config["trainer"]["max_epochs"]
    mode = mode_of(monitor)
    settings = {**config["trainer"], "strategy": sharded.make_strategy(config["trainer"].get("strategy"))}
    callbacks: list[Callback] = [Together(config, record), StepSeed(config["seed"])]
    callbacks += [Finite(settings.pop("nan", "stop")), memory.Place()]
    out_of_memory = one_of(settings.pop("batch_size_on_oom", "stop"), ("stop", "halve"), "trainer.batch_size_on_oom")
    for name, part in config["callbacks"].items():
        if part is not None:
            where = f"callbacks.{name}"
            callbacks.append(build.make(build.fill_auto(part, {"mode": mode}, where), where))
    if config.get("trial") is not None:
        callbacks.append(Pruning(config["trial"], monitor))
    if out_of_memory == "halve":
        callbacks.append(EpochStart())  # after the checkpoints, so that it knows of the best one
    history = History(folder)
    loggers: list[Any] = [history]
    if config["logger"]["tensorboard"]:
        words = yaml.safe_load((folder / "overrides.yaml").read_text(encoding="utf-8"))
        board = Board(folder, since)
        if since is None:
            board.begin(parameters(config, record.content.get("choices", {}), words), monitor.partition("/")[2])
        loggers.append(board)
        history.listeners.append(board.log_row)
    bar = next((callback for callback in callbacks if isinstance(callback, Progress)), None)
    if bar is not None:
        history.listeners.append(
            lambda row: bar.epoch_line(row, epochs, best=best_epoch(history.rows, monitor, mode) == row["epoch"])
        )
    profiler = {} if config["trainer"].get("profiler") else {"profiler": NoProfiler()}
    trainer: L.Trainer = build.make(
        settings,
        "trainer",
        **profiler,
        default_root_dir=str(folder),
        callbacks=[*callbacks, history],
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # ours deal out the samples themselves
        num_sanity_val_steps=0,  # validation comes early enough in short epochs, and half a check is no result
        enable_model_summary=False,  # callbacks.layers has a table of the network alone
        log_every_n_steps=1_000_000_000,  # values are logged once an epoch; a look at every step costs time
    )
    peers.check_number(trainer)
    if trainer.world_size > 1 and config["trainer"].get("nan") == "skip":  # Lightning has all processes take each step
        raise UserError("trainer.nan=skip is for a run in one process: use stop")
    return trainer


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
