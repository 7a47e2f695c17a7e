"""What every image goes through before a network, and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightbed.errors import UserError
from lightbed.transforms.preprocess import Preprocess

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pixels(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(3, 7, 9), (4, 3, 7, 9)])
def test_forward_scales_and_normalises(shape):
    images = pixels(*shape)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    out = Preprocess(3, None, MEAN, STD)(images)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, (images.float() / 255 - mean) / std, atol=2e-6, rtol=0)


def test_forward_takes_floats_and_leaves_them():
    images = pixels(2, 1, 5, 5)
    floats = images.float()
    preprocess = Preprocess(1, None, 0.3, 0.4)
    assert torch.equal(preprocess(floats), preprocess(images))
    assert torch.equal(floats, images.float())


def test_neutral_mean_and_std_leave_the_unit_range():
    out = Preprocess(1, None, 0.0, 1.0)(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
    assert out.flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.lists(st.floats(0.05, 2), min_size=3, max_size=3))
def test_undo_gives_back_every_value(mean, std):
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    preprocess = Preprocess(3, None, mean, std)
    assert torch.equal(preprocess.undo(preprocess(images)), images)


def test_fit_leaves_what_fits():
    image = pixels(3, 8, 6)
    assert Preprocess(3, [8, 6]).fit(image) is image
    assert Preprocess(3, None).fit(image) is image


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@settings(max_examples=30, deadline=None)
@given(size=st.tuples(*[st.integers(1, 40)] * 2), given_=st.tuples(*[st.integers(1, 60)] * 2))
def test_fit_gives_the_size(resize, size, given_):
    out = Preprocess(1, size, resize=resize).fit(pixels(1, *given_))
    assert out.shape == (1, *size)
    assert out.dtype == torch.uint8


def test_stretch_sees_everything_and_crop_the_centre():
    image = torch.zeros(1, 10, 30, dtype=torch.uint8)
    image[:, :, :10], image[:, :, 20:] = 100, 200
    stretched = Preprocess(1, 10, resize="stretch").fit(image)
    assert (stretched[0, 0, 0].item(), stretched[0, 0, -1].item()) == (100, 200)
    assert Preprocess(1, 10, resize="crop").fit(image).eq(0).all()


def test_describe_makes_the_same_again():
    preprocess = Preprocess(3, (12, 10), MEAN, STD, "crop")
    again = Preprocess(**preprocess.describe())
    images = pixels(2, 3, 12, 10)
    assert again.describe() == preprocess.describe()
    assert torch.equal(again(images), preprocess(images))
    assert again.size == (12, 10)
    assert Preprocess(1, 5).describe() == {
        "channels": 1,
        "size": [5, 5],
        "mean": [0.5],
        "std": [0.5],
        "resize": "stretch",
    }
    assert Preprocess(1).describe()["size"] is None
    assert not preprocess.state_dict()  # it travels in the checkpoint's card, not among the weights


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mean": [0.1, 0.2]}, "data.mean has 2 values but the images have 3 channels; give 1 or 3"),
        ({"std": [0.1] * 4}, "data.std has 4 values"),
        ({"std": 0}, "data.std=.* must be positive"),
        ({"resize": "strech"}, "data.resize=strech is not known: did you mean stretch"),
    ],
)
def test_wrong_arguments_are_told(arguments, says):
    with pytest.raises(UserError, match=says):
        Preprocess(**arguments)
