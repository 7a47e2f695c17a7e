"""What it costs that a run can be repeated and resumed to the bit: epochs with and without it in turn, in one run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, stdev
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks.paired import Row, Setting, run
from lightbed.callbacks.chance import StepSeed
from lightbed.callbacks.checkpoint import Checkpoints
from lightbed.data import order, source
from lightbed.data.folder import ImageFolder

PAIRS = 24  # single epochs differ by a tenth and more on a machine that others share
DETECTOR_PAIRS = 8


class Turns(Callback):
    """Takes exactness away in two epochs of four: order and chance from the global generators, kernels as they come,
    nothing saved. An epoch lasts from its start to the start of the next, so that its checkpoints are in it.

    The disk takes an epoch's checkpoint while the next one begins, so the second one of two alike is measured: that
    of an exact epoch's predecessor is in it, and none is in a plain one.
    """

    exact: list[float] = []  # noqa: RUF012 - the run makes the callback; what it found is therefore kept in the class
    plain: list[float] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.since = 0.0
        self.hooks: dict[Any, dict[str, Any]] = {}

    def _find(self, trainer: Any) -> None:
        """The hooks as they are in an exact epoch, once all callbacks have begun."""
        hooks = {StepSeed: ("on_train_batch_start",), Checkpoints: ("on_train_batch_end", "on_train_epoch_end")}
        for callback in trainer.callbacks:
            for name in hooks.get(type(callback), ()):
                self.hooks.setdefault(callback, {})[name] = getattr(callback, name, None)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        now, epoch = time.perf_counter(), trainer.current_epoch
        if not self.hooks:
            self._find(trainer)
        if epoch > 4 and epoch % 2 == 0:  # the first four warm up
            (self.plain if epoch % 4 == 0 else self.exact).append(now - self.since)
        exact = epoch % 4 < 2
        order.permutation = permutation if exact else _shuffled
        source.seed_all = seed_all if exact else _unseeded
        torch.use_deterministic_algorithms(exact)
        for callback, hooks in self.hooks.items():
            for name, hook in hooks.items():
                setattr(callback, name, hook if exact else None)  # Lightning passes over what cannot be called
        self.since = time.perf_counter()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        order.permutation, source.seed_all = permutation, seed_all
        for callback, hooks in self.hooks.items():
            for name, hook in hooks.items():
                setattr(callback, name, hook)


permutation, seed_all = order.permutation, source.seed_all


def _unseeded(_: int) -> None:
    pass


def _shuffled(count: int, *_: int | str) -> torch.Tensor:
    return torch.randperm(count)


def dnn(setting: Setting) -> list[Row]:
    """An epoch of the fast network in memory, where anything shows."""
    Turns.exact, Turns.plain = [], []
    words = [f"trainer.max_epochs={4 * PAIRS + 5}", "+callbacks.turns._target_=benchmarks.exactness.Turns"]
    run(setting, "experiment=fashion_mnist_dnn", *words)
    return [_row("epoch of the author's recipe in memory", Turns.exact, Turns.plain, 0.05)]


def detector(setting: Setting) -> list[Row]:
    """An epoch of a small Faster R-CNN on drawn scenes."""
    Turns.exact, Turns.plain = [], []
    words = [
        *("data=digit_scenes", "data.images={train:128,val:4,test:4}", "data.batch_size=8", "model=faster_rcnn"),
        *("model.backbone=mobilenet_v3_small", "model.levels=[1,2]", "model.anchor_sizes=[[12],[24],[48]]"),
        *("model.pyramid_channels=64", "model.representation_size=128", "augment=detection", "logger=csv"),
        *("callbacks.pictures=null", "callbacks.layers=null", "callbacks.curves=null", "trainer.limit_val_batches=0"),
        *(f"trainer.max_epochs={4 * DETECTOR_PAIRS + 5}", "+callbacks.turns._target_=benchmarks.exactness.Turns"),
    ]
    run(setting, *words)
    return [_row("epoch of Faster R-CNN on scenes", Turns.exact, Turns.plain, 0.05)]


def images(setting: Setting) -> list[Row]:
    """An epoch of a folder of JPEGs that two processes read and augment one by one; the epoch waits for them."""
    chain = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(150, padding=4)])
    loaders = {exact: _loader(setting, chain, exact=exact) for exact in (True, False)}
    taken: dict[bool, list[float]] = {True: [], False: []}
    for number in range(5):
        for exact in (True, False) if number % 2 else (False, True):
            since = time.perf_counter()
            for _ in loaders[exact]:
                pass
            if number:  # the first warms up
                taken[exact].append(time.perf_counter() - since)
    return [_row("epoch of 1,027 JPEGs, read and augmented by 2 processes", taken[True], taken[False], 0.10)]


def _loader(setting: Setting, chain: Any, *, exact: bool) -> DataLoader[Any]:
    data = ImageFolder(
        str(setting.data / "horse-or-human" / "train"), cache=False, cache_dir=setting.scratch / "cache",
        image_size=[150, 150], batch_size=32, val_fraction=0, test_fraction=0, num_workers=2, transform=chain,
    )  # fmt: skip
    data.setup()
    loader = data.train_dataloader()
    with _unkeyed(not exact):  # the processes that start now keep what they find
        for _ in loader:
            pass
    return loader


@contextmanager
def _unkeyed(wanted: bool) -> Iterator[None]:
    if wanted:
        source.seed_all = _unseeded
    try:
        yield
    finally:
        source.seed_all = seed_all


def _row(what: str, exact: list[float], plain: list[float], goal: float) -> Row:
    ratios = [a / b for a, b in zip(exact, plain, strict=False)]
    cost, error = median(ratios) - 1, 1.25 * stdev(ratios) / len(ratios) ** 0.5  # the standard error of a median
    measured = f"{cost:+.1%} ± {error:.1%}: {median(exact):.3f} s to {median(plain):.3f} s"
    return Row(f"cost of exactness: {what}", measured, f"<= {goal:.0%}", cost <= goal)
