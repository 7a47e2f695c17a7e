"""Pictures of one object an image: both boxes with class and IoU; a score map in red."""

import numpy as np
import torch

from lightbed.draw.boxes import confident, heated
from lightbed.draw.figure import INK, RIGHT, WRONG
from lightbed.draw.localized import localized

IMAGE = torch.full((3, 40, 40), 90, dtype=torch.uint8)
TRUTH = {"label": torch.tensor(1), "box": torch.tensor([10.0, 10, 30, 30])}


def seen(label: int, box: list[float]) -> dict[str, torch.Tensor]:
    return {"label": torch.tensor(label), "scores": torch.tensor([0.25, 0.75]), "box": torch.tensor(box)}


def test_right_needs_class_and_overlap() -> None:
    for label, box, title, color in (
        (1, [10.0, 10, 30, 28], "dog, IoU 0.90", RIGHT),
        (0, [10.0, 10, 30, 30], "not cat but dog, IoU 1.00", WRONG),
        (1, [10.0, 10, 20, 30], "dog, IoU 0.50", WRONG),  # it must be over one half
    ):
        panel = localized(IMAGE, seen(label, box), TRUTH, ["cat", "dog"])
        assert (panel.title, panel.color) == (title, color)
        assert [name for name, _ in panel.legend] == ["truth", "prediction"]
        tones = {tuple(tone) for tone in panel.image.reshape(-1, 3).tolist()}
        assert (255, 159, 28) in tones
        assert ((46, 204, 113) in tones) == (box != TRUTH["box"].tolist()), "the prediction is drawn over the truth"


def test_without_truth_there_is_one_box_with_its_probability() -> None:
    panel = localized(IMAGE, seen(1, [10.0, 10, 30, 30]), {}, ["cat", "dog"])
    assert (panel.title, panel.color, panel.legend) == ("dog 75%", INK, ())
    assert not np.array_equal(panel.image, np.full_like(panel.image, 90))


def test_a_score_map_reddens_and_stays_when_boxes_are_chosen() -> None:
    pixels = np.full((2, 2, 3), 100, np.uint8)
    red = heated(pixels, np.array([[0.0, 1.0], [0.5, 2.0]]))
    assert red[0, 0].tolist() == [100, 100, 100]
    assert red[0, 1].tolist() == red[1, 1].tolist() == [193, 64, 64]
    found = {"boxes": torch.zeros(2, 4), "scores": torch.tensor([0.9, 0.1]), "score_map": torch.zeros(5, 5)}
    kept = confident(found, 0.5)
    assert len(kept["boxes"]) == 1
    assert kept["score_map"].shape == (5, 5)
