"""What exactness costs where whole epochs are too noisy to tell: each part of it measured where it is, in one run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, stdev
from typing import Any

import torch
from lightning.pytorch import Callback

from benchmarks.paired import Row, Setting, run
from lightbed.callbacks.chance import StepSeed
from lightbed.callbacks.checkpoint import Checkpoints
from lightbed.data import order
from lightbed.runs import checkpoint as files

BLOCK = 10  # steps with exactness, then as many without: some 30 ms, in which a machine's speed hardly changes
EPOCHS = 25
WARM = 60  # pairs of blocks


class Blocks(Callback):
    """Takes what exactness does in a step away in every second block of steps, and times blocks and checkpoints."""

    pairs: list[tuple[float, float]] = []  # noqa: RUF012 - seconds of neighbouring blocks; the run makes the callback
    saves: list[float] = []  # noqa: RUF012 - seconds that a run waits for a checkpoint

    def __init__(self) -> None:
        self.seeds: list[StepSeed] = []
        self.exact, self.since, self.former = True, 0.0, 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.seeds = [callback for callback in trainer.callbacks if isinstance(callback, StepSeed)]
        for callback in trainer.callbacks:
            if isinstance(callback, Checkpoints):
                callback._save_last = _timed(callback._save_last, self.saves, time.perf_counter)  # type: ignore[method-assign]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        # which of a pair comes first changes from epoch to epoch; an epoch's first block waits for its order
        self._turn(exact=trainer.current_epoch % 2 == 0)
        self.since = self.former = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if (batch_idx + 1) % BLOCK:
            return
        seconds = time.perf_counter() - self.since if self.since else 0.0
        if self.former and batch_idx // BLOCK % 2:
            self.pairs.append((seconds, self.former) if self.exact else (self.former, seconds))
        self.former = seconds
        self._turn(exact=not self.exact)
        self.since = time.perf_counter()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self._turn(exact=True)

    def _turn(self, *, exact: bool) -> None:
        self.exact = exact
        torch.use_deterministic_algorithms(exact)
        for callback in self.seeds:
            if exact:
                callback.__dict__.pop("on_train_batch_start", None)
            else:
                callback.__dict__["on_train_batch_start"] = None  # Lightning passes over what cannot be called


def dnn(setting: Setting) -> list[Row]:
    """The fast network in memory: what a step pays, and what an epoch pays once, as a share of its steps."""
    Blocks.pairs, Blocks.saves = [], []
    words = [f"trainer.max_epochs={EPOCHS}", "+callbacks.blocks._target_=benchmarks.exact_parts.Blocks"]
    with _clocks() as (writes, orders):
        run(setting, "experiment=fashion_mnist_dnn", *words)
    pairs = Blocks.pairs[WARM:]
    ratios = [exact / plain for exact, plain in pairs]
    epoch = 600 / BLOCK * median(plain for _, plain in pairs)
    once = (median(Blocks.saves) + median(writes) + median(orders)) / epoch
    steps, error = median(ratios) - 1, 1.25 * stdev(ratios) / len(ratios) ** 0.5  # the standard error of a median
    measured = f"{steps + once:+.1%} ± {error:.1%}: steps {steps:+.1%}, order and checkpoint {once:+.1%}"
    what = f"cost of exactness: epoch of the author's recipe in memory, {len(pairs)} pairs of {BLOCK} steps"
    return [Row(what, measured, "<= 5%", steps + once <= 0.05)]


@contextmanager
def _clocks() -> Iterator[tuple[list[float], list[float]]]:
    """Times the disk's thread in seconds of CPU, for it only waits besides, and the order of an epoch as a whole."""
    writes: list[float] = []
    orders: list[float] = []
    write, permutation = files._write, order.permutation
    files._write = _timed(write, writes, time.thread_time)
    order.permutation = _timed(permutation, orders, time.perf_counter)
    try:
        yield writes, orders
    finally:
        files._write, order.permutation = write, permutation


def _timed(function: Callable[..., Any], seconds: list[float], clock: Callable[[], float]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(clock() - start)

    return call
