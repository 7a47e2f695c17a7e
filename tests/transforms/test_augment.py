"""A sample is augmented alike whatever batch it is in; epoch, seed and index make the difference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightbed.errors import UserError
from lightbed.transforms.affine import Affine
from lightbed.transforms.augment import Augment
from lightbed.transforms.colour import ColourJitter
from lightbed.transforms.crop import RandomCrop, RandomResizedCrop
from lightbed.transforms.erase import RandomErasing
from lightbed.transforms.flip import HorizontalFlip, VerticalFlip
from lightbed.transforms.preprocess import Preprocess


def everything(seed=0):
    steps = [HorizontalFlip(), VerticalFlip(), RandomCrop(2, "reflect"), Affine(40, 0.2, 10, 0.2, 0.5)]
    return Augment([*steps, RandomResizedCrop(), ColourJitter(0.4, 0.4, 0.4), RandomErasing()], seed)


def batch(count, height, width, dtype=torch.uint8, channels=3):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, height, width), generator=draw).to(dtype)
    mask = torch.randint(0, 5, (count, height, width), generator=draw)
    index = torch.randperm(1000, generator=draw)[:count]
    return images, {"label": torch.arange(count), "mask": mask, "index": index}


def chosen(batch, rows):
    images, target = batch
    return images[rows], {name: values[rows] for name, values in target.items()}


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(range(9)),
    st.integers(1, 9),
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
    st.sampled_from([torch.uint8, torch.float32]),
    st.sampled_from([1, 3]),
)
def test_same_bits_in_any_batch(order, size, shape, dtype, channels):
    whole = batch(9, *shape, dtype, channels)
    images, target = everything()(*whole, epoch=3)
    for rows in torch.tensor(order).split(size):
        part, part_target = everything()(*chosen(whole, rows), epoch=3)
        assert torch.equal(part, images[rows])
        assert torch.equal(part_target["mask"], target["mask"][rows])
        assert torch.equal(part_target["label"], rows)


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_where_the_batch_is_worked_on_in_parts(threads):
    """300x300 pixels: a part holds one image a thread, and sums over an image are long enough to be split."""
    whole, before = batch(5, 300, 300), torch.get_num_threads()
    images, target = everything()(*whole, epoch=0)
    torch.set_num_threads(threads)
    try:
        for i in range(5):
            alone, alone_target = everything()(*chosen(whole, [i]), epoch=0)
            assert torch.equal(alone[0], images[i])
            assert torch.equal(alone_target["mask"][0], target["mask"][i])
    finally:
        torch.set_num_threads(before)


def test_epoch_seed_and_index_make_the_difference():
    images = batch(1, 16, 16)[0].expand(4, -1, -1, -1)
    target = {"index": torch.arange(4)}
    first = everything()(images, target, epoch=0)[0]
    assert torch.equal(first, everything()(images, target, epoch=0)[0])
    assert len(first.flatten(1).unique(dim=0)) == 4
    for other in (everything()(images, target, epoch=1)[0], everything(seed=1)(images, target, epoch=0)[0]):
        assert (other != first).flatten(1).any(1).all()


def test_what_comes_in_is_left_as_it_was():
    images, target = batch(4, 8, 8)
    images_before, mask_before = images.clone(), target["mask"].clone()
    out, moved = everything()(images, target, epoch=0)
    assert out.dtype == torch.float32
    assert torch.equal(images, images_before)
    assert torch.equal(target["mask"], mask_before)
    assert moved["label"] is target["label"]
    floats = images.float()
    everything()(floats, target, epoch=0)
    assert torch.equal(floats, images_before.float())


def test_uint8_gives_what_float_gives():
    images, target = batch(6, 20, 24)
    exact = everything()(images.float(), target, epoch=0)[0]
    assert torch.equal(everything()(images, target, epoch=0)[0], exact)


@pytest.mark.parametrize("size", [16, 300])
def test_what_comes_then_is_done_to_all_parts(size):
    images, target = batch(5, size, size)
    preprocess = Preprocess(3, None, [0.4, 0.5, 0.6], 0.25)
    expected = preprocess(everything()(images, target, epoch=0)[0].clone())
    assert torch.equal(everything()(images, target, epoch=0, then=preprocess)[0], expected)


def test_a_step_more_changes_nothing_before_it():
    images, target = batch(6, 8, 8)
    short = Augment([HorizontalFlip(), RandomCrop(2)], 0)(images, target, epoch=0)[0]
    long = Augment([HorizontalFlip(), RandomCrop(2), RandomErasing(p=0.0)], 0)(images, target, epoch=0)[0]
    assert torch.equal(short, long)


def test_boxes_are_refused_where_pixels_move():
    images, target = batch(2, 8, 8)
    target["boxes"] = torch.zeros(2, 1, 4)
    with pytest.raises(UserError, match=r"augment\.batch moves no boxes"):
        Augment([HorizontalFlip()], 0)(images, target, epoch=0)
    out, kept = Augment([ColourJitter(0.4)], 0)(images, target, epoch=0)
    assert kept["boxes"] is target["boxes"]
    assert out.shape == images.shape
