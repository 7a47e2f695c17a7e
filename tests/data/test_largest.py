"""One object an image: the largest of labelled data, and how it moves in augmentation."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lightbed.data.annotations import Annotated
from lightbed.data.boxes import largest
from lightbed.data.digit_scenes import DigitScenes
from lightbed.data.files import Entry
from lightbed.errors import UserError
from lightbed.transforms.augment import Augment
from lightbed.transforms.boxes import move_boxes, transform_one
from lightbed.transforms.crop import RandomCrop, RandomResizedCrop
from lightbed.transforms.flip import HorizontalFlip
from lightbed.transforms.preprocess import Preprocess


def image(boxes: list[list[float]], crowd: list[bool] | None = None) -> Annotated:
    count = len(boxes)
    return Annotated(
        Entry("a.png", 1, 1), "train", numbers=list(range(count)), boxes=np.array(boxes, float).reshape(-1, 4),
        labels=np.arange(count), crowd=np.array(crowd or [False] * count, bool), areas=np.full(count, np.nan),
        shapes=[None] * count, size=(100, 200),
    )  # fmt: skip


def test_the_largest_box_as_the_network_sees_it() -> None:
    boxes = [[0.0, 0, 30, 30], [150.0, 0, 200, 40], [60.0, 10, 90, 50]]
    whole = largest(image(boxes), Preprocess(3, [50, 50]))
    assert whole is not None
    assert whole.labels.tolist() == [1]
    crop = Preprocess(3, [50, 50], resize="crop")  # sees x from 50 to 150
    cut = largest(image(boxes), crop)
    assert cut is not None
    assert cut.labels.tolist() == [2]
    assert largest(image(boxes[:1]), crop) is None
    assert largest(image([]), crop) is None
    crowds = largest(image(boxes, [False, True, False]), Preprocess(3, [50, 50]))
    assert crowds is not None
    assert crowds.labels.tolist() == [2]


def marked(box: list[int], size: int = 24) -> torch.Tensor:
    pixels = torch.zeros(1, size, size, dtype=torch.uint8)
    pixels[:, box[1] : box[3], box[0] : box[2]] = 200
    return pixels


def extent(pixels: torch.Tensor) -> list[int]:
    rows, columns = (pixels[0] > 100).any(1).nonzero(), (pixels[0] > 100).any(0).nonzero()
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def test_the_box_moves_with_its_pixels() -> None:
    boxes = [[2, 3, 9, 8], [10, 12, 20, 22], [5, 5, 19, 19]]
    images = torch.stack([marked(box) for box in boxes])
    target = {"box": torch.tensor(boxes).float(), "label": torch.arange(3), "index": torch.arange(3)}
    moved = 0
    for epoch in range(6):
        done, after = Augment([HorizontalFlip(0.5), RandomCrop(3)], 0)(images, target, epoch)
        for pixels, box, before in zip(done, after["box"], boxes, strict=True):
            assert extent(pixels) == box.int().tolist()
            moved += box.int().tolist() != before
    assert moved > 6
    assert after["label"].tolist() == [0, 1, 2]


def test_an_image_that_loses_its_object_stays_as_it_was() -> None:
    images = torch.stack([marked([0, 0, 4, 4])] * 16)
    target = {"box": torch.tensor([[0.0, 0, 4, 4]] * 16), "label": torch.zeros(16), "index": torch.arange(16)}
    done, after = Augment([RandomResizedCrop([0.1, 0.3])], 0, visible=0.5)(images, target, 0)
    areas = (after["box"][:, 2:] - after["box"][:, :2]).prod(1)
    assert float(areas.min()) > 0
    stayed = after["box"].eq(target["box"]).all(1)
    assert 0 < int(stayed.sum()) < 16
    assert torch.equal(done[stayed], images[stayed].to(done.dtype))


def test_one_matrix_a_box_or_one_for_all() -> None:
    boxes = torch.tensor([[1.0, 2, 5, 9], [3.0, 3, 8, 7]])
    matrices = RandomResizedCrop().matrices(torch.rand(2, 4, generator=torch.Generator().manual_seed(0)), 20, 30)
    each = torch.cat([move_boxes(box[None], matrix, (20, 30)) for box, matrix in zip(boxes, matrices, strict=True)])
    assert torch.allclose(move_boxes(boxes, matrices, (20, 30)), each, atol=1e-5)


def test_a_transform_of_torchvision_moves_it_too() -> None:
    target = {"label": torch.tensor(3), "box": torch.tensor([2.0, 3, 9, 8])}
    pixels, done = transform_one(v2.RandomHorizontalFlip(1.0), marked([2, 3, 9, 8]), target, lambda: None)
    assert extent(pixels) == done["box"].int().tolist() == [15, 3, 22, 8]
    assert int(done["label"]) == 3
    lost = v2.Compose([v2.CenterCrop(4), v2.SanitizeBoundingBoxes()])
    pixels, done = transform_one(
        lost, marked([0, 0, 4, 4]), {**target, "box": torch.tensor([0.0, 0, 4, 4])}, lambda: None
    )
    assert pixels.shape == (1, 24, 24), "as it was"


def test_scenes_tell_the_box_of_their_largest_digit() -> None:
    few = {"images": {"train": 6, "val": 1, "test": 1}}
    one, all_of_it = (
        DigitScenes(**few, targets=["label", "box"]),
        DigitScenes(**few, targets=["boxes", "labels", "masks"]),
    )
    one.setup(), all_of_it.setup()
    for i in range(6):
        target, whole = one.splits["train"][i][1], all_of_it.splits["train"][i][1]
        place = int(whole["masks"].sum((1, 2)).argmax())
        assert torch.equal(target["box"], whole["boxes"].as_subclass(torch.Tensor)[place])
        assert int(target["label"]) == int(whole["labels"][place])
    with pytest.raises(UserError, match="a box in every scene needs a digit in every scene"):
        DigitScenes(**few, digits=[0, 2], targets=["box"])
