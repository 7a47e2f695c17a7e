"""A network that knows digit scenes by heart, so that the page has something certain to show."""

from typing import Any

import torch
from torch import Tensor, nn

from lightbed.data.digit_scenes import DigitScenes

CONFIG = {"device": "cpu", "precision": None, "tile": None, "overlap": 64}
SCORES = (0.97, 0.93, 0.62, 0.31, 0.12)
"""Of the objects of a scene, in the order of their labels' list."""


def scenes(count: int = 4) -> list[tuple[Tensor, dict[str, Any]]]:
    """Scenes of three digits or more, with boxes, labels and masks."""
    data = DigitScenes(images={"train": 8, "val": 4, "test": 40}, targets=["boxes", "labels", "masks"])
    data.setup()
    source = data.splits["test"]
    found = [source[i] for i in range(len(source))]
    return [(image.as_subclass(Tensor), target) for image, target in found if len(target["labels"]) >= 3][:count]


class Known(nn.Module):
    """Finds in each known scene what is there, with the scores above; in other images the objects of the nearest."""

    mask_predictor = nn.Identity()  # by which a detector knows a network with masks

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.known = scenes()

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            small = nn.functional.interpolate(image[None], (64, 64))[0]
            pixels = [scene.float() / 255 for scene, _ in self.known]
            best = min(range(len(pixels)), key=lambda i: float((pixels[i] - small).abs().sum()))
            target = self.known[best][1]
            count = len(target["labels"])
            masks = target["masks"][:, None].float()
            found.append(
                {
                    "boxes": target["boxes"].as_subclass(Tensor),
                    "labels": target["labels"] + 1,
                    "scores": torch.tensor(SCORES[:count]),
                    "masks": masks.as_subclass(Tensor),
                }
            )
        return found


class Bright(nn.Module):
    """Labels pixels by their brightness: dark, middle, light."""

    def forward(self, images: Tensor) -> Tensor:
        grey = images.mean(1, keepdim=True)
        return torch.cat([0.35 - grey, torch.zeros_like(grey), grey - 0.6], 1)
