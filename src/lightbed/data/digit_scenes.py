"""Embedded scenes: handwritten digits of different sizes on textured ground, with exact boxes and masks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from lightbed.chance import derive, permutation
from lightbed.data.base import DataModule, Loading
from lightbed.data.pairs import PairArrays, mask_weights
from lightbed.data.source import Batch, Sample, Source, listed, stack
from lightbed.errors import UserError, nearest

TARGETS = ("label", "box", "boxes", "labels", "masks", "mask")
_POOLS = {"train": 0.6, "val": 0.2, "test": 0.2}  # share of the handwritten digits that a split's scenes are drawn from
_VISIBLE = 0.6  # least share of a digit that others leave uncovered
_TRIES = 20  # places tried for a digit before it is left out
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R 601


class Scene(NamedTuple):
    """A drawn scene of n digits, from the lowest to the topmost."""

    image: np.ndarray  # uint8 (H, W, 3)
    masks: np.ndarray  # bool (n, H, W), what is visible of each digit
    digits: np.ndarray  # int64 (n,)


class Glyphs(NamedTuple):
    """Handwritten digits to draw with."""

    inks: np.ndarray  # float32 (M, 8, 8) in 0..1
    digits: np.ndarray  # int64 (M,)


def draw_scene(
    glyphs: Glyphs,
    key: Sequence[int | str],
    size: tuple[int, int],
    count: tuple[int, int],
    sides: tuple[int, int],
) -> Scene:
    """The scene of `key`: the same arguments draw the same pixels.

    Args:
        glyphs: the digits to choose from.
        key: whatever names the scene.
        size: (height, width).
        count: least and greatest number of digits; one that finds no place is left out.
        sides: least and greatest height of a digit in pixels.
    """
    rng = np.random.default_rng(derive(*key))
    tone, image = _ground(rng, size)
    masks: list[np.ndarray] = []
    areas: list[int] = []  # of each digit before others covered it
    digits: list[int] = []
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        chosen = int(rng.integers(len(glyphs.inks)))
        # light on dark ground, dark on light, in any hue
        colour = rng.uniform(0, 255, 3) * 0.4 + (150 if tone < 128 else 0)
        for _ in range(_TRIES):
            alpha, window = _place(rng, glyphs.inks[chosen], size, sides)
            here = np.zeros(size, bool)
            here[window] = alpha > 0.5
            left = [mask & ~here for mask in masks]
            covered = any(mask.sum() < _VISIBLE * area for mask, area in zip(left, areas, strict=True))
            if not here.any() or covered:
                continue
            image[window] += alpha[..., None] * (colour - image[window])
            masks, areas = [*left, here], [*areas, int(here.sum())]
            digits.append(int(glyphs.digits[chosen]))
            break
    image += rng.normal(0, 6, image.shape)
    stacked = np.stack(masks) if masks else np.zeros((0, *size), bool)
    return Scene(image.round().clip(0, 255).astype(np.uint8), stacked, np.array(digits, np.int64))


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> tuple[float, np.ndarray]:
    """Mean brightness, and float32 (H, W, 3): clouds of colour with stripes."""
    tone = float(rng.choice([60, 195]))
    coarse = rng.normal(tone, 20, (5, 5, 3)).clip(0, 255).astype(np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC), np.float32)
    rows, columns = np.mgrid[: size[0], : size[1]]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 16)
    stripes = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * (2 * np.pi / period))
    return tone, image + np.float32(12) * stripes[..., None].astype(np.float32)


def _place(
    rng: np.random.Generator, ink: np.ndarray, size: tuple[int, int], sides: tuple[int, int]
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """A digit's opacity, float32 (h, w) in 0..1, and where in the image it goes."""
    tall = int(rng.integers(sides[0], sides[1] + 1))
    wide = max(1, round(tall * rng.uniform(0.7, 1.0)))
    alpha = np.asarray(Image.fromarray(ink).resize((wide, tall), Image.Resampling.BILINEAR))
    top, left = int(rng.integers(size[0] - tall + 1)), int(rng.integers(size[1] - wide + 1))
    return alpha, (slice(top, top + tall), slice(left, left + wide))


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """The smallest box around each mask (n, H, W), float32 (n, 4): xyxy in pixels, the right and lower edge outside."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


class DigitScenes(DataModule):
    """Scenes composed of scikit-learn's handwritten digits; a function of (split_seed, split, index).

    Classes are the ten digits; with `mask` among the targets, they are `background` and the ten digits, so digit d is
    class d + 1. `label` and `box` are of the largest digit of the scene. No handwritten digit is in two splits.

    Args:
        images: scenes of each split.
        digits: least and greatest number of digits in a scene.
        sides: least and greatest height of a digit in pixels.
        targets: what a sample's target holds: any of `label`, `box`, `boxes`, `labels`, `masks` and `mask`, see
            `lightbed.types.Target`. With boxes, labels or masks, a batch is a list of images and a list of dicts.
        common: the arguments of `DataModule`; `image_size` must be given.

    Raises:
        UserError: a target is not known, or the digits do not fit into the image.
    """

    def __init__(
        self,
        *,
        images: Mapping[str, int] | None = None,
        digits: Sequence[int] = (2, 5),
        sides: Sequence[int] = (14, 30),
        targets: Sequence[str] = ("mask",),
        **common: Any,
    ) -> None:
        super().__init__(**{"image_size": [64, 64], **common})
        self.images = dict(images or {"train": 1000, "val": 100, "test": 200})
        unknown = [name for name in targets if name not in TARGETS]
        if unknown or not targets:
            raise UserError(f"data.targets={list(targets)}: {nearest(str((unknown or ['none'])[0]), list(TARGETS))}")
        if set(self.images) - set(_POOLS):
            raise UserError(f"data.images={self.images} has splits other than {', '.join(_POOLS)}")
        if self.preprocess.size is None:
            raise UserError("data.image_size=null: scenes are drawn in the size that is asked for, e.g. [64,64]")
        self.size: tuple[int, int] = self.preprocess.size
        self.digits, self.sides = _range(digits, "digits", 0), _range(sides, "sides", 4)
        if self.sides[1] > min(self.size):
            raise UserError(f"data.sides={list(sides)}: digits must not be larger than data.image_size={self.size}")
        if "box" in targets and not self.digits[0]:
            raise UserError(f"data.digits={list(digits)}: a box in every scene needs a digit in every scene")
        self.targets = tuple(targets)
        self.holds = self.targets
        self.first = int("mask" in targets)  # class of digit 0

    def load(self) -> Loading:
        from sklearn.datasets import load_digits  # half a second that other data sets need not pay

        raw = load_digits()
        order = permutation(len(raw.target), self.split_seed, "glyphs").numpy()
        splits: dict[str, Source] = {}
        start = 0.0
        for split, share in _POOLS.items():
            chosen = order[round(start * len(order)) : round((start + share) * len(order))]
            start += share
            if split in self.images:
                glyphs = Glyphs((raw.images[chosen] / 16).astype(np.float32), raw.target[chosen])
                splits[split] = self._source_of(split, glyphs)
        ten = [str(digit) for digit in range(10)]
        return Loading(splits, ["background", *ten] if self.first else ten)

    def _source_of(self, split: str, glyphs: Glyphs) -> Source:
        scenes = [
            draw_scene(glyphs, (self.split_seed, "scene", split, i), self.size, self.digits, self.sides)
            for i in range(self.images[split])
        ]
        samples = [self._sample(scene) for scene in scenes]
        if self.targets != ("mask",):
            return samples
        images = torch.stack([image for image, _ in samples]).numpy()
        masks = torch.stack([target["mask"] for _, target in samples]).numpy()
        return PairArrays(images, masks, np.arange(len(samples))[:, None].repeat(2, 1), None)

    def _sample(self, scene: Scene) -> Sample:
        image = scene.image
        if self.preprocess.channels == 1:
            image = (image @ _GREY).round().astype(np.uint8)[..., None]
        target: Any = {}
        largest = int(scene.masks.sum((1, 2)).argmax()) if len(scene.digits) else None
        if "label" in self.targets:
            digit = 0 if largest is None else int(scene.digits[largest])
            target["label"] = torch.tensor(digit + self.first)
        if "box" in self.targets:
            box = np.zeros(4, np.float32) if largest is None else boxes_of(scene.masks[largest : largest + 1])[0]
            target["box"] = torch.from_numpy(box)
        if "boxes" in self.targets:
            boxes = torch.from_numpy(boxes_of(scene.masks))
            target["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=self.size)
        if "labels" in self.targets:
            target["labels"] = torch.from_numpy(scene.digits + self.first)
        if "masks" in self.targets:
            target["masks"] = tv_tensors.Mask(torch.from_numpy(scene.masks))
        if "mask" in self.targets:
            mask = np.zeros(self.size, np.uint8)
            for digit, visible in zip(scene.digits, scene.masks, strict=True):
                mask[visible] = digit + 1
            target["mask"] = tv_tensors.Mask(torch.from_numpy(mask))
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), target

    def collate(self, samples: list[Sample]) -> Batch:
        return (listed if {"boxes", "labels", "masks"} & set(self.targets) else stack)(samples)

    def class_weights(self, kind: str) -> list[float]:
        if "mask" not in self.targets:
            return super().class_weights(kind)
        return mask_weights(self.splits["train"], len(self.classes), kind)


def _range(values: Sequence[int], name: str, least: int) -> tuple[int, int]:
    if len(values) != 2 or not least <= values[0] <= values[1]:
        raise UserError(f"data.{name}={list(values)} must be [least, greatest], {least} or more")
    return int(values[0]), int(values[1])
