"""Reading and augmenting a folder of JPEGs."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import InterpolationMode, v2

from benchmarks.paired import Row, Setting
from lightbed.data.folder import ImageFolder
from lightbed.runs.overhead import keep_memory
from lightbed.transforms.affine import Affine
from lightbed.transforms.augment import Augment, Augmentation
from lightbed.transforms.crop import RandomCrop
from lightbed.transforms.flip import HorizontalFlip

BATCH = 32
AFFINE = "Keras' rotation, shift, shear and zoom"

CHOICES: dict[str, tuple[list[Augmentation], list[Any]]] = {
    "mirrored and shifted": (
        [HorizontalFlip(0.5), RandomCrop(4)],
        [v2.RandomHorizontalFlip(), v2.RandomCrop(300, padding=4)],
    ),
    AFFINE: (
        [Affine(rotation=40, shift=0.2, shear=0.2, zoom=0.2, flip=0.5)],
        [
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(40, (0.2, 0.2), (0.8, 1.2), 0.2, interpolation=InterpolationMode.BILINEAR),
        ],
    ),
}
"""The same augmentation by name, as Lightbed's batched steps and as torchvision's transforms of one image."""


def images(setting: Setting) -> list[Row]:
    """Images a second of Horses or Humans' training folder, epochs 2 and later, augmented and normalised."""
    torch.set_num_threads(setting.threads)
    keep_memory()  # as `lightbed train` does
    folder = setting.data / "horse-or-human" / "train"
    rows = []
    for name, (steps, chain) in CHOICES.items():
        ours, theirs = lightbed(setting, folder, steps), torchvision(folder, chain)
        ours(0), theirs(0)  # the first epoch decodes, and starts the workers
        rates = [(ours(epoch), theirs(epoch)) for epoch in (1, 2, 3)]
        times = sorted(a / b for a, b in rates)[1]
        best = [max(column) for column in zip(*rates, strict=True)]
        measured = f"{times:.1f} x: {best[0]:,.0f} to {best[1]:,.0f} images/s"
        what = f"folder of 1,027 JPEGs, 300x300, {name}: Lightbed to ImageFolder with 2 workers"
        rows.append(Row(what, measured, ">= 4 x", times >= 4))
    return [*rows, limit(best[1])]


def limit(theirs: float) -> Row:
    """What keeps the affine augmentation from more: the rate of its resampling alone, by torch's grid_sample."""
    step = CHOICES[AFFINE][0][0]
    images, u = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8), torch.rand(2, step.draws)
    times = []
    for _ in range(200):  # two images at once, as many as fit the cache
        start = time.perf_counter()
        step(images, {}, u)
        times.append(time.perf_counter() - start)
    rate = 2 / median(times)
    return Row(f"{AFFINE}: the resampling alone to ImageFolder", f"{rate / theirs:.1f} x: {rate:,.0f} images/s", "")


def lightbed(setting: Setting, folder: Path, steps: list[Augmentation]) -> Callable[[int], float]:
    """Images a second of an epoch as `data=image_folder` with these augmentations reads it."""
    data = ImageFolder(
        str(folder),
        cache_dir=setting.scratch / "cache",
        image_size=[300, 300],
        batch_size=BATCH,
        val_fraction=0,
        test_fraction=0,
    )
    data.setup()
    augment = Augment(steps, seed=0)
    loader = data.train_dataloader()

    def epoch(number: int) -> float:
        start, count = time.perf_counter(), 0
        for batch, target in loader:
            moved, target = augment(batch, target, number, then=data.preprocess)
            count += len(moved)
        return count / (time.perf_counter() - start)

    return epoch


def torchvision(folder: Path, steps: list[Any]) -> Callable[[int], float]:
    """Images a second of an epoch as torchvision's documentation has it: decode, augment, scale in two workers."""
    chain = v2.Compose([
        *steps,
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ])  # fmt: skip
    data = datasets.ImageFolder(str(folder), chain)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=2, persistent_workers=True)

    def epoch(number: int) -> float:  # noqa: ARG001
        start, count = time.perf_counter(), 0
        for batch, _ in loader:
            count += len(batch)
        return count / (time.perf_counter() - start)

    return epoch
