"""Proposals: what is found in images that can be told by hand, what is kept, and what is said without OpenCV."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightbed.data.digit_scenes import DigitScenes
from lightbed.errors import UserError
from lightbed.proposals.grouping import Regions, describe, join, search, segment, similarity
from lightbed.proposals.selective_search import SelectiveSearch, chosen_engine, make_search, recall

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def searcher(**options: object) -> SelectiveSearch:
    return SelectiveSearch(MEAN, STD, **{"scale": 30, **options})


def normalised(image: np.ndarray) -> torch.Tensor:
    """An image uint8 (H, W, 3) as a network gets it."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std


def drawn() -> np.ndarray:
    """A bright rectangle, x 10 to 30 and y 20 to 44, on dark ground."""
    image = np.full((64, 64, 3), 40, np.uint8)
    image[20:44, 10:30] = (230, 200, 90)
    return image


def test_two_flat_halves_are_two_regions_and_then_one() -> None:
    image = np.zeros((8, 6, 3))
    image[:, 3:] = 200.0
    labels = segment(image, 10)
    assert labels.tolist() == [[0, 0, 0, 1, 1, 1]] * 8
    boxes = join(labels, image.astype(np.uint8))
    assert boxes.tolist() == [[0, 0, 3, 8], [3, 0, 6, 8], [0, 0, 6, 8]]


def test_regions_smaller_than_a_quarter_of_the_scale_join_their_neighbour() -> None:
    image = np.zeros((8, 8, 3))
    image[2:4, 2:4] = 255.0  # 4 pixels
    assert segment(image, 12).max() == 1
    assert segment(image, 20).max() == 0


def test_similarity_is_the_sum_of_the_papers_four_measures() -> None:
    colours = [np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])]
    regions = Regions([4, 2], [(0, 0, 2, 2), (2, 0, 4, 1)], colours)
    # histograms share 0.25 + 0.25; 6 of 20 pixels; their common box has 8 pixels, 2 of which neither fills
    assert similarity(regions, 0, 1, 20) == pytest.approx(0.5 + (1 - 6 / 20) + (1 - 2 / 20))


def test_histograms_sum_to_one_for_colour_and_texture() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    labels = segment(image.astype(float), 200)
    regions = describe(labels, image)
    assert sum(regions.sizes) == 120
    for own in regions.histograms:
        assert own.sum() == pytest.approx(2)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(5, 16), st.integers(5, 16))
def test_boxes_lie_in_the_image_and_one_is_the_whole(seed: int, height: int, width: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = search(image, 50, 0.8)
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= [width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert [0, 0, width, height] in boxes.tolist()


@pytest.mark.parametrize("engine", ["own", "opencv"])
@pytest.mark.parametrize("width", [None, 96])
def test_an_object_is_found_whatever_size_is_searched_at(engine: str, width: int | None) -> None:
    if engine == "opencv":
        pytest.importorskip("cv2.ximgproc")
    (boxes,) = searcher(engine=engine, width=width)([normalised(drawn())])
    assert boxes.dtype == torch.float32
    covered, objects = recall([boxes], [torch.tensor([[10.0, 20.0, 30.0, 44.0]])], 0.85)
    assert (covered, objects) == (1, 1)


def test_opencvs_order_of_chance_is_not_used() -> None:
    pytest.importorskip("cv2.ximgproc")
    data = DigitScenes(images={"train": 1, "val": 1, "test": 1}, targets=["boxes", "labels"])
    data.setup()
    image = data.splits["train"][0][0].permute(1, 2, 0).numpy()
    finder = searcher(engine="opencv", width=80, most=50)
    first = finder.search(image)
    assert len(first) == 50
    assert np.array_equal(finder.search(image), first)


@pytest.mark.parametrize("engine", ["own", "opencv"])
def test_both_engines_cover_scenes(engine: str) -> None:
    if engine == "opencv":
        pytest.importorskip("cv2.ximgproc")
    data = DigitScenes(images={"train": 3, "val": 1, "test": 1}, targets=["boxes", "labels"])
    data.setup()
    samples = [data.splits["train"][i] for i in range(3)]
    finder = make_search(data.preprocess.mean, data.preprocess.std, {"engine": engine, "width": 128, "scale": 30})
    found = finder([data.preprocess(image) for image, _ in samples])
    covered, objects = recall(found, [target["boxes"].as_subclass(torch.Tensor) for _, target in samples])
    assert covered / objects > 0.9  # of twenty scenes of the validation split, all by both


def test_what_is_searched_is_the_image_before_it_was_normalised() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(searcher(engine="own").pixels(normalised(image)), image)
    grey = SelectiveSearch([0.5], [0.5], engine="own").pixels(torch.zeros(1, 2, 2))
    assert grey.tolist() == [[[128] * 3] * 2] * 2
    four = SelectiveSearch([0.0] * 4, [1.0] * 4, engine="own").pixels(torch.tensor([0.2, 0.4, 0.6, 1.0]).view(4, 1, 1))
    assert four.tolist() == [[[51, 102, 153]]]


def test_a_plain_image_and_sides_too_small_leave_the_whole() -> None:
    plain = np.full((6, 9, 3), 7, np.uint8)
    assert searcher(engine="own", least=20).search(plain).tolist() == [[0, 0, 9, 6]]


def test_what_was_found_is_kept_beside_a_hash_of_image_and_settings(tmp_path: Path) -> None:
    finder = searcher(engine="own", cache_dir=str(tmp_path))
    image = normalised(drawn())
    (boxes,) = finder([image])
    seconds = finder.seconds
    assert seconds > 0
    (file,) = (tmp_path / "proposals").rglob("*.npz")
    again = searcher(engine="own", cache_dir=str(tmp_path))
    assert torch.equal(again([image])[0], boxes)
    assert again.seconds == seconds, "what the search took, not the reading"
    np.savez(file, boxes=np.array([[1, 2, 3, 4]], np.float32), seconds=9.0)  # so it is really read
    assert again([image])[0].tolist() == [[1, 2, 3, 4]]
    assert torch.equal(searcher(engine="own", least=5, cache_dir=str(tmp_path))([image])[0], boxes)
    again([image + 0.1])
    assert len(list((tmp_path / "proposals").rglob("*.npz"))) == 3
    whole = file.read_bytes()
    for damaged in (b"damaged", whole[: len(whole) // 2], whole[:-40] + b"0" * 40, b""):
        file.write_bytes(damaged)
        assert torch.equal(again([image])[0], boxes)


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "proposals").write_text("a file")
    assert len(searcher(engine="own", cache_dir=str(tmp_path))([normalised(drawn())])[0]) > 0


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"model\.proposals\.engine=opencv needs .*'lightbed\[rcnn\]'"):
        searcher(engine="opencv")
    assert chosen_engine(None) == "own"
    assert "lightbed[rcnn]" in capsys.readouterr().out


def test_recall_counts_true_boxes_that_a_proposal_of_their_own_image_covers() -> None:
    proposals = [torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 4, 4], [20.0, 20, 30, 30]])]
    true = [torch.tensor([[0.0, 0, 10, 5], [0.0, 0, 10, 4.9]]), torch.tensor([[20.0, 20, 30, 30]])]
    assert recall(proposals, true) == (2, 3)  # 50 of 100 pixels is enough, 49 is not
    assert recall([torch.zeros(0, 4)], [true[0]]) == (0, 2)
    assert recall(proposals[:1], [torch.zeros(0, 4)]) == (0, 0)


def test_options_that_do_not_exist_are_told() -> None:
    with pytest.raises(UserError, match=r"model\.proposals\.widht is not known: did you mean width"):
        make_search(MEAN, STD, {"widht": 3})
    with pytest.raises(UserError, match=r"model\.proposals\.mode=slow"):
        searcher(engine="own", mode="slow")
    wrong: dict[str, float] = {"most": 0, "scale": 0.5, "sigma": -1, "least": -1, "width": 0}
    for name, value in wrong.items():
        with pytest.raises(UserError, match=rf"model\.proposals\.{name}={value} must be at least"):
            searcher(engine="own", **{name: value})
