"""Losses and detections of torchvision's detectors from one pass, in evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SHARED = ("proposals", "backbone", "head", "rpn.head")
"""Parts whose outputs losses and detections have in common; detectors have some of them."""


class Remembered(nn.Module):
    """Stands in the place of a part: computes its output once and gives it again at the next call."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.output: Any = None

    def forward(self, *inputs: Any) -> Any:
        if self.output is None:
            self.output = self.part(*inputs)
        return self.output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)


@torch.no_grad()
def losses_and_detections(
    model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """What a detector of torchvision's kind gives in training mode and in evaluation mode, for the same features.

    Norm layers, dropout and the scaling of images behave as in evaluation in both: nothing of the network changes.
    Which proposals the losses are computed on is drawn from a generator of its own, which begins anew each time, so the
    run's chance does not advance.

    Args:
        model: takes images and, in training mode, targets.
        images: float (C, h, w) each.
        targets: of each image, as `model` takes them.
    """
    model.eval()
    with shared(model), own_chance(images[0].device):
        found = model(images)
        with losing(model):
            losses = model(images, targets)
    return losses, found


def deciders(model: nn.Module) -> list[nn.Module]:
    """What gives losses or detections by its mode: the model and its parts that have parts, outside the backbone.

    Norm layers, dropout and the scaling of images are leaves.
    """
    return [
        part
        for name, part in model.named_modules()
        if part is model or (name.partition(".")[0] != "backbone" and next(part.children(), None) is not None)
    ]


@contextmanager
def losing(model: nn.Module) -> Iterator[None]:
    """Training mode for those parts of a model in evaluation mode that then give losses."""
    parts = deciders(model)
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part in parts:
            part.training = False


@contextmanager
def shared(model: nn.Module) -> Iterator[None]:
    """Each part of `SHARED` is computed once."""
    places = []
    for path in SHARED:
        *above, name = path.split(".")
        parent: Any = model
        for step in above:
            parent = getattr(parent, step, None)
        if isinstance(getattr(parent, name, None), nn.Module):
            places.append((parent, name, getattr(parent, name)))
    for parent, name, part in places:
        setattr(parent, name, Remembered(part))
    try:
        yield
    finally:
        for parent, name, part in places:
            setattr(parent, name, part)


@contextmanager
def own_chance(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Torch's generators of the CPU and of `device`, seeded; afterwards they are as they were before."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield
