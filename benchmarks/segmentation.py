"""Semantic segmentation: a step of U-Net, and the reading of CamVid with its masks."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch import Callback
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.paired import Row, Setting
from lightbed.data.camvid import CamVid
from lightbed.data.digit_scenes import DigitScenes
from lightbed.models.unet import UNet
from lightbed.tasks import Segmenter
from lightbed.transforms.augment import Augment
from lightbed.transforms.colour import ColourJitter
from lightbed.transforms.crop import RandomResizedCrop
from lightbed.transforms.flip import HorizontalFlip

BATCH, STEPS = 8, 12
SIZE = (180, 240)


# -- a step of U-Net ---------------------------------------------------------------------------------------------------


class Turns(Callback):
    """Before each epoch of a run, an epoch of a hand-written loop; the first epochs are not counted."""

    def __init__(self, rival: Callable[[], float]) -> None:
        self.rival = rival
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.since = 0.0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.theirs.append(self.rival())
        self.since = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.ours.append(time.perf_counter() - self.since)


def step(setting: Setting) -> list[Row]:
    """An epoch of U-Net on digit scenes through Lightbed, with its metrics, against a loop on the same batches."""
    torch.set_num_threads(setting.threads)
    data = DigitScenes(images={"train": BATCH * STEPS, "val": 1, "test": 1}, batch_size=BATCH)
    data.setup()
    turns = Turns(by_hand(data))
    task = Segmenter(network(), 11, preprocess=data.preprocess, optimizer=partial(torch.optim.Adam, lr=1e-3))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=6,
        accelerator="cpu",
        callbacks=[turns],
        limit_val_batches=0,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **quiet,
    )
    trainer.fit(task, datamodule=data)
    ratio = median(ours / theirs for ours, theirs in list(zip(turns.ours, turns.theirs, strict=True))[1:])
    each = [1000 * median(times[1:]) / STEPS for times in (turns.ours, turns.theirs)]
    measured = f"{ratio:.3f} x: {each[0]:.1f} to {each[1]:.1f} ms a step"
    what = f"U-Net, {BATCH} images 64x64: a step of Lightbed to one of a hand-written loop"
    return [Row(what, measured, "<= 1.03 x", ratio <= 1.03)]


def network() -> UNet:
    torch.manual_seed(0)
    return UNet(11, 3, (32, 64, 128, 256), padded=True, batch_norm=True)


def by_hand(data: DigitScenes) -> Callable[[], float]:
    """Seconds of an epoch of the plainest loop: tensors in memory, normalised, cross entropy, pixel accuracy."""
    images, target = data.splits["train"].take(torch.arange(BATCH * STEPS))  # type: ignore[attr-defined]
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def epoch() -> float:
        start = time.perf_counter()
        right = torch.zeros(())
        for chosen in torch.randperm(len(images)).split(BATCH):
            batch = (images[chosen].float() / 255 - 0.5) / 0.5
            truth = target["mask"][chosen].long()
            logits = net(batch)
            loss = torch.nn.functional.cross_entropy(logits, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += (logits.argmax(1) == truth).sum()
        return time.perf_counter() - start

    return epoch


# -- reading CamVid ----------------------------------------------------------------------------------------------------


def reading(setting: Setting) -> list[Row]:
    """Images a second of CamVid's training split with masks, epochs 2 and later, augmented and normalised."""
    torch.set_num_threads(setting.threads)
    ours, theirs = lightbed(setting), torchvision(setting.data / "CamVid")
    ours(0), theirs(0)  # the first epoch decodes, and starts the workers
    rates = [(ours(epoch), theirs(epoch)) for epoch in (1, 2, 3)]
    times = median(a / b for a, b in rates)
    best = [max(column) for column in zip(*rates, strict=True)]
    measured = f"{times:.1f} x: {best[0]:,.0f} to {best[1]:,.0f} images/s"
    what = f"CamVid with masks, {SIZE[1]}x{SIZE[0]}, crop, flip, colour: Lightbed to a Dataset with 2 workers"
    return [Row(what, measured, ">= 4 x", times >= 4)]


def lightbed(setting: Setting) -> Callable[[int], float]:
    """Images a second of an epoch as `data=camvid` reads it."""
    data = CamVid(setting.data, cache_dir=setting.scratch / "cache", image_size=SIZE, batch_size=BATCH)
    data.setup()
    steps = [HorizontalFlip(0.5), ColourJitter(0.4, 0.4, 0.4), RandomResizedCrop((0.25, 1.0))]
    augment = Augment(steps, seed=0)
    loader = data.train_dataloader()

    def epoch(number: int) -> float:
        start, count = time.perf_counter(), 0
        for batch, target in loader:
            moved, target = augment(batch, target, number, then=data.preprocess)
            count += len(moved) if target["mask"].ndim == 3 else 0
        return count / (time.perf_counter() - start)

    return epoch


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """CamVid as one writes it after torchvision's documentation: open, resize and augment image and mask."""

    def __init__(self, folder: Path) -> None:
        self.images = sorted((folder / "train").iterdir())
        self.masks = [folder / "trainannot" / f"{path.stem}.png" for path in self.images]
        self.chain = v2.Compose([
            v2.Resize(SIZE),
            v2.RandomResizedCrop(SIZE, (0.25, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.images[index]) as image, Image.open(self.masks[index]) as mask:
            pixels = tv_tensors.Image(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))
            labels = tv_tensors.Mask(torch.from_numpy(np.array(mask)).long())
        moved: tuple[Tensor, Tensor] = self.chain(pixels, labels)
        return moved


def torchvision(folder: Path) -> Callable[[int], float]:
    """Images a second of an epoch of `Pairs` read by two workers."""
    loader = DataLoader(Pairs(folder), BATCH, shuffle=True, num_workers=2, persistent_workers=True)

    def epoch(number: int) -> float:  # noqa: ARG001
        start = time.perf_counter()
        count = sum(len(images) for images, _ in loader)
        return count / (time.perf_counter() - start)

    return epoch
