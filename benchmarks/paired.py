"""Epochs of Lightbed and of its rivals in turn, in one process: what else the machine does, it does to all of them."""

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback

from lightbed.cli import main


class Setting(NamedTuple):
    """What all benchmarks are given."""

    data: Path  # folder of data sets
    threads: int
    scratch: Path  # for what they write


class Row(NamedTuple):
    """A line of the table."""

    what: str
    measured: str
    goal: str
    met: bool | None = None  # None where there is no goal or nothing was measured


class Rivals(Callback):
    """Before each epoch of a run, runs an epoch of each rival; a run's first epoch is not counted.

    An epoch of Lightbed lasts from the end of the rivals' to the beginning of their next ones, so checkpoints, logging
    and validation are in it. The run is told of this callback by its config, and makes it; what it needs and what it
    found is therefore kept in the class.
    """

    epochs: dict[str, Callable[[], Any]] = {}  # noqa: RUF012 - shared on purpose, see above
    seconds: dict[str, list[float]] = {}  # noqa: RUF012
    spent: list[float] = []  # noqa: RUF012 - in metrics, by epoch of Lightbed

    def __init__(self) -> None:
        self.since: float | None = None
        self.in_metrics = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        for part in (pl_module.train_losses, pl_module.metric("train")):
            for name in ("update", "compute"):
                setattr(part, name, self.timed(getattr(part, name)))

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.in_metrics += time.perf_counter() - start

        return call

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        now = time.perf_counter()
        if self.since is not None:
            self.seconds["lightbed"].append(now - self.since)
            self.spent.append(self.in_metrics)
        torch.use_deterministic_algorithms(False)  # the run's own setting is no concern of the rivals
        for name, epoch in self.epochs.items():
            start = time.perf_counter()
            epoch()
            self.seconds[name].append(time.perf_counter() - start)
        torch.use_deterministic_algorithms(True)
        self.in_metrics, self.since = 0.0, time.perf_counter()


def race(
    setting: Setting, rivals: dict[str, Callable[[], Any]], *overrides: str, epochs: int = 5
) -> dict[str, list[float]]:
    """Seconds of `epochs` epochs of each rival, and of a Lightbed run with these overrides (`lightbed`)."""
    Rivals.epochs, Rivals.spent = rivals, []
    Rivals.seconds = {name: [] for name in ("lightbed", *rivals)}
    run(
        setting,
        *overrides,
        f"trainer.max_epochs={epochs + 2}",
        "+callbacks.rivals._target_=benchmarks.paired.Rivals",
    )
    return {name: seconds[1 : epochs + 1] for name, seconds in Rivals.seconds.items()}


def run(setting: Setting, *overrides: str) -> None:
    """`lightbed train` in this process, silently."""
    words = [f"paths.data={setting.data}", f"paths.outputs={setting.scratch / 'outputs'}", f"threads={setting.threads}"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["train", *words, "trainer.accelerator=cpu", "test=none", *overrides])
    if code:
        raise RuntimeError(f"lightbed train {' '.join(overrides)} ended with {code}:\n{said.getvalue()[-2000:]}")


def ratio(above: list[float], below: list[float]) -> float:
    """Median over epochs of how many times longer `above` took than `below` right beside it."""
    return median(a / b for a, b in zip(above, below, strict=True))
