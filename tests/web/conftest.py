"""A network that knows digit scenes by heart, so that the page has something certain to show."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lightbed.data.digit_scenes import DigitScenes
from lightbed.runs.load import load_run
from lightbed.tasks.detector import Detector
from lightbed.tasks.segmenter import Segmenter
from lightbed.transforms.preprocess import Preprocess
from lightbed.web.examples import Example
from lightbed.web.served import Served
from lightbed.web.server import serving
from lightbed.web.site import Site
from lightbed.web.uploads import Limits

CONFIG = {"device": "cpu", "precision": None, "tile": None, "overlap": 64}
SCORES = (0.97, 0.93, 0.62, 0.31, 0.12)
"""Of the objects of a scene, in the order of their labels' list."""


def scenes(count: int = 4) -> list[tuple[Tensor, dict[str, Any]]]:
    """Scenes of three digits or more, with boxes, labels, masks and mask."""
    data = DigitScenes(images={"train": 8, "val": 4, "test": 40}, targets=["boxes", "labels", "masks", "mask"])
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
        return torch.cat([-grey, 0.3 - (grey - 0.5).abs(), grey - 1], 1)


@pytest.fixture(scope="session")
def detector() -> Served:
    classes = [str(i) for i in range(10)]
    task = Detector(Known(), 10, classes=classes, preprocess=Preprocess(3, (64, 64), 0.0, 1.0))
    return Served("scenes", "scenes by heart", task, CONFIG, "32-true")


@pytest.fixture(scope="session")
def segmenter() -> Served:
    task = Segmenter(Bright(), 3, classes=["dark", "middle", "light"], preprocess=Preprocess(3, (64, 64), 0.0, 1.0))
    return Served("bright", "brightness", task, CONFIG, "32-true")


@pytest.fixture(scope="session")
def classifier(digits_run: Path) -> Served:
    return Served("digits", "classifier/digits", load_run(digits_run).task, CONFIG, "32-true")


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return [Example(f"scene {i}", image) for i, (image, _) in enumerate(scenes())]


@pytest.fixture(scope="session")
def address(
    detector: Served, segmenter: Served, classifier: Served, examples: list[Example], tmp_path_factory
) -> Iterator[str]:
    """A page with three networks."""
    with serving(Site([detector, segmenter, classifier], examples, Limits(2, 4), port=0)) as found:
        yield found


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """The first scene as a file, twice as large."""
    image = scenes(1)[0][0]
    file = tmp_path / "scene.png"
    Image.fromarray(np.array(image.permute(1, 2, 0))).resize((128, 128), Image.Resampling.NEAREST).save(file)
    return file
