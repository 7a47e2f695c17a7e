"""Boxes and masks that move with their images: the colours of a picture tell where its objects are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightbed.chance import uniform
from lightbed.data.order import Keys
from lightbed.data.source import KeyedReader, listed
from lightbed.errors import UserError
from lightbed.transforms.affine import Affine
from lightbed.transforms.augment import Augment, Augmentation
from lightbed.transforms.boxes import areas_of, boxes_of, clip, move_boxes, tidy, transform_objects
from lightbed.transforms.colour import ColourJitter
from lightbed.transforms.crop import RandomCrop, RandomResizedCrop
from lightbed.transforms.flip import HorizontalFlip, VerticalFlip
from lightbed.transforms.preprocess import Preprocess
from lightbed.transforms.scale import ScaleJitter

MOVES = [
    HorizontalFlip(),
    VerticalFlip(),
    RandomCrop(9),
    RandomCrop(9, "reflect"),
    RandomResizedCrop((0.3, 1.0)),
    ScaleJitter((0.6, 1.6)),
    ScaleJitter((0.5, 0.7), "nearest"),
    Affine(zoom=0.3, shift=0.2, flip=0.5, fill="constant"),
]
TONES = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def picture(seed: int, size: tuple[int, int] = (60, 90)) -> tuple[Tensor, dict[str, Any]]:
    """An image of rectangles on black, each of its own hue, so that also a pixel mixed with black tells its object."""
    rng = np.random.default_rng(seed)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    boxes, masks = [], []
    for place, tone in enumerate(TONES):
        x, y = 22 * place + int(rng.integers(1, 6)), int(rng.integers(2, 30))
        box = [x, y, x + int(rng.integers(8, 14)), y + int(rng.integers(8, 26))]
        mask = torch.zeros(size, dtype=torch.bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        image[:, mask] = torch.tensor(tone, dtype=torch.uint8)[:, None]
        boxes.append(box)
        masks.append(mask)
    target = {
        "boxes": torch.tensor(boxes).float(),
        "labels": torch.arange(4),
        "masks": torch.stack(masks),
        "area": torch.tensor([float(mask.sum()) for mask in masks]),
        "crowd": torch.tensor([False, True, False, True]),
        "index": torch.tensor(seed),
    }
    return image, target


def seen_of(image: Tensor, label: Any) -> Tensor:
    """The pixels (H, W) that show an object."""
    return ((image > 127) == (torch.tensor(TONES[label]) > 127)[:, None, None]).all(0)


def moved(
    steps: Sequence[Augmentation], images: list[Tensor], targets: list[Any], epoch: int = 0, **options: Any
) -> Any:
    return Augment(steps, 0, **options)(images, targets, epoch)


@pytest.mark.parametrize("step", MOVES, ids=lambda step: type(step).__name__)
def test_boxes_and_masks_move_as_the_pixels_do(step: Augmentation) -> None:
    pairs = [picture(i, (60, 90 + 4 * (i % 2))) for i in range(8)]
    images, targets = moved([step], [image for image, _ in pairs], [target for _, target in pairs])
    changed = 0
    for (before, was), image, target in zip(pairs, images, targets, strict=True):
        assert image.shape == before.shape
        assert image.dtype == (torch.float32 if step.computes else torch.uint8)
        count = len(target["boxes"])
        assert all(len(target[key]) == count for key in ("labels", "masks", "area", "crowd"))
        assert torch.equal(target["crowd"], target["labels"] % 2 == 1)
        changed += not torch.equal(image, before)
        for box, label, mask, area in zip(*(target[k] for k in ("boxes", "labels", "masks", "area")), strict=True):
            seen = seen_of(image, label)
            inside = torch.zeros_like(mask)
            x1, y1, x2, y2 = box.round().int().tolist()
            inside[y1:y2, x1:x2] = True
            real = seen & inside if step.__dict__.get("fill") in ("reflect", "nearest") else seen
            assert float((real & mask).sum()) / max(1, int(real.sum())) > 0.9
            assert float((real & mask).sum()) / int(mask.sum()) > 0.8
            assert float((boxes_of(mask[None])[0] - box).abs().max()) <= 1.01
            assert float(area) == pytest.approx(float(areas_of(box[None])), rel=0.2)
            assert bool((box >= 0).all())
            assert bool((box[2:] <= torch.tensor(image.shape[:0:-1])).all())
        assert torch.equal(was["boxes"], picture(int(was["index"]), tuple(before.shape[1:]))[1]["boxes"])  # untouched
    assert changed >= 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 70), st.integers(20, 70), st.sampled_from(range(len(MOVES))))
def test_a_box_moves_as_the_mask_that_fills_it(seed: int, height: int, width: int, which: int) -> None:
    step, rng = MOVES[which], np.random.default_rng(seed)
    x, y = np.sort(rng.choice(width + 1, 2, replace=False)), np.sort(rng.choice(height + 1, 2, replace=False))
    mask = torch.zeros(1, 1, height, width, dtype=torch.uint8)
    mask[..., y[0] : y[1], x[0] : x[1]] = 1
    box = torch.tensor([[x[0], y[0], x[1], y[1]]]).float()
    u = uniform(seed, 0, torch.tensor([seed]), step.draws)
    _, done = step(torch.zeros(1, 3, height, width), {"masks": mask.clone()}, u)
    whole = move_boxes(box, step.matrices(u, height, width)[0], (height, width))
    expected = clip(whole, (height, width))
    if bool(done["masks"].any()):
        assert float((boxes_of(done["masks"][0].bool()) - expected).abs().max()) <= 1
    else:
        assert float((expected[:, 2:] - expected[:, :2]).min()) <= 1


def test_a_flip_to_the_number() -> None:
    _, target = picture(0)
    target["boxes"][0] = torch.tensor([2.0, 3, 12, 20])
    _, (done,) = moved([HorizontalFlip(1.0)], [picture(0)[0]], [target])
    assert done["boxes"][0].tolist() == [78, 3, 88, 20]
    assert torch.equal(done["masks"], target["masks"].flip(-1))
    assert torch.equal(done["area"], target["area"])


def test_chance_is_keyed_by_the_sample() -> None:
    steps = [HorizontalFlip(), ColourJitter(0.4, 0.4, 0.4), ScaleJitter((0.6, 1.6))]
    pairs = [picture(i) for i in range(6)]
    images, targets = moved(steps, [image for image, _ in pairs], [target for _, target in pairs])
    alone, (target,) = moved(steps, [pairs[4][0]], [pairs[4][1]])
    assert torch.equal(alone[0], images[4])
    assert torch.equal(target["boxes"], targets[4]["boxes"])
    again, _ = moved(steps, [pairs[4][0]], [pairs[4][1]], epoch=1)
    assert not torch.equal(again[0], images[4])
    stacked = torch.stack([image for image, _ in pairs])  # the same steps and numbers as for stacked images
    whole, _ = Augment(steps, 0)(stacked, {"index": torch.arange(6)}, 0)
    assert torch.equal(torch.stack(images), whole)


def test_what_is_hardly_seen_any_more_is_dropped() -> None:
    """A shift by 10 pixels to the left cuts boxes at the left edge by what their width tells."""

    class Left(Augmentation):
        moves = True

        def forward(self, images: Tensor, target: Any, u: Tensor) -> Any:
            shifted = {name: torch.nn.functional.pad(values[..., 10:], (0, 10)) for name, values in target.items()}
            return torch.nn.functional.pad(images[..., 10:], (0, 10)), shifted

        def matrices(self, u: Tensor, height: int, width: int) -> Tensor:
            return torch.tensor([[[1.0, 0, 0], [0, 1, 10]]])

    image, target = torch.zeros(3, 40, 60, dtype=torch.uint8), picture(0, (40, 60))[1]
    target["boxes"] = torch.tensor([[0.0, 5, 12, 15], [0, 5, 20, 15], [0, 5, 10, 15], [30, 5, 50, 15]])
    target["masks"] = torch.zeros(4, 40, 60, dtype=torch.bool)
    for mask, box in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    target["masks"][1, 5:9] = False  # the upper part of the second object has no pixels
    target["area"] = torch.full((4,), 100.0)
    for visible, labels in ((0.0, [0, 1, 3]), (0.25, [1, 3]), (0.6, [3])):
        _, (done,) = moved([Left()], [image], [target], visible=visible)
        assert done["labels"].tolist() == labels
    _, (done,) = moved([Left()], [image], [target], visible=0.1)
    assert done["boxes"].tolist() == [
        [0, 5, 2, 15],
        [0, 9, 10, 15],
        [20, 5, 40, 15],
    ]  # tight around the mask that is left
    assert done["area"].tolist() == pytest.approx([100 / 6, 50, 100])
    with pytest.raises(UserError, match=r"augment\.visible=2 must lie in 0\.\.1"):
        Augment([Left()], 0, visible=2)


def test_images_without_objects_or_masks_are_augmented_too() -> None:
    image, target = picture(0)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "index": torch.tensor(0)}
    steps = [HorizontalFlip(1.0), ScaleJitter((0.6, 0.8)), Affine(rotation=20)]
    images, (done, with_masks, boxes_only) = moved(
        steps,
        [image, image, image],
        [
            empty,
            {**empty, "masks": torch.zeros(0, 60, 90, dtype=torch.bool)},
            {key: target[key] for key in ("boxes", "labels", "index")},
        ],
    )
    assert not torch.equal(images[0], image)
    assert done["boxes"].shape == (0, 4)
    assert with_masks["masks"].shape == (0, 60, 90)
    assert len(boxes_only["boxes"]) == len(boxes_only["labels"]) > 0


def test_a_turned_box_is_tight_around_its_mask_or_holds_it() -> None:
    image, target = picture(3)
    steps = [Affine(rotation=40, fill="constant")]
    _, (tight,) = moved(steps, [image], [target])
    assert torch.equal(tight["boxes"], boxes_of(tight["masks"]))
    plain = {key: target[key] for key in ("boxes", "labels", "index")}
    _, (loose,) = moved(steps, [image], [plain])
    places = {int(label): i for i, label in enumerate(loose["labels"])}
    for label, box in zip(tight["labels"].tolist(), tight["boxes"], strict=True):
        around = loose["boxes"][places[label]]
        assert bool((around[:2] <= box[:2] + 1).all())
        assert bool((around[2:] >= box[2:] - 1).all())


def typed(seed: int) -> tuple[Tensor, dict[str, Any]]:
    image, target = picture(seed)
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(60, 90))
    return image, {**target, "boxes": boxes, "masks": tv_tensors.Mask(target["masks"])}


@pytest.mark.parametrize("sanitised", [True, False])
def test_torchvisions_transforms_move_samples_with_objects(sanitised: bool) -> None:
    steps = [v2.RandomHorizontalFlip(1.0), v2.RandomCrop((40, 40))] + [v2.SanitizeBoundingBoxes()] * sanitised
    source = [typed(i) for i in range(12)]
    reader = KeyedReader(source, 0, v2.Compose(steps), listed)  # type: ignore[arg-type]
    images, targets = reader.__getitems__(Keys(0, torch.arange(12)))
    total = 0
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        assert type(image) is type(target["boxes"]) is Tensor
        assert image.shape == (3, 40, 40)
        assert target["index"] == i
        total += len(target["boxes"])
        assert torch.equal(target["crowd"], target["labels"] % 2 == 1)
        for box, label, mask, area in zip(*(target[k] for k in ("boxes", "labels", "masks", "area")), strict=True):
            assert torch.equal(mask, seen_of(image, label))
            assert torch.equal(boxes_of(mask[None])[0], box)
            assert float(area) == float(mask.sum())
    assert 12 <= total < 40  # some are cut away
    again, _ = reader.__getitems__(Keys(0, torch.tensor([7])))
    assert torch.equal(again[0], images[7])


def test_other_box_formats_come_back_as_corners() -> None:
    image, target = typed(0)
    transform = v2.ConvertBoundingBoxFormat("CXCYWH")
    _, done = transform_objects(transform, tv_tensors.Image(image), target, lambda: None)
    assert torch.allclose(done["boxes"], picture(0)[1]["boxes"])


def test_a_transform_that_drops_boxes_alone_is_told() -> None:
    def half(image: Tensor, target: dict[str, Any]) -> Any:
        return image, {**target, "boxes": target["boxes"][:2]}

    image, target = typed(0)
    with pytest.raises(UserError, match=r"gives 2 boxes, 4 labels, 4 masks: add .*SanitizeBoundingBoxes"):
        transform_objects(half, tv_tensors.Image(image), target, lambda: None)


def test_boxes_of_masks() -> None:
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 2:5, 3] = True
    masks[2, 5, 7] = masks[2, 0, 0] = True
    assert boxes_of(masks).tolist() == [[3, 2, 4, 5], [0, 0, 0, 0], [0, 0, 8, 6]]
    assert boxes_of(masks[:0]).shape == (0, 4)


def test_tidy_keeps_what_needs_nothing() -> None:
    _, target = picture(0)
    done = tidy(target, (60, 90))
    assert all(torch.equal(done[key], target[key]) for key in target)


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 300), st.integers(10, 300), st.integers(5, 90), st.integers(5, 90), st.booleans())
def test_fitted_boxes_come_back(height: int, width: int, tall: int, wide: int, crop: bool) -> None:
    preprocess = Preprocess(3, (tall, wide), resize="crop" if crop else "stretch")
    boxes = torch.tensor([[0.0, 0, width, height], [1, 2, 5, 9]], dtype=torch.float64)
    fitted = preprocess.fit_boxes(boxes, (height, width))
    assert torch.allclose(preprocess.unfit_boxes(fitted, (height, width)), boxes)
    assert float(fitted[0, 0]) <= 0 <= wide <= float(fitted[0, 2]) + 1e-6
    assert float(fitted[0, 1]) <= 0 <= tall <= float(fitted[0, 3]) + 1e-6
