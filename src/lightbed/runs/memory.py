"""A step that does not fit into memory: told in one line, or tried again in smaller batches."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch import Callback

from lightbed.build import Config
from lightbed.data.base import DataModule
from lightbed.errors import RunError
from lightbed.runs.log import say
from lightbed.runs.record import Record

_SAID = ("out of memory", "can't allocate memory", "not enough memory")
_LIMITS = ("limit_train_batches", "limit_val_batches")  # where they count batches
_STAGES = {"train": "train", "validate": "val", "sanity_check": "val", "test": "test"}


class OutOfMemoryError(RunError):
    """A step did not fit.

    Args:
        text: the message.
        where: `stage` (train, val or test), `epoch` from 0 and `step` of the optimizer.
    """

    def __init__(self, text: str, where: dict[str, Any]) -> None:
        super().__init__(text)
        self.where = where


class Place(Callback):
    """Notes where a run fails: Lightning forgets the stage before it hands the error on."""

    def __init__(self) -> None:
        self.where: dict[str, Any] = {"stage": "train", "epoch": 0, "step": 0}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        stage = _STAGES.get(str(getattr(trainer.state.stage, "value", "")), "train")
        self.where = {"stage": stage, "epoch": trainer.current_epoch, "step": trainer.global_step}


@contextmanager
def told(trainer: L.Trainer, data: DataModule) -> Iterator[None]:
    """Say of an error of memory in the stages of `trainer`, which has `Place`, what did not fit, and what to try.

    Raises:
        OutOfMemoryError: in place of the error.
    """
    try:
        yield
    except Exception as error:
        if not _is_memory(error):
            raise
        where = next(callback.where for callback in trainer.callbacks if isinstance(callback, Place))  # type: ignore[attr-defined]
        raise OutOfMemoryError(_explain(error, where, data, alone=trainer.world_size == 1), where) from error


def _is_memory(error: BaseException | None) -> bool:
    """Whether memory is behind an error: torch has a class for GPUs alone."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(said in text for said in _SAID):
            return True
        error = error.__cause__
    return False


def _explain(error: BaseException, where: dict[str, Any], data: DataModule, *, alone: bool) -> str:
    training = where["stage"] == "train"
    key, size = ("batch_size", data.batch_size) if training else ("eval_batch_size", data.eval_batch_size)
    pixels = data.preprocess.size
    shape = "x".join(map(str, (data.preprocess.channels, *pixels))) if pixels else "their own sizes"
    place = f"step {where['step'] + 1:,} of epoch {where['epoch'] + 1}" if training else f"the {where['stage']} stage"
    tries = [f"a smaller data.{key}"]
    if training:
        tries[0] += " (with as many times more trainer.accumulate_grad_batches the result stays nearly the same)"
    tries += ["trainer.precision=bf16-mixed", "smaller data.image_size"]
    by_itself = (
        ""
        if where["stage"] == "test" or not alone
        else ", or trainer.batch_size_on_oom=halve, which halves it by itself"
    )
    reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return (
        f"out of memory in {place} with data.{key}={size} images of {shape} ({reason}): try "
        f"{', '.join(tries)}{by_itself}"
    )


def halved(error: OutOfMemoryError, config: Config, record: Record) -> Config:
    """What to try again with, recorded in run.json as `out_of_memory`; last.ckpt is then the epoch's start.

    Raises:
        OutOfMemoryError: again, where halving was not asked for or is not possible.
    """
    training, data, trainer = error.where["stage"] == "train", config["data"], config["trainer"]
    before = {
        "batch_size": data["batch_size"],
        "eval_batch_size": data.get("eval_batch_size") or data["batch_size"],
        "accumulate_grad_batches": trainer["accumulate_grad_batches"],
        **{name: trainer[name] for name in _LIMITS if isinstance(trainer.get(name), int)},
    }
    key = "batch_size" if training else "eval_batch_size"
    if trainer.get("batch_size_on_oom") != "halve" or error.where["stage"] == "test" or before[key] < 2:
        raise error
    after = {**before, key: before[key] // 2}
    for name in ("accumulate_grad_batches", "limit_train_batches") if training else ("limit_val_batches",):
        if name in after:
            after[name] *= 2
    begin_epoch_again(record.folder)
    again = [*record.content.get("out_of_memory", []), {**error.where, "before": before, "after": after}]
    record.write(out_of_memory=again)
    changed = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in after if after[name] != before[name])
    say(f"{str(error).partition(' (')[0]}; epoch {error.where['epoch'] + 1} begins again with {changed}")
    return with_sizes(config, after)


def with_sizes(config: Config, sizes: Mapping[str, int]) -> Config:
    """A configuration with the batches that an entry of `out_of_memory` says, `before` or `after`."""
    of_data = {name: size for name, size in sizes.items() if name.endswith("batch_size")}
    of_trainer = {name: size for name, size in sizes.items() if name not in of_data}
    return {**config, "data": {**config["data"], **of_data}, "trainer": {**config["trainer"], **of_trainer}}


def begin_epoch_again(folder: Path) -> None:
    """Let last.ckpt be the start of the epoch, so that a kill from now on goes on from there, too."""
    start, last = (folder / "checkpoints" / f"{name}.ckpt" for name in ("epoch", "last"))
    if start.is_file():
        start.replace(last)
    else:
        last.unlink(missing_ok=True)  # it was in the first epoch


def free() -> None:
    """Give back what the failed step held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
