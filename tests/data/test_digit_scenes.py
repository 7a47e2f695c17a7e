"""Embedded scenes: exact, deterministic, and the same whatever is asked of them."""

import numpy as np
import pytest
import torch

from lightbed.data.digit_scenes import TARGETS, DigitScenes, boxes_of
from lightbed.errors import UserError

FEW = {"images": {"train": 12, "val": 3, "test": 4}}


def scenes(**options: object) -> DigitScenes:
    data = DigitScenes(**{**FEW, **options})
    data.setup()
    return data


def test_scenes_are_a_function_of_their_key() -> None:
    one, again = scenes(seed=0), scenes(seed=5, images={"train": 20, "val": 1, "test": 1})
    for i in range(12):  # neither the run's seed nor the number of scenes changes one
        assert torch.equal(one.splits["train"][i][0], again.splits["train"][i][0])
        assert torch.equal(one.splits["train"][i][1]["mask"], again.splits["train"][i][1]["mask"])
    other = scenes(split_seed=1)
    assert not torch.equal(one.splits["train"][0][0], other.splits["train"][0][0])
    assert not torch.equal(one.splits["train"][0][0], one.splits["train"][1][0])


def test_boxes_masks_and_mask_agree() -> None:
    data = scenes(targets=TARGETS)
    overlapping = 0
    for image, target in (data.splits["train"][i] for i in range(12)):
        masks, labels, boxes = target["masks"], target["labels"], target["boxes"]
        assert image.shape == (3, 64, 64)
        assert len(masks) == len(labels) == len(boxes) >= 1
        assert int(masks.sum(0).max()) == 1, "what is visible of two digits never shares a pixel"
        expected = torch.zeros(64, 64, dtype=torch.uint8)
        for visible, label in zip(masks, labels, strict=True):
            expected[visible] = int(label)
        assert torch.equal(target["mask"], expected)
        for box, visible in zip(boxes.int().tolist(), masks, strict=True):
            x1, y1, x2, y2 = box
            inside = torch.zeros_like(visible)
            inside[y1:y2, x1:x2] = True
            assert not (visible & ~inside).any()
            for line in (visible[y1], visible[y2 - 1], visible[:, x1], visible[:, x2 - 1]):
                assert line.any(), "the box touches the digit on each side"
        rows = [(b[1], b[3], b[0], b[2]) for b in boxes.tolist()]
        overlapping += any(
            a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3] for i, a in enumerate(rows) for b in rows[:i]
        )
        assert int(target["label"]) == int(labels[masks.sum((1, 2)).argmax()])
    assert overlapping > 2
    assert {target["labels"].dtype for _, target in [data.splits["val"][0]]} == {torch.int64}


def test_digits_stand_out_from_their_ground() -> None:
    data = scenes(targets=["masks"])
    for image, target in (data.splits["train"][i] for i in range(12)):
        grey = image.float().mean(0)
        digits = target["masks"].any(0)
        assert abs(float(grey[digits].mean() - grey[~digits].mean())) > 40


def test_sample_of_a_single_label_has_ten_classes() -> None:
    data = scenes(targets=["label"])
    assert data.classes == [str(digit) for digit in range(10)]
    images, target = data.collate([data.splits["test"][i] for i in range(4)])
    assert images.shape == (4, 3, 64, 64)
    assert target["label"].max() < 10


def test_boxes_make_a_list_batch() -> None:
    data = scenes(targets=["boxes", "labels"])
    images, targets = data.collate([data.splits["test"][i] for i in range(4)])
    assert isinstance(images, list)
    assert [set(target) for target in targets] == [{"boxes", "labels"}] * 4


def test_scenes_without_digits_have_empty_targets() -> None:
    data = scenes(targets=[name for name in TARGETS if name != "box"], digits=[0, 0])
    _, target = data.splits["train"][0]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 64, 64)
    assert target["labels"].shape == (0,)


def test_grey_scenes_and_other_sizes() -> None:
    image, target = scenes(channels=1, image_size=[40, 90], sides=[8, 20]).splits["val"][0]
    assert image.shape == (1, 40, 90)
    assert target["mask"].shape == (40, 90)


def test_box_of_a_mask() -> None:
    mask = np.zeros((1, 6, 8), bool)
    mask[0, 2:5, 3] = True
    assert boxes_of(mask).tolist() == [[3, 2, 4, 5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["maks"]}, "did you mean masks or mask"),
        ({"sides": [10, 80]}, "must not be larger than"),
        ({"digits": [5, 2]}, r"must be \[least, greatest\]"),
        ({"image_size": None}, "data.image_size=null"),
        ({"images": {"training": 5}}, "splits other than train, val, test"),
    ],
)
def test_faults_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scenes(**options)
