"""Masks of data whose classes stand in another order than a model's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fakes
from lightbed.data.mask_folder import MaskFolder
from lightbed.data.relabel import match_classes


@pytest.mark.parametrize("cache", [True, False])
def test_masks_are_renumbered_by_name_and_void_stays(tmp_path: Path, cache: bool) -> None:
    fakes.mask_folder(tmp_path)
    for path in (tmp_path / "masks").glob("*.png"):
        mask = np.array(Image.open(path))
        mask[0] = 255
        Image.fromarray(mask).save(path)
    data = MaskFolder(tmp_path, cache_dir=tmp_path / "cache", classes=["sky", "road", "car"], cache=cache)
    data.setup()
    before = data.splits["train"][0][1]["mask"].clone()
    assert match_classes(data, ["car", "sky", "road"], "names")
    after = data.splits["train"][0][1]["mask"]
    for old, new in ((0, 1), (1, 2), (2, 0), (255, 255)):
        assert torch.equal(before == old, after == new)
    if cache:
        assert torch.equal(data.splits["train"].take(torch.tensor([0]))[1]["mask"][0], after)
