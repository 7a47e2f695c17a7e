"""Pictures of masks: colours tell classes apart, errors are red, what is not known is white."""

import numpy as np
import pytest
import torch

from lightbed.draw.grid import captioned, image_grid
from lightbed.draw.masks import class_shares, coloured, errors, overlay, palette, save_mask
from lightbed.draw.panels import draw

NAMES = ["background", *(f"class {i}" for i in range(23))]


@pytest.mark.parametrize("count", [2, 11, 24])
def test_colours_are_apart(count: int) -> None:
    colours = palette(NAMES[:count])[[*range(count), 255]].astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(count + 1, dtype=int)
    assert distance.min() > 40


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    truth = torch.zeros(20, 30, dtype=torch.uint8)
    truth[5:10] = 1
    truth[15:] = 255
    prediction = torch.zeros_like(truth)
    prediction[5:8] = 1
    prediction[8:10] = 2
    return image, truth, prediction


def test_a_strip_shows_image_truth_prediction_and_errors() -> None:
    image, truth, prediction = scene()
    panel = draw(image, {"mask": prediction}, {"mask": truth}, NAMES[:3])
    assert panel.title == f"pixel accuracy {(15 - 2) / 15:.1%}"
    parts = [panel.image[:, i * 31 : i * 31 + 30] for i in range(4)]
    pixels = image.permute(1, 2, 0).numpy()
    for part, expected in zip(
        parts, [pixels, coloured(truth, NAMES[:3]), coloured(prediction, NAMES[:3]), errors(pixels, prediction, truth)],
        strict=True,
    ):  # fmt: skip
        assert np.array_equal(part, expected)
    assert [name for name, _ in panel.legend] == ["background", "class 0", "class 1", "void"]


def test_errors_are_red_and_void_is_white() -> None:
    image, truth, prediction = scene()
    drawn = errors(image.permute(1, 2, 0).numpy(), prediction, truth)
    red = (drawn[..., 0] > 180) & (drawn[..., 1] < 60)
    assert np.array_equal(red, ((prediction != truth) & (truth != 255)).numpy())
    assert (drawn[15:] == 255).all()


def test_no_class_has_the_red_of_errors() -> None:
    wrong = errors(np.zeros((1, 1, 3), np.uint8), [[0]], [[1]])[0, 0].astype(int)
    for names in (NAMES, NAMES[1:]):
        assert np.abs(palette(names)[:23].astype(int) - wrong).sum(1).min() > 100


def test_the_datas_own_colours_come_first() -> None:
    own = {"class 0": [1, 2, 3], "background": [9, 9, 9], "of other data": [0, 0, 0]}
    colours = palette(NAMES[:3], own)
    assert colours[[0, 1]].tolist() == [[9, 9, 9], [1, 2, 3]]
    assert (colours[2] == palette(NAMES[:3])[2]).all()
    image, truth, prediction = scene()
    panel = draw(image, {"mask": prediction}, {"mask": truth}, NAMES[:3], own)
    assert ("class 0", "#010203") in panel.legend
    assert panel.image[6, 31].tolist() == panel.image[6, 62].tolist() == [1, 2, 3]  # in the truth and the prediction
    alone = draw(image, {"mask": prediction}, None, NAMES[:3], {"class 0": [200, 100, 0]})
    assert alone.image[6, 0].tolist() == [155, 100, 45]  # 45 % of the image's 100, 55 % of the colour


def test_an_overlay_leaves_the_background_clear() -> None:
    image, _, prediction = scene()
    drawn = overlay(image.permute(1, 2, 0).numpy(), prediction, NAMES[:3])
    assert (drawn[prediction.numpy() == 0] == 100).all()
    assert (drawn[prediction.numpy() == 1] != 100).any()


def test_without_the_truth_the_title_tells_shares() -> None:
    image, _, prediction = scene()
    panel = draw(image, {"mask": prediction}, None, NAMES[:3])
    assert panel.title == "background 75%, class 0 15%, class 1 10%"
    assert panel.image.shape == (20, 30, 3)
    assert class_shares(prediction, NAMES[:3]) == {"background": 0.75, "class 0": 0.15, "class 1": 0.1}


def test_a_saved_mask_holds_classes_and_their_colours(tmp_path) -> None:
    from PIL import Image

    _, truth, _ = scene()
    save_mask(truth, NAMES, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert np.array_equal(np.asarray(image), truth.numpy())
        assert np.array_equal(np.asarray(image.convert("RGB")), coloured(truth, NAMES))


def test_every_class_is_in_the_legend_of_a_grid_and_no_text_leaves_it() -> None:
    from test_draw import overlapping, texts

    image, truth, prediction = scene()
    panels = [draw(image, {"mask": prediction}, {"mask": truth}, NAMES)] * 5
    figure = image_grid(panels, "Predictions", "a run", "five images")
    from matplotlib.text import Text

    assert {*NAMES, "void"} <= set(texts(figure))
    assert overlapping(figure, figure.findobj(Text)) == []


@pytest.mark.parametrize("size", [(30, 20), (900, 1800)])
def test_a_captioned_overlay_keeps_its_pixels(size: tuple[int, int]) -> None:
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    panel = draw(image, {"mask": torch.zeros(size, dtype=torch.uint8)}, None, NAMES)
    picture = captioned(panel)
    factor = 1 if size[0] > 320 else 320 // 30
    large = panel.image.repeat(factor, 0).repeat(factor, 1)
    found = [
        top
        for top in range(picture.shape[0] - large.shape[0] + 1)
        for left in range(min(20, picture.shape[1] - large.shape[1] + 1))
        if np.array_equal(picture[top : top + large.shape[0], left : left + large.shape[1]], large)
    ]
    assert len(found) == 1
