"""The Keras-like affine map against matrices multiplied out in NumPy and sampled by SciPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lightbed.errors import UserError
from lightbed.transforms.affine import Affine
from lightbed.transforms.crop import RandomResizedCrop
from lightbed.transforms.warp import warp

SCIPY = {"nearest": "nearest", "reflect": "reflect", "constant": "grid-constant"}
share = st.floats(0, 1, exclude_max=True, width=32)


def keras_matrix(u, rotation, shift, shear, zoom, flip, height, width):
    """rotation @ shift @ shear @ zoom about the centre, as ImageDataGenerator does it, 3x3, in (row, column)."""
    theta = math.radians(-rotation + 2 * rotation * u[0])
    down, right = (-shift + 2 * shift * u[1]) * height, (-shift + 2 * shift * u[2]) * width
    lean = math.radians(-shear + 2 * shear * u[3])
    zoom_y, zoom_x = 1 - zoom + 2 * zoom * u[4], 1 - zoom + 2 * zoom * u[5]
    turn = np.array([[math.cos(theta), -math.sin(theta), 0], [math.sin(theta), math.cos(theta), 0], [0, 0, 1]])
    move = np.array([[1, 0, down], [0, 1, right], [0, 0, 1]])
    sheared = np.array([[1, -math.sin(lean), 0], [0, math.cos(lean), 0], [0, 0, 1]])
    zoomed = np.diag([zoom_y, zoom_x, 1])
    mirror = np.diag([1, -1 if u[6] < flip else 1, 1])  # the flip comes after: it acts on the output's columns
    centre = np.array([[1, 0, (height - 1) / 2], [0, 1, (width - 1) / 2], [0, 0, 1]])
    return centre @ turn @ move @ sheared @ zoomed @ mirror @ np.linalg.inv(centre)


@settings(max_examples=60, deadline=None)
@given(
    u=st.tuples(*[share] * 7),
    size=st.tuples(st.integers(2, 17), st.integers(2, 17)),
    fill=st.sampled_from(sorted(SCIPY)),
    ranges=st.tuples(st.floats(0, 180), st.floats(0, 0.5), st.floats(0, 40), st.floats(0, 0.9)),
    seed=st.integers(0, 1000),
)
def test_equals_scipy(u, size, fill, ranges, seed):
    rotation, shift, shear, zoom = ranges
    image = np.random.default_rng(seed).integers(0, 256, (2, *size)).astype(np.float32)
    affine = Affine(rotation, shift, shear, zoom, flip=0.5, fill=fill)
    out, _ = affine(torch.from_numpy(image)[None], {}, torch.tensor([u], dtype=torch.float32))
    matrix = keras_matrix(u, rotation, shift, shear, zoom, 0.5, *size)
    expected = [ndimage.affine_transform(c, matrix, order=1, mode=SCIPY[fill], output=np.float64) for c in image]
    # float32 places are exact to 1e-5 pixels, and a pixel may differ from its neighbour by 255
    np.testing.assert_allclose(out[0].numpy(), expected, atol=0.05)


def test_identity_leaves_every_pixel():
    image = torch.randint(0, 256, (2, 3, 30, 41)).float()
    out, _ = Affine()(image.clone(), {}, torch.rand(2, 7))
    torch.testing.assert_close(out, image, atol=0.01, rtol=0)


def test_whole_pixel_shift_with_each_fill():
    row = torch.tensor([10.0, 20.0, 30.0, 40.0]).view(1, 1, 1, 4)
    mask = torch.tensor([1, 2, 3, 4]).view(1, 1, 4)
    u = torch.tensor([[0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.9]])  # two pixels: the output sees what lies to its right
    expected = {"nearest": ([30, 40, 40, 40], [3, 4, 4, 4]), "constant": ([30, 40, 0, 0], [3, 4, 255, 255])}
    expected["reflect"] = ([30, 40, 40, 30], [3, 4, 4, 3])
    for fill, (pixels, classes) in expected.items():
        out, target = Affine(shift=[0.0, 0.5], fill=fill)(row.clone(), {"mask": mask.clone()}, u)
        assert out.flatten().tolist() == pytest.approx(pixels, abs=1e-3), fill
        assert target["mask"].flatten().tolist() == classes, fill
        assert target["mask"].dtype == torch.int64


@pytest.mark.parametrize("fill", ["nearest", "reflect", "constant"])
def test_mask_follows_its_image(fill):
    """A mask drawn into the image as grey values 0 and 200 lies over it after any map, but for blended edges."""
    mask = torch.zeros(8, 40, 40, dtype=torch.int64)
    mask[:, 8:30, 12:24] = 1
    u = torch.rand(8, 7, generator=torch.Generator().manual_seed(0))
    out, target = Affine(40, 0.2, 20, 0.2, 0.5, fill)(mask[:, None] * 200.0, {"mask": mask.clone()}, u)
    seen = target["mask"] != 255
    assert ((out[:, 0] > 100) == (target["mask"] == 1))[seen].float().mean() > 0.999
    assert seen.all() or fill == "constant"


def test_parameters_are_spread_over_their_ranges():
    u = torch.rand(20_000, 7, generator=torch.Generator().manual_seed(0))
    zoomed = Affine(zoom=[0.5, 2.0], flip=0.25).matrices(u, 10, 10)
    assert zoomed[:, 0, 0].min() == pytest.approx(0.5, abs=0.01)
    assert zoomed[:, 0, 0].max() == pytest.approx(2.0, abs=0.01)
    assert (zoomed[:, 1, 1] < 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.corrcoef(zoomed[:, [0, 1], [0, 1]].abs().T)[0, 1].abs() < 0.03  # each side by itself
    shifted = Affine(shift=[0.1, 0.3]).matrices(u, 10, 20)[:, :, 2]
    assert shifted.abs().amax(0).tolist() == pytest.approx([1.0, 6.0], abs=0.01)
    turned = Affine(rotation=40).matrices(u, 10, 10)
    angles = torch.rad2deg(torch.atan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert (angles.min().item(), angles.max().item()) == pytest.approx((-40, 40), abs=0.1)


def test_resized_crop_is_the_crop_resized():
    image = torch.rand(1, 1, 64, 48) * 255
    u = torch.tensor([[0.2, 0.4, 0.3, 0.8]])
    matrix = RandomResizedCrop().matrices(u, 64, 48)[0].double().numpy()
    out, _ = RandomResizedCrop()(image.clone(), {}, u)
    centre = np.array([31.5, 23.5])
    offset = matrix[:, 2] + centre - matrix[:, :2] @ centre
    expected = ndimage.affine_transform(image[0, 0].double().numpy(), matrix[:, :2], offset, order=1, mode="nearest")
    np.testing.assert_allclose(out[0, 0], expected, atol=0.01)


@given(st.tuples(share, share, share, share), st.integers(1, 50), st.integers(1, 50))
def test_resized_crop_stays_inside(u, height, width):
    matrix = RandomResizedCrop((0.1, 0.6), (0.5, 2.0)).matrices(torch.tensor([u]), height, width)[0].double()
    for row, size in enumerate((height, width)):
        length, middle = matrix[row, row] * size, matrix[row, 2] + size / 2
        assert middle - length / 2 >= -1e-4 * size
        assert middle + length / 2 <= size * (1 + 1e-4)
    if matrix[0, 0] < 1 and matrix[1, 1] < 1:
        assert 0.099 <= matrix[0, 0] * matrix[1, 1] <= 0.601
        assert 0.499 <= matrix[1, 1] * width / (matrix[0, 0] * height) <= 2.01


def test_warp_takes_uint8():
    image = torch.randint(0, 256, (1, 3, 5, 7), dtype=torch.uint8)
    out, _ = warp(image, {}, torch.eye(2, 3)[None], "nearest")
    torch.testing.assert_close(out, image.float(), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"fill": "wrap"}, "fill=wrap is not known"),
        ({"zoom": 1.0}, "zoom=1.0 must be a fraction"),
        ({"zoom": [1.2, 0.8]}, "zoom="),
        ({"shift": [0.1, 0.1, 0.1]}, "shift="),
        ({"flip": 2}, "flip=2"),
    ],
)
def test_wrong_arguments_are_told(arguments, says):
    with pytest.raises(UserError, match=says):
        Affine(**arguments)


@pytest.mark.parametrize("arguments", [{"scale": [0.0, 1.0]}, {"scale": [0.5]}, {"ratio": [2.0, 1.0]}])
def test_wrong_crops_are_told(arguments):
    with pytest.raises(UserError, match=f"{next(iter(arguments))}="):
        RandomResizedCrop(**arguments)
