"""What is said of an image, as JSON: for programs at its own size, for the page in parts of it."""

import base64
import json
from io import BytesIO

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco
from known_scenes import SCORES, scenes
from PIL import Image

from lightbed.types import Prediction
from lightbed.web.answers import SIDE, for_api, for_page, shown
from lightbed.web.served import Answer


def opened(address: str) -> Image.Image:
    head, _, coded = address.partition(";base64,")
    assert head.startswith("data:image/")
    return Image.open(BytesIO(base64.b64decode(coded)))


def test_a_program_gets_objects_in_pixels_with_their_masks(detector):
    image, target = scenes(1)[0]
    answer = detector.ask(image)
    told = json.loads(json.dumps(for_api(detector, answer, image, 0.5)))
    assert (told["run"], told["height"], told["width"]) == ("scenes", 64, 64)
    assert [one["score"] for one in told["objects"]] == pytest.approx([s for s in SCORES if s >= 0.5])
    for i, one in enumerate(told["objects"]):
        assert one["label"] == str(int(target["labels"][i]))
        assert one["box"] == pytest.approx(target["boxes"][i].tolist())
        assert np.array_equal(coco.decode(one["segmentation"]), target["masks"][i].numpy())
    assert len(for_api(detector, answer, image, 0.0)["objects"]) == len(target["labels"])
    assert not for_api(detector, answer, image, 1.0)["objects"]


def test_a_program_gets_masks_of_the_images_own_size_however_large_it_is(detector):
    image, target = scenes(1)[0]
    large = image.repeat_interleave(20, 1).repeat_interleave(40, 2)  # 2560 x 1280: masks are of 2 megapixels
    told = for_api(detector, detector.ask(large), large, 0.9)
    for i, one in enumerate(told["objects"]):
        assert one["segmentation"]["size"] == [1280, 2560]
        found = coco.decode(one["segmentation"])
        wanted = target["masks"][i].numpy().repeat(20, 0).repeat(40, 1)
        assert (found & wanted).sum() / (found | wanted).sum() > 0.8, "only edges are smoother"


def test_a_program_gets_all_scores_and_a_class_only_where_it_is_sure(classifier):
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    answer = Answer(Prediction(label=torch.tensor(3), scores=torch.eye(10)[3] * 0.75), 0.1)
    told = for_api(classifier, answer, image, 0.5)
    assert (told["label"], told["index"], told["score"], told["scores"]["3"]) == ("3", 3, 0.75, 0.75)
    assert for_api(classifier, answer, image, 0.9)["label"] is None
    located = Answer(Prediction(**answer.prediction, box=torch.tensor([1.0, 2, 3, 4])), 0.1)
    assert for_api(classifier, located, image, 0.5)["box"] == [1, 2, 3, 4]


def test_a_program_gets_the_class_of_each_pixel(segmenter):
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, :, 30:] = 255
    answer = segmenter.ask(image)
    told = for_api(segmenter, answer, image, 0.9)
    assert np.array_equal(np.asarray(opened(told["mask"])), answer.prediction["mask"].numpy())
    assert sum(told["shares"].values()) == pytest.approx(1)


def test_the_page_gets_places_in_parts_of_the_image_and_everything_whatever_its_score(detector):
    image, target = scenes(1)[0]
    large = image.repeat_interleave(30, 1).repeat_interleave(30, 2)  # larger than what is shown
    told = json.loads(json.dumps(for_page(detector, detector.ask(large), large)))
    assert len(told["objects"]) == len(target["labels"])
    for i, one in enumerate(told["objects"]):
        assert one["box"] == pytest.approx((target["boxes"][i] / 64).tolist(), abs=1e-4)
        left, top, right, bottom = one["place"]
        rows, columns = np.flatnonzero(target["masks"][i].any(1)), np.flatnonzero(target["masks"][i].any(0))
        assert [left, top] == pytest.approx([columns[0] / 64, rows[0] / 64], abs=0.01)
        picture = opened(one["mask"])
        assert picture.mode == "LA"
        assert picture.width == pytest.approx((right - left) * SIDE, abs=1)
        assert picture.height == pytest.approx((bottom - top) * SIDE, abs=1)
        assert {name["name"] for name in told["classes"].values()} >= {str(int(target["labels"][i]))}
    assert len({one["colour"] for one in told["objects"]}) == len(told["objects"])


def test_the_page_gets_five_bars_and_the_box_of_one_object(classifier):
    scores = torch.tensor([0.01, 0.02, 0.5, 0.03, 0.04, 0.3, 0.05, 0.0, 0.0, 0.05])
    image = torch.zeros(3, 50, 100, dtype=torch.uint8)
    box = torch.tensor([10.0, 10, 30, 40])
    told = for_page(classifier, Answer(Prediction(label=torch.tensor(2), scores=scores, box=box), 0.1), image)
    assert [bar["name"] for bar in told["bars"]] == ["2", "5", "6", "9", "4"]
    assert told["objects"] == [{"label": 2, "score": 0.5, "box": pytest.approx([0.1, 0.2, 0.3, 0.8])}]
    assert "objects" not in for_page(classifier, Answer(Prediction(label=torch.tensor(2), scores=scores), 0.1), image)


def test_an_image_is_shown_without_loss_where_it_is_small_and_not_larger_than_a_screen():
    small = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    told = shown(small)
    assert np.array_equal(np.asarray(opened(told["src"])), small.permute(1, 2, 0).numpy())
    told = shown(torch.zeros(3, 3000, 1500, dtype=torch.uint8))
    assert (told["width"], told["height"]) == (1500, 3000)
    assert opened(told["src"]).size == (SIDE // 2, SIDE)
