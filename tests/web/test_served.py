"""Networks that answer: what they can show, at the image's own size, and what becomes of their failures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from known_scenes import CONFIG, SCORES, Known, scenes
from PIL import Image
from torch import Tensor, nn

from lightbed.data.images import read_image
from lightbed.errors import UserError
from lightbed.tasks.base import Task
from lightbed.tasks.classifier import Classifier
from lightbed.tasks.detector import Detector
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import Prediction
from lightbed.web.served import Served, grey


class Middle(Task):
    """Calls everything 'b' and says that it lies in the middle of what it is given."""

    def predict(self, images: Tensor) -> list[Prediction]:
        height, width = images.shape[-2:]
        box = torch.tensor([width / 4, height / 4, 3 * width / 4, 3 * height / 4])
        return [Prediction(label=torch.tensor(1), scores=torch.tensor([0.2, 0.8]), box=box) for _ in images]


def test_what_is_shown_follows_from_what_is_predicted(detector, segmenter, classifier):
    assert detector.kinds == ["detection", "instances", "pixels"]
    assert segmenter.kinds == ["pixels"]
    assert classifier.kinds == ["classification"]
    located = Served("middle", "", Middle(nn.Flatten(), ["a", "b"], preprocess=Preprocess(3, 32)), CONFIG, "32-true")
    assert located.kinds == ["localization"]


def test_a_classifier_says_what_its_test_says(classifier):
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8) * 3
    answer = classifier.ask(image.expand(3, -1, -1))
    with torch.no_grad():
        scores = classifier.model.model(classifier.preprocess(image[None])).softmax(1)[0]
    assert answer.prediction["scores"].tolist() == scores.tolist()
    assert int(answer.prediction["label"]) == int(scores.argmax())
    assert answer.seconds > 0


def test_objects_are_placed_in_the_image_as_it_was_sent(detector):
    image, target = scenes(1)[0]
    large = image.repeat_interleave(3, 1).repeat_interleave(2, 2)  # three times as high, twice as wide
    found = detector.ask(large).prediction
    torch.testing.assert_close(found["boxes"], target["boxes"].as_subclass(Tensor) * torch.tensor([2.0, 3, 2, 3]))
    assert found["masks"].shape == (len(target["labels"]), 192, 128)
    assert found["scores"].tolist() == pytest.approx(SCORES[: len(target["labels"])])
    inside = found["masks"][0].nonzero()
    assert (inside.min(0).values >= found["boxes"][0, [1, 0]] - 3).all()


def test_masks_of_large_images_are_small_and_the_boxes_are_not(detector):
    large = torch.zeros(3, 1000, 4000, dtype=torch.uint8)
    found = detector.ask(large).prediction
    height, width = found["masks"].shape[1:]
    assert 1.99e6 < height * width <= 2e6
    assert width / height == pytest.approx(4, rel=2e-3)
    boxes = known_boxes(large) * torch.tensor([4000 / 64, 1000 / 64] * 2)
    torch.testing.assert_close(found["boxes"], boxes, rtol=1e-5, atol=1e-2)
    whole = Served("whole", "", Detector(Known(), 10, preprocess=Preprocess(3, None, 0.0, 1.0)), CONFIG, "32-true")
    assert whole.ask(large[:, :64, :64]).prediction["boxes"].tolist() == known_boxes(large).tolist()


def known_boxes(image: Tensor) -> Tensor:
    return Known()([image.float() / 255])[0]["boxes"]


def test_a_diverged_network_is_told():
    class Diverged(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 2), torch.nan if float(images.mean()) > 0.9 else 0.0)

    served = Served("nan", "", Classifier(Diverged(), 2, preprocess=Preprocess(3, 8, 0.0, 1.0)), CONFIG, "32-true")
    with pytest.raises(UserError, match="nan gives this image scores that are no finite numbers"):
        served.ask(torch.full((3, 10, 20), 255, dtype=torch.uint8))


def test_one_located_object_is_placed_in_the_image_too():
    served = Served("middle", "", Middle(nn.Flatten(), ["a", "b"], preprocess=Preprocess(3, 32)), CONFIG, "32-true")
    found = served.ask(torch.zeros(3, 100, 200, dtype=torch.uint8)).prediction
    assert found["box"].tolist() == [50, 25, 150, 75]
    cut = Preprocess(3, (32, 32), resize="crop")
    served = Served("middle", "", Middle(nn.Flatten(), ["a", "b"], preprocess=cut), CONFIG, "32-true")
    found = served.ask(torch.zeros(3, 100, 200, dtype=torch.uint8)).prediction
    assert found["box"].tolist() == [75, 25, 125, 75], "in the part that the network saw"


def test_pixels_have_the_images_own_size(segmenter):
    image = torch.zeros(3, 90, 120, dtype=torch.uint8)
    image[:, :, 60:] = 255
    mask = segmenter.ask(image).prediction["mask"]
    assert mask.shape == (90, 120)
    assert (mask[:, :50] == 0).all()
    assert (mask[:, 70:] == 2).all()


def test_a_failure_is_told_and_the_next_image_is_answered():
    class Fussy(nn.Module):
        def forward(self, images):
            if float(images.mean()) > 0.9:
                raise ArithmeticError("far too bright\nand more")
            return torch.zeros(len(images), 2)

    served = Served("fussy", "", Classifier(Fussy(), 2, preprocess=Preprocess(3, 8, 0.0, 1.0)), CONFIG, "32-true")
    with pytest.raises(UserError, match=r"fussy fails .* 20 x 10 pixels: ArithmeticError: far too bright$"):
        served.ask(torch.full((3, 10, 20), 255, dtype=torch.uint8))
    assert served.ask(torch.zeros(3, 10, 20, dtype=torch.uint8)).prediction["scores"].tolist() == [0.5, 0.5]


def test_a_network_that_cannot_run_is_told_at_the_start():
    class Broken(nn.Module):
        def forward(self, images):
            raise RuntimeError("no")

    with pytest.raises(UserError, match="broken fails on this image"):
        Served("broken", "", Detector(Broken(), 2, preprocess=Preprocess(3, 32)), CONFIG, "32-true")


def test_grey_is_the_grey_of_files(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert torch.equal(grey(read_image(tmp_path / "x.png")), read_image(tmp_path / "x.png", 1))
