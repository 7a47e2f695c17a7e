"""Trained tasks as programs for export: plain tensors in and out, normalisation inside."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightbed.errors import UserError
from lightbed.tasks.base import Task
from lightbed.tasks.classifier import Classifier, outputs_of
from lightbed.tasks.detector import Detector
from lightbed.tasks.localizer import Localizer, to_boxes
from lightbed.tasks.segmenter import Segmenter
from lightbed.transforms.preprocess import Preprocess

Outputs = tuple[Tensor, ...]


class Program(nn.Module):
    """What `predict` of a task computes, as a function of tensors alone.

    Args:
        task: trained, in evaluation mode; not changed.
        names: of the outputs, in their order.
        compute: normalised images -> outputs.
        batched: takes images uint8 (N, C, H, W), any number at a time; else one image uint8 (C, H, W).
    """

    def __init__(
        self, task: Task, names: tuple[str, ...], compute: Callable[[Tensor], Outputs], *, batched: bool
    ) -> None:
        super().__init__()
        self.model, self.preprocess = task.model, task.preprocess or Preprocess()
        self.names, self.compute, self.batched = names, compute, batched

    def forward(self, images: Tensor) -> Outputs:
        """Pixels uint8, RGB or grey, 0..255 -> outputs."""
        return self.compute(self.preprocess(images))


def program_of(task: Task) -> Program:
    """The program of a task.

    By its kind the outputs are

    * classifier: `scores` float32 (N, K), probabilities of the classes;
    * localizer: `scores` likewise, and `boxes` float32 (N, 4), xyxy in pixels of the images given;
    * segmenter: `masks` uint8 (N, H, W), the class of each pixel;
    * detector: of the one image given `boxes` float32 (n, 4), xyxy in its pixels, `labels` int64 (n,) from 0 on,
      `scores` float32 (n,), the best first, and with instance masks `masks` bool (n, H, W).

    Raises:
        UserError: the task is none of these.
    """
    if isinstance(task, Classifier):
        return Program(task, ("scores",), lambda x: (task.scores(outputs_of(task.model(x))[0]),), batched=True)
    if isinstance(task, Localizer):
        return Program(task, ("scores", "boxes"), lambda x: _localized(task, x), batched=True)
    if isinstance(task, Segmenter):
        return Program(task, ("masks",), lambda x: (task.masks_of(task.model(x)),), batched=True)
    if isinstance(task, Detector):
        names = ("boxes", "labels", "scores", *(("masks",) if task.masks else ()))
        return Program(task, names, lambda x: _detected(task, x, names), batched=False)
    raise UserError(f"a {type(task).__name__} sees nothing in images: there is no program to export")


def _localized(task: Localizer, images: Tensor) -> Outputs:
    logits, fractions = task.outputs(task.model(images))
    return logits.softmax(1), to_boxes(fractions, (images.shape[-2], images.shape[-1]))


def _detected(task: Detector, image: Tensor, names: tuple[str, ...]) -> Outputs:
    found = task.model([image])[0]
    kept = found["labels"] > 0
    values = {
        "boxes": found["boxes"][kept].float(),
        "labels": found["labels"][kept] - 1,
        "scores": found["scores"][kept].float(),
    }
    if "masks" in names:
        values["masks"] = found["masks"][kept][:, 0] >= task.mask_threshold
    return tuple(values[name] for name in names)


def made_up(shape: tuple[int, ...], seed: int) -> Tensor:
    """Images uint8 of that shape (..., C, H, W) with large and small structures, the same for each seed."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(1, *shape[-3:]).repeat(shape[0] if len(shape) == 4 else 1, 1, 1, 1)
    for side in (2, 5, 16):
        coarse = torch.rand(len(images), shape[-3], side, side, generator=generator)
        images += nn.functional.interpolate(coarse, shape[-2:], mode="bilinear", align_corners=False) / 3
    pixels = (images * 255).round().to(torch.uint8)
    return pixels if len(shape) == 4 else pixels[0]


def difference(program: Program, expected: Outputs, found: Outputs) -> float:
    """How far outputs are from the expected ones: the largest difference of a probability or of a part of a side.

    Of masks it is the share of pixels that differ. Each detection is compared with the nearest one of its class, for
    where scores are equal, their order is free. Outputs of other shapes are infinitely far.
    """
    pairs = dict(zip(program.names, zip(expected, found, strict=True), strict=True))
    if not program.batched:
        return _of_detections(*({name: pair[i] for name, pair in pairs.items()} for i in (0, 1)))
    worst = 0.0
    for name, (then, now) in pairs.items():
        if then.shape != now.shape:
            return float("inf")
        gap = (then != now).float().mean() if name == "masks" else (then - now).abs().max()
        worst = max(worst, float(gap) / (max(1.0, float(then.max())) if name == "boxes" else 1.0))
    return worst


def _of_detections(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    if len(expected["scores"]) != len(found["scores"]):
        return float("inf")
    worst = 0.0
    for i in range(len(expected["scores"])):
        same = (found["labels"] == expected["labels"][i]).nonzero()[:, 0]
        if not len(same):
            return float("inf")
        gaps = (found["boxes"][same] - expected["boxes"][i]).abs().amax(1) / expected["boxes"].max().clamp(min=1)
        gaps = gaps.maximum((found["scores"][same] - expected["scores"][i]).abs())
        if "masks" in found:
            unequal = (found["masks"][same] != expected["masks"][i]).float().mean((1, 2))
            gaps = gaps.maximum(unequal)
        worst = max(worst, float(gaps.min()))
    return worst
