"""What moves or replaces whole pixels: flips, padded crops, erasing; on a CPU and in one operation as for a GPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightbed.errors import UserError
from lightbed.transforms import crop, erase, flip
from lightbed.transforms.crop import RandomCrop
from lightbed.transforms.erase import RandomErasing
from lightbed.transforms.flip import HorizontalFlip, VerticalFlip

PAD = {"nearest": "edge", "reflect": "symmetric", "constant": "constant"}


def images(*shape, dtype=torch.uint8):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("kind", "dim"), [(HorizontalFlip, 3), (VerticalFlip, 2)])
def test_flip_mirrors_the_chosen_and_their_masks(kind, dim, dtype):
    before, mask = images(3, 2, 4, 5, dtype=dtype), images(3, 4, 5, dtype=torch.int64)
    out, target = kind(0.5)(before.clone(), {"mask": mask.clone()}, torch.tensor([[0.1], [0.6], [0.4]]))
    assert out.dtype == dtype
    for i, chosen in enumerate((True, False, True)):
        assert torch.equal(out[i], before[i].flip(dim - 1) if chosen else before[i])
        assert torch.equal(target["mask"][i], mask[i].flip(dim - 2) if chosen else mask[i])


@pytest.mark.parametrize(("p", "share"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3)])
def test_flip_takes_its_share(p, share):
    before = torch.tensor([[[[1, 2]]]]).expand(5000, 1, 1, 2).clone()
    out, _ = HorizontalFlip(p)(before, {}, torch.rand(5000, 1, generator=torch.Generator().manual_seed(0)))
    assert (out[:, 0, 0, 0] == 2).float().mean().item() == pytest.approx(share, abs=0.02)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(PAD)),
    st.integers(0, 9),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.lists(st.tuples(*[st.floats(0, 1, exclude_max=True, width=32)] * 2), min_size=1, max_size=4),
)
def test_crop_is_a_window_of_the_padded_image(fill, padding, size, u):
    before, mask = images(len(u), 3, *size), images(len(u), *size, dtype=torch.int64)
    out, target = RandomCrop(padding, fill)(before.clone(), {"mask": mask.clone()}, torch.tensor(u))
    height, width = size
    for i, (down, right) in enumerate(u):
        y, x = int(down * (2 * padding + 1)), int(right * (2 * padding + 1))
        for pixels, given_, value in ((out[i], before[i], 0), (target["mask"][i][None], mask[i][None], 255)):
            extra = {"constant_values": value} if fill == "constant" else {}
            padded = np.pad(given_.numpy(), [(0, 0), (padding, padding), (padding, padding)], PAD[fill], **extra)
            np.testing.assert_array_equal(pixels.numpy(), padded[:, y : y + height, x : x + width])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(PAD)), st.integers(0, 9))
def test_both_paths_give_the_same(seed, fill, padding):
    """A GPU takes another path than a CPU; both run here."""
    draw = torch.Generator().manual_seed(seed)
    before = torch.randint(0, 256, (6, 3, 5, 8), generator=draw, dtype=torch.uint8)
    chosen = torch.rand(6, generator=draw) < 0.5
    top, left = torch.randint(0, 2 * padding + 1, (2, 6), generator=draw)
    boxes = torch.randint(0, 9, (6, 4), generator=draw)
    for value in (before, before.float(), before[:, 0].long()):
        for dim in (-1, -2):
            each, whole = flip._flip_chosen(value.clone(), chosen, dim), flip._flip_all(value.clone(), chosen, dim)
            assert torch.equal(each, whole)
        arguments = (top, left, padding, fill, 255)
        assert torch.equal(crop._window_view(value.clone(), *arguments), crop._window_all(value.clone(), *arguments))
    assert torch.equal(erase._erase_each(before.clone(), boxes, 7), erase._erase_all(before.clone(), boxes, 7))


def test_erasing_draws_rectangles_of_the_given_sizes():
    u = torch.rand(3000, 5, generator=torch.Generator().manual_seed(0))
    out, target = RandomErasing(0.5, (0.1, 0.2), (0.5, 2.0), value=9)(torch.zeros(3000, 1, 40, 60), {}, u)
    assert target == {}
    assert set(out.unique().tolist()) == {0.0, 9.0}
    erased = out[out.amax((1, 2, 3)) > 0][:, 0] == 9
    assert len(erased) / 3000 == pytest.approx(0.5, abs=0.03)
    rows, columns = erased.any(2), erased.any(1)
    tall, wide = rows.sum(1), columns.sum(1)
    assert torch.equal(erased.sum((1, 2)), tall * wide)  # one filled rectangle, wholly inside
    assert (tall * wide / 2400).min() > 0.09
    assert (tall * wide / 2400).max() < 0.21
    assert (wide / tall).min() > 0.45
    assert (wide / tall).max() < 2.2
    assert rows[:, 0].any()
    assert rows[:, -1].any()
    assert columns[:, 0].any()
    assert columns[:, -1].any()


def test_cutout_is_a_square():
    out, _ = RandomErasing(1.0, (0.25, 0.25), (1.0, 1.0))(torch.ones(50, 3, 32, 32), {}, torch.rand(50, 5))
    assert (out == 0).sum((2, 3)).eq(16 * 16).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HorizontalFlip(1.5), "HorizontalFlip: p=1.5"),
        (lambda: VerticalFlip(-1), "VerticalFlip: p=-1"),
        (lambda: RandomCrop(-1), "padding=-1"),
        (lambda: RandomCrop(2, "black"), "fill=black is not known"),
        (lambda: RandomErasing(p=2), "p=2"),
        (lambda: RandomErasing(scale=[0.3, 0.1]), "scale="),
        (lambda: RandomErasing(ratio=[0, 1]), "ratio="),
        (lambda: RandomErasing(value=300), "value=300"),
    ],
)
def test_wrong_arguments_are_told(make, says):
    with pytest.raises(UserError, match=says):
        make()
