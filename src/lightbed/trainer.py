"""Lightning's Trainer for a run, with its callbacks and loggers."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
from lightning.pytorch import Callback

from lightbed import build
from lightbed.callbacks.chance import StepSeed
from lightbed.callbacks.epoch_start import EpochStart
from lightbed.callbacks.finite import Finite
from lightbed.callbacks.progress import Progress
from lightbed.callbacks.pruning import Pruning
from lightbed.callbacks.together import Together
from lightbed.errors import UserError, one_of
from lightbed.monitor import mode_of
from lightbed.runs import memory, processes, sharded
from lightbed.runs.board import Board, parameters
from lightbed.runs.checkpoint import AtomicCheckpointIO
from lightbed.runs.history import History, best_epoch
from lightbed.runs.overhead import NoProfiler
from lightbed.runs.record import Record
from lightbed.runs.settings import check_settings


def make_trainer(config: build.Config, record: Record, since: int | None = None) -> L.Trainer:
    """The Trainer with loggers and callbacks for the run of `record`; `since`: see `run`."""
    check_settings(config["trainer"])
    settings = {**config["trainer"], "strategy": sharded.make_strategy(config["trainer"].get("strategy"))}
    nan, out_of_memory = settings.pop("nan", "stop"), settings.pop("batch_size_on_oom", "stop")
    callbacks = make_callbacks(config, record, nan, out_of_memory)
    loggers = make_loggers(config, record, since, callbacks)
    profiler = {} if config["trainer"].get("profiler") else {"profiler": NoProfiler()}
    trainer: L.Trainer = build.make(
        settings,
        "trainer",
        **profiler,
        default_root_dir=str(record.folder),
        callbacks=[*callbacks, loggers[0]],
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # ours deal out the samples themselves
        num_sanity_val_steps=0,  # validation comes early enough in short epochs, and half a check is no result
        enable_model_summary=False,  # callbacks.layers has a table of the network alone
        log_every_n_steps=1_000_000_000,  # values are logged once an epoch; a look at every step costs time
    )
    processes.check_number(trainer)
    if trainer.world_size > 1:
        for key, value, other in (("nan", nan, "skip"), ("batch_size_on_oom", out_of_memory, "halve")):
            if value == other:  # all processes must take each step
                raise UserError(f"trainer.{key}={value} is for a run in one process: use stop")
    return trainer


def make_callbacks(config: build.Config, record: Record, nan: str, out_of_memory: str) -> list[Callback]:
    """Those that every run has and those of the config; `nan` and `out_of_memory` as in `trainer`."""
    monitor = config["task"]["monitor"]
    callbacks: list[Callback] = [
        Together(config, record.content),
        StepSeed(config["seed"]),
        Finite(nan),
        memory.Place(),
    ]
    for name, part in config["callbacks"].items():
        if part is not None:
            where = f"callbacks.{name}"
            callbacks.append(build.make(build.fill_auto(part, {"mode": mode_of(monitor)}, where), where))
    if config.get("trial") is not None:
        callbacks.append(Pruning(config["trial"], monitor))
    if one_of(out_of_memory, ("stop", "halve"), "trainer.batch_size_on_oom") == "halve":
        callbacks.append(EpochStart())  # after the checkpoints, so that it knows of the best one
    return callbacks


def make_loggers(config: build.Config, record: Record, since: int | None, callbacks: Sequence[Callback]) -> list[Any]:
    """The history, which tells TensorBoard and the progress bar of each epoch, and TensorBoard where it is wanted."""
    monitor, epochs = config["task"]["monitor"], config["trainer"]["max_epochs"]
    mode, history = mode_of(monitor), History(record.folder)
    loggers: list[Any] = [history]
    if config["logger"]["tensorboard"]:
        board = make_board(config, record, since)
        loggers.append(board)
        history.listeners.append(board.log_row)
    bar = next((callback for callback in callbacks if isinstance(callback, Progress)), None)
    if bar is not None:
        history.listeners.append(
            lambda row: bar.epoch_line(row, epochs, best=best_epoch(history.rows, monitor, mode) == row["epoch"])
        )
    return loggers


def make_board(config: build.Config, record: Record, since: int | None) -> Board:
    """TensorBoard's event files of the run, with its hyperparameters where it is a new one."""
    board = Board(record.folder, since)
    if since is None:
        monitored = config["task"]["monitor"].partition("/")[2]
        board.begin(parameters(config, record.content.get("choices", {}), record.overrides), monitored)
    return board
