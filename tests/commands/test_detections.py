"""What a detector's predictions become for image files of any size."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from lightbed.commands.detections import at_own_size, cells, image_ids, objects, results, results_file
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import Prediction


def seen(height: int, width: int) -> Prediction:
    """Two detections whose masks fill their boxes, in an image of this size."""
    boxes = torch.tensor([[8.0, 16.0, 40.0, 32.0], [0.0, 0.0, 16.0, 48.0]])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 16:32, 8:40] = masks[1, :48, :16] = True
    return Prediction(boxes=boxes, labels=torch.tensor([1, 0]), scores=torch.tensor([0.95, 0.1]), masks=masks)


def test_boxes_and_masks_go_back_to_the_images_own_size() -> None:
    own = at_own_size(seen(64, 64), Preprocess(3, (64, 64)), (128, 192))
    assert own["boxes"].tolist() == [[24, 32, 120, 64], [0, 0, 48, 96]]
    assert own["masks"].shape == (2, 128, 192)
    for (x1, y1, x2, y2), mask in zip(own["boxes"].int().tolist(), own["masks"], strict=True):
        assert mask.sum() == mask[y1:y2, x1:x2].sum() >= (y2 - y1) * (x2 - x1) - 4, "but for its corners"


def test_what_a_crop_cut_away_holds_nothing() -> None:
    own = at_own_size(seen(64, 64), Preprocess(3, (64, 64), resize="crop"), (64, 128))
    assert own["boxes"].tolist() == [[40, 16, 72, 32], [32, 0, 48, 48]]
    assert own["masks"][0, 16:32, 40:72].all()
    assert own["masks"].sum() == seen(64, 64)["masks"].sum()


def test_images_of_the_networks_size_stay_as_they_are() -> None:
    for preprocess in (Preprocess(3, (64, 64)), Preprocess(3)):
        own = at_own_size(seen(64, 64), preprocess, (64, 64))
        assert all(torch.equal(own[name], values) for name, values in seen(64, 64).items())


def test_objects_have_names_and_short_numbers() -> None:
    first, second = objects(seen(64, 64), ["cat", "dog"])
    assert first == {"label": "dog", "index": 1, "score": 0.95, "box": [8.0, 16.0, 40.0, 32.0]}
    assert second["label"] == "cat"
    assert cells({"objects": [first, second, second]}) == ("cat ×2, dog ×1", "0.950, 0.100, 0.100")
    assert cells({"objects": []}) == ("none", "")


def test_images_are_numbered_by_their_names_where_all_have_one() -> None:
    named = [Path("a/000000000139.jpg"), Path("a/000000000285.jpg")]
    assert list(image_ids(named).values()) == [139, 285]
    assert list(image_ids([*named, Path("a/x.jpg")]).values()) == [1, 2, 3]
    assert list(image_ids([Path("a/7.jpg"), Path("b/7.jpg")]).values()) == [1, 2], "no number twice"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own with numpy 2
@pytest.mark.parametrize("images", [[0, 5], [], [5]])
def test_results_are_what_pycocotools_reads(images: list[int], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    nothing = Prediction(**{name: values[:0] for name, values in seen(64, 64).items()})
    with results_file(file) as add:
        for number in images:
            add(results(seen(64, 64), number))
            add(results(nothing, 9))
    lines = json.loads(file.read_text())
    assert len(lines) == 2 * len(images)
    assert list(tmp_path.iterdir()) == [file]
    if not lines:
        return
    assert {line["category_id"] for line in results(seen(64, 64), 7, [3, 90])} == {3, 90}
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": number} for number in images], "categories": [{"id": 1}, {"id": 2}]}
        coco.dataset["annotations"] = []
        coco.createIndex()
        read = coco.loadRes(str(file)).loadAnns(range(1, len(lines) + 1))
    assert [line["category_id"] for line in read[:2]] == [2, 1]
    assert read[0]["bbox"] == [8.0, 16.0, 32.0, 16.0]
    assert np.array_equal(coco_masks.decode(read[0]["segmentation"]), seen(64, 64)["masks"][0].numpy())
