"""Masks of images of any size: tiles and strips give what the whole gives."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightbed.errors import UserError
from lightbed.models.single_convolution import SingleConvolution
from lightbed.tasks.segmenter import Segmenter
from lightbed.tasks.tiling import enlarged, spans, tiled
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

    def label(images: Tensor) -> Tensor:
        return network(images.float() / 255).max(1).indices.to(torch.uint8)

    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(tiled(label, image, tile, 2), label(image[None])[0])


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
@pytest.mark.parametrize("tile", [None, 48])
def test_an_image_gets_a_mask_of_its_own_size(resize: str, tile: int | None) -> None:
    task = Segmenter(SingleConvolution(3, 4), 4, preprocess=Preprocess(3, (32, 40), resize=resize))
    for size in [(32, 40), (200, 131), (17, 300)]:
        mask = task.segment(torch.randint(256, (3, *size), dtype=torch.uint8), tile, 8)["mask"]
        assert mask.shape == size
        assert mask.dtype == torch.uint8


def test_scaled_or_in_tiles_an_image_of_the_networks_size_is_labelled_alike() -> None:
    task = Segmenter(SingleConvolution(3, 4), 4, preprocess=Preprocess(3, (60, 70)))
    image = torch.randint(256, (3, 60, 70), dtype=torch.uint8)
    assert torch.equal(task.segment(image)["mask"], task.segment(image, 32, 4)["mask"])


def test_an_overlap_as_large_as_a_tile_is_refused() -> None:
    with pytest.raises(UserError, match="overlap=8 must be at least 0 and less than tile=8"):
        tiled(lambda images: images[:, 0], torch.zeros(3, 20, 20), 8, 8)
