"""A page with networks that say what is certain."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from known_scenes import CONFIG, Bright, Known, scenes
from PIL import Image
from torch import nn

from lightbed.tasks.classifier import Classifier
from lightbed.tasks.detector import Detector
from lightbed.tasks.segmenter import Segmenter
from lightbed.transforms.preprocess import Preprocess
from lightbed.web.examples import Example
from lightbed.web.served import Served
from lightbed.web.server import serving
from lightbed.web.site import Site
from lightbed.web.uploads import Limits


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
def classifier() -> Served:
    torch.manual_seed(0)
    task = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 10, preprocess=Preprocess(1, (8, 8)))
    return Served("digits", "digits by chance", task, CONFIG, "32-true")


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
    Image.fromarray(image.permute(1, 2, 0).numpy()).resize((128, 128), Image.Resampling.NEAREST).save(file)
    return file
