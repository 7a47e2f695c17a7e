"""Masks of images of any size: tiles and strips give what the whole gives."""

import gc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightbed.draw.figure import save
from lightbed.draw.grid import captioned
from lightbed.draw.masks import save_mask
from lightbed.draw.panels import draw
from lightbed.errors import UserError
from lightbed.models.single_convolution import SingleConvolution
from lightbed.runs.peak import begin_peak, peak_memory
from lightbed.tasks.segmenter import Segmenter
from lightbed.tasks.tiling import Plan, enlarged, spans, tiled
from lightbed.transforms.preprocess import Preprocess


@given(st.integers(1, 500), st.integers(2, 80), st.data())
@settings(max_examples=200, deadline=None)
def test_spans_cover_each_pixel_once_with_overlapping_tiles(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    found = list(spans(length, tile, overlap))
    assert [first for _, first, _ in found] == [0, *(last for _, _, last in found[:-1])]
    assert found[-1][2] == length
    for start, first, last in found:
        assert start <= first < last <= start + tile
        assert 0 <= start <= max(0, length - tile)
    for (start, _, border), (after, _, _) in pairwise(found):
        assert start + tile - after >= overlap
        # no pixel is labelled nearer to an inner edge of its tile than half of the overlap
        assert border - after >= overlap // 2
        assert start + tile - border >= overlap // 2


@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.integers(8, 40), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_tiles_do_not_show_where_the_overlap_is_what_the_network_sees(
    size: tuple[int, int], tile: int, seed: int
) -> None:
    torch.manual_seed(seed)
    network = SingleConvolution(3, 5)  # sees one pixel each way

    def label(image: Tensor) -> Tensor:
        return network(image[None].float() / 255).max(1).indices[0].to(torch.uint8)

    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(tiled(label, image, (tile, tile + 3), 2), label(image))


@given(
    st.integers(1, 5), st.tuples(*[st.integers(1, 20)] * 2), st.tuples(*[st.integers(1, 70)] * 2), st.integers(1, 500)
)
@settings(max_examples=60, deadline=None)
def test_enlarged_is_interpolation_and_maximum(
    classes: int, small: tuple[int, int], size: tuple[int, int], floats: int
) -> None:
    logits = torch.randn(classes, *small)
    whole = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightbed.tasks.tiling._FLOATS", floats)
        mask = enlarged(logits, size)
    # where two classes are equal but for rounding, either is right
    chosen = whole.gather(0, mask.long()[None])[0]
    torch.testing.assert_close(chosen, whole.max(0).values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("tile", ["auto", None, 48])
def test_an_image_gets_a_mask_of_its_own_size(resize: str, tile: int | None) -> None:
    task = Segmenter(SingleConvolution(3, 4), 4, preprocess=Preprocess(3, (32, 40), resize=resize))
    task.largest = (30, 50)
    for size in [(32, 40), (200, 131), (17, 300), (1, 1), (1, 500), (400, 300)]:
        mask = task.segment(torch.randint(256, (3, *size), dtype=torch.uint8), tile, 8)["mask"]
        assert mask.shape == size
        assert mask.dtype == torch.uint8


def test_scaled_or_in_tiles_an_image_of_the_networks_size_is_labelled_alike() -> None:
    task = Segmenter(SingleConvolution(3, 4), 4, preprocess=Preprocess(3, (60, 70)))
    image = torch.randint(256, (3, 60, 70), dtype=torch.uint8)
    assert torch.equal(task.segment(image)["mask"], task.segment(image, 32, 4)["mask"])


def test_an_overlap_as_large_as_a_tile_is_refused() -> None:
    with pytest.raises(UserError, match="overlap=8 must be at least 0 and less than tile=8"):
        tiled(lambda image: image[0], torch.zeros(3, 20, 20), (8, 8), 8)


@pytest.mark.parametrize("overlap", [-1, 0.5, "half"])
def test_what_is_no_overlap_is_refused_also_where_there_are_no_tiles(overlap: Any) -> None:
    with pytest.raises(UserError, match=f"overlap={overlap} must be auto or a number of pixels"):
        camvid_like().segment(torch.zeros(3, 20, 20, dtype=torch.uint8), overlap=overlap)


# -- how an image is labelled ------------------------------------------------------------------------------------------


class Looking(nn.Module):
    """Labels each pixel by its own brightness, and keeps the sizes of what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((images.shape[-2], images.shape[-1]))
        return torch.stack([-images[:, 0], images[:, 0], images[:, 1] - 0.2], 1)


def camvid_like(resize: str = "stretch") -> Segmenter:
    """Trained at 18x24 on images of up to 36x48."""
    task = Segmenter(Looking(), 3, preprocess=Preprocess(3, (18, 24), resize=resize))
    task.largest = (36, 48)
    return task


def test_images_like_those_trained_on_are_labelled_in_one_piece_and_much_larger_ones_at_their_scale() -> None:
    task = camvid_like()
    for own in [(36, 48), (18, 24), (5, 7), (144, 192), (20, 1000)]:  # up to 16 times the pixels
        assert task.plan(own) == task.plan(own, None) == Plan(own, (18 / own[0], 24 / own[1]))
    assert task.plan((145, 192)) == Plan((36, 48), (0.5, 0.5))
    assert task.plan((36, 9999)) == Plan((36, 48), (0.5, 0.5))
    assert task.plan((145, 192), None).tile == (145, 192)
    assert task.plan((36, 48), 20) == Plan((20, 20), (0.5, 0.5))
    task.largest = None  # of a checkpoint from before this was noted
    assert task.plan((999, 999)).tile == (999, 999)
    assert task.plan((999, 999), 20) == Plan((20, 20), (1, 1))
    anything = Segmenter(Looking(), 3, preprocess=Preprocess(3, None))
    assert anything.plan((2000, 30)) == Plan((512, 512), (1, 1))
    for tile in (0, -3, "all", 0.5):
        with pytest.raises(UserError, match=f"tile={tile} must be auto, null or a number of pixels"):
            task.plan((9, 9), tile)


def test_tiles_of_cropped_images_are_what_was_left_of_them() -> None:
    task = camvid_like("crop")
    task.largest = (36, 60)  # scaled by 0.5, then cut to 18x24
    assert task.plan((36, 60)) == Plan((36, 60), (0.5, 0.5))
    assert task.plan((600, 600)) == Plan((36, 48), (0.5, 0.5))
    thin = task.plan((3, 5000))  # six times as large as it is, in one piece
    assert thin.tile == (3, 4)


def test_each_tile_is_labelled_as_an_image_of_its_own() -> None:
    task = camvid_like()
    image = torch.randint(256, (3, 170, 230), dtype=torch.uint8)
    mask = task.segment(image)["mask"]
    assert set(task.model.seen) == {(18, 24)}
    rows, columns = list(spans(170, 36, 9)), list(spans(230, 48, 12))
    assert len(task.model.seen) == len(rows) * len(columns)
    for y, top, bottom in rows:
        for x, left, right in columns:
            alone = task.segment(image[:, y : y + 36, x : x + 48])["mask"]
            assert torch.equal(mask[top:bottom, left:right], alone[top - y : bottom - y, left - x : right - x])


def test_in_tiles_of_the_scale_trained_at_a_mosaic_is_what_its_parts_are() -> None:
    """Where nothing is scaled, tiles are seamless: the whole, labelled at once by a network that sees one pixel."""
    task = camvid_like()
    task.largest = (18, 24)
    image = torch.randint(256, (3, 170, 230), dtype=torch.uint8)
    whole = Segmenter(Looking(), 3, preprocess=Preprocess(3, (170, 230))).segment(image)["mask"]
    assert torch.equal(task.segment(image)["mask"], whole)
    assert len(task.model.seen) > 100


def peak_of(function: Callable[[], Any]) -> float:
    """MiB by which the process grows at most."""
    gc.collect()
    begin_peak()
    before = peak_memory()["process"]
    function()
    return peak_memory()["process"] - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are those of the whole process elsewhere")
@pytest.mark.parametrize("largest", [(360, 480), (1500, 2000)])  # in tiles, in one piece
def test_memory_stays_within_a_few_times_that_of_the_image(tmp_path: Path, largest: tuple[int, int]) -> None:
    classes = [f"class {i}" for i in range(11)]
    task = Segmenter(SingleConvolution(3, 11), 11, classes=classes, preprocess=Preprocess(3, (180, 240)))
    task.largest = largest
    image = torch.full((3, 2400, 3200), 70, dtype=torch.uint8)  # 22 MiB

    def predicted() -> None:
        seen = task.segment(image)
        save(captioned(draw(image, seen, None, classes)), tmp_path / "picture.png")
        save_mask(seen["mask"], classes, tmp_path / "mask.png")

    task.segment(image[:, :200, :300])  # what torch takes once
    captioned(draw(image[:, :400, :400], {"mask": torch.zeros(400, 400, dtype=torch.uint8)}, None, classes))
    assert peak_of(predicted) < 8 * 22
