"""`lightbed train`: fit, test the best checkpoint, leave a run folder."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from omegaconf import DictConfig

from lightbed import build, folders
from lightbed.callbacks.chance import StepSeed
from lightbed.callbacks.checkpoint import Checkpoints
from lightbed.callbacks.progress import Progress
from lightbed.chance import derive, seed_all
from lightbed.data.base import DataModule
from lightbed.errors import UserError, nearest, one_of
from lightbed.monitor import mode_of
from lightbed.runs.board import Board, parameters
from lightbed.runs.checkpoint import AtomicCheckpointIO
from lightbed.runs.history import History, best_epoch
from lightbed.runs.log import say
from lightbed.runs.overhead import NoProfiler, keep_memory, settle_devices, skip_empty_hooks
from lightbed.runs.record import Record, point_latest
from lightbed.runs.results import show_results, write_metrics
from lightbed.tasks.base import Task


def train(cfg: DictConfig) -> float | None:
    """Run the training that `cfg` describes; returns the monitored value for Hydra's sweepers.

    Raises:
        UserError: the configuration or the data is wrong.
    """
    config = build.resolve(cfg)
    with Record.of_job(config, "train") as record:
        if "parent" in record.content:
            folders.note_sweep(record.folder.parent)
        point_latest(record.folder, Path(config["paths"]["outputs"]).expanduser())
        return run(config, record)


def run(config: build.Config, record: Record) -> float | None:
    """Build everything, fit, test, and write the results into the record's folder."""
    folder = record.folder
    build.set_threads(config["threads"])
    settle_devices()
    keep_memory()
    torch.set_float32_matmul_precision("high")
    data = build.make_data(config)
    config = build.with_facts(config, data)
    record.write_config(config)
    seed_all(derive(config["seed"], "weights"))  # the weights do not depend on what the data drew
    task = build.make_task(config, data.classes, data.preprocess)
    task.provenance = {
        "config_json": json.dumps(config),
        "seed": config["seed"],
        "threads": config["threads"],
        "versions": record.content["versions"],
    }
    size = data.facts()["image_size"]
    task.example_input_array = torch.zeros(1, data.preprocess.channels, *size)
    record.write(data=describe(data))
    say(f"{config['name']} in {folder}")

    trainer = make_trainer(config, record)
    if "val" not in data.splits:
        trainer.limit_val_batches = 0  # Lightning warns of a validation without batches
    epochs = trainer.max_epochs
    if epochs:
        skip_empty_hooks(trainer, task)
        trainer.fit(task, datamodule=data)
    else:
        # zero epochs are a run, too: the untrained network is tested
        trainer.strategy.connect(task)
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    metrics = evaluate(config, trainer, task, data)
    final = write_metrics(folder, metrics, tested_epoch(trainer))
    show_results(folder, metrics, task, Path(config["paths"]["outputs"]))
    for logger in trainer.loggers:
        if isinstance(logger, Board):
            logger.finish("done")
    return final.get(task.monitor)


def describe(data: DataModule) -> dict[str, Any]:
    """The data's part of the record: images a split, classes, what was broken or wrong, what the files hold."""
    counts = {name: len(source) for name, source in data.splits.items()}
    skipped = {"skipped": len(data.skipped), "skipped_files": data.skipped, "label_faults": data.label_faults}
    return {"images": counts, "classes": data.classes, **skipped, "fingerprint": data.fingerprint()}


def check_devices(settings: build.Config) -> None:
    """Refuse accelerators and strategies that Lightning does not have, with the nearest ones that it has."""
    known = {
        "accelerator": ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
    }
    for key, names in known.items():
        value = settings.get(key)
        if isinstance(value, str) and value not in names:
            raise UserError(f"trainer.{key}={value} is not known: {nearest(value, names)}")


def make_trainer(config: build.Config, record: Record) -> L.Trainer:
    """The Trainer with loggers and callbacks for the run of `record`."""
    check_devices(config["trainer"])
    folder, monitor, epochs = record.folder, config["task"]["monitor"], config["trainer"]["max_epochs"]
    mode = mode_of(monitor)
    callbacks: list[Callback] = [StepSeed(config["seed"])]
    for name, settings in config["callbacks"].items():
        if settings is not None:
            where = f"callbacks.{name}"
            callbacks.append(build.make(build.fill_auto(settings, {"mode": mode}, where), where))
    history = History(folder)
    loggers: list[Any] = [history]
    if config["logger"]["tensorboard"]:
        words = yaml.safe_load((folder / "overrides.yaml").read_text(encoding="utf-8"))
        board = Board(folder)
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
        config["trainer"],
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
