"""Pictures of detections: where the boxes are, what is written on them, what of truth and prediction agrees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightbed.draw.boxes import confident, counts, marked, marks, same_numbers
from lightbed.draw.classes import confusion_matrix
from lightbed.draw.figure import RIGHT, WRONG, save
from lightbed.draw.grid import captioned, image_grid
from lightbed.draw.masks import colour
from lightbed.draw.panels import draw
from lightbed.draw.side_by_side import side_by_side

NAMES = ["cat", "dog"]


def photo(height: int = 240, width: int = 400) -> torch.Tensor:
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def objects(*rows: tuple[list[float], int, float], masks: bool = False, scores: bool = True) -> dict:
    """Boxes with label and score; masks fill the boxes' left halves."""
    boxes = torch.tensor([box for box, _, _ in rows]).reshape(-1, 4)
    made = {"boxes": boxes, "labels": torch.tensor([label for _, label, _ in rows], dtype=torch.int64)}
    if scores:
        made["scores"] = torch.tensor([score for _, _, score in rows])
    if masks:
        made["masks"] = torch.zeros(len(rows), 240, 400, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(made["masks"], boxes.int().tolist(), strict=True):
            mask[y1:y2, x1 : (x1 + x2) // 2] = True
    return made


def where(image: np.ndarray, tone: tuple[int, int, int]) -> np.ndarray:
    return (image == np.array(tone)).all(2)


def test_a_box_lies_on_the_border_of_its_object() -> None:
    found = objects(([100.0, 60, 180, 160], 1, 0.97))
    drawn = marked(photo().permute(1, 2, 0).numpy(), marks(found, NAMES), 320)
    assert drawn.shape == (240, 400, 3), "at its own size"
    own = where(drawn, colour(1))
    assert own[60:160, 100].all() and own[60:160, 179].all()  # noqa: PT018
    assert own[60, 100:180].all() and own[159, 100:180].all()  # noqa: PT018
    assert (drawn[70:150, 110:170] == 90).all(), "nothing inside"
    assert not own[:40].any(), "a tag above the box, and nothing further up"
    assert own[46:58, 101:103].all(), "the tag's ground"


def test_instances_are_tinted_under_their_own_colours() -> None:
    found = objects(([100.0, 60, 180, 160], 0, 0.9), ([250.0, 60, 330, 160], 0, 0.8), masks=True)
    drawn = marked(photo().permute(1, 2, 0).numpy(), marks(found, NAMES), 320)
    for left, number in ((100, 0), (250, 1)):
        inside = drawn[80:140, left + 8 : left + 32].reshape(-1, 3)
        expected = np.round(90 * 0.55 + np.array(colour(number)) * 0.45)
        assert (np.abs(inside - expected) <= 1).all()
        assert (drawn[80:140, left + 48 : left + 72] == 90).all(), "outside of the mask, inside of the box"


@pytest.mark.parametrize(("height", "width", "factor"), [(32, 40, 8), (240, 200, 2), (600, 800, 1)])
def test_small_pictures_are_enlarged_so_that_they_can_be_read(height: int, width: int, factor: int) -> None:
    panel = draw(photo(height, width), objects(([8.0, 8, 24, 24], 0, 0.5)), None, NAMES)
    assert panel.image.shape == (height * factor, width * factor, 3)
    own = where(panel.image, colour(0))
    assert own[8 * factor : 24 * factor, 8 * factor].all()
    assert own[8 * factor : 24 * factor, 24 * factor - 1].all()
    assert captioned(panel).shape[1] >= panel.image.shape[1]


def test_truth_and_prediction_stand_side_by_side() -> None:
    truth = objects(([10.0, 10, 110, 110], 0, 0), ([200.0, 20, 300, 120], 1, 0), scores=False, masks=True)
    both = objects(([202.0, 20, 300, 120], 1, 0.9), ([10.0, 10, 110, 108], 0, 0.8), masks=True)
    panel = draw(photo(), both, truth, NAMES)
    assert (panel.title, panel.color) == ("2 of 2 found", RIGHT)
    middle = panel.image.shape[1] // 2
    assert (panel.image[:, middle - 4 : middle + 4] == 255).all(), "a gap"
    left, right = panel.image[:, : middle - 4], panel.image[:, middle + 4 :]
    assert left.shape == right.shape
    for tone in (colour(0), colour(1)):  # an instance has one colour on both sides, whatever its score
        centres = [np.argwhere(where(side, tone)).mean(0) for side in (left, right)]
        assert np.abs(centres[0] - centres[1]).max() < 20
    wrong = draw(photo(), objects(([10.0, 10, 110, 108], 1, 0.8), ([300.0, 150, 380, 200], 0, 0.7)), truth, NAMES)
    assert (wrong.title, wrong.color) == ("0 of 2 found, 2 wrong", WRONG)
    crowd = {**truth, "crowd": torch.tensor([False, True])}
    assert draw(photo(), both, crowd, NAMES).title == "1 of 1 found", "a detection on a crowd is neither"
    empty = objects(scores=False)
    assert draw(photo(), objects(), empty, NAMES).title == "no object"
    assert draw(photo(), objects(), empty, NAMES).color == RIGHT


def test_pairs_are_not_scaled_down_in_a_grid() -> None:
    truth = objects(([10.0, 10, 110, 110], 0, 0), scores=False)
    panel = draw(photo(), objects(([10.0, 10, 110, 110], 0, 0.9)), truth, NAMES)
    figure = image_grid([panel] * 3, "Predictions", "run")
    shapes = {image.get_array().shape[:2] for image in figure.images}
    assert shapes == {(panel.image.shape[0] + 2, panel.image.shape[1] + 2)}, "pixel for pixel, with a frame"


def test_tags_never_cover_each_other_nor_the_picture() -> None:
    many = objects(*[([40.0 + i, 40, 200 + i, 200], 0, 0.9 - i / 200) for i in range(100)])
    drawn = marked(photo().permute(1, 2, 0).numpy(), marks(many, NAMES), 320)
    assert (drawn == 90).all(2).mean() > 0.4, "the picture is still to be seen"


def test_titles_count() -> None:
    found = objects(([0.0, 0, 9, 9], 1, 0.91), ([0.0, 0, 9, 9], 1, 0.5), ([0.0, 0, 9, 9], 0, 0.2))
    assert counts(found, NAMES) == "3 detections: dog ×2, cat ×1, highest score 0.91"
    assert counts(confident(found, 0.9), ["x", "dog"]) == "1 detection: dog ×1, highest score 0.91"
    assert counts(objects(), NAMES) == "no detections"
    assert confident({"label": 3}, 0.9) == {"label": 3}


def test_numbers_follow_the_truth() -> None:
    ious = np.array([[0.1, 0.8], [0.0, 0.7], [0.6, 0.0]])
    assert same_numbers(ious, 2) == [1, 3, 0]
    assert same_numbers(np.zeros((2, 0)), 0) == [0, 1]


def test_a_confusion_with_background_has_no_recall_of_it() -> None:
    matrix = np.array([[3, 0, 1], [1, 4, 0], [2, 1, 0]])
    figure = confusion_matrix(matrix, [*NAMES, "background"], "Confusion", "run", counted="objects", background=True)
    shares = [text.get_text() for text in figure.axes[0].texts if "%" in text.get_text()]
    assert shares == ["75.0%", "80.0%"]


def test_one_sample_of_several_runs_in_one_picture(tmp_path: Path) -> None:
    files = []
    for epochs in (0, 10):
        panel = draw(photo(), objects(([10.0, 10, 110, 110], 0, 0.9 - epochs / 100)), None, NAMES)
        path = tmp_path / f"{epochs}.png"
        save(panel.image, path, panel.title)
        files.append((f"max_epochs={epochs}", path))
    with Image.open(files[0][1]) as image:
        assert image.info["Title"] == "1 detection: cat ×1, highest score 0.90"
    figure = side_by_side(files, "Sample 0", "2 runs")
    said = [text.get_text() for text in figure.texts]
    assert said.index("max_epochs=0") < said.index("max_epochs=10")
    assert len(figure.images) == 2
