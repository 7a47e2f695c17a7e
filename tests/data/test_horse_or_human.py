"""Horses or Humans: which folder is which split, and the author's recipe to the parameter."""

import pytest
import torch

import fakes
from lightbed.data.horse_or_human import HorseOrHuman
from lightbed.errors import UserError
from lightbed.models.horse import HorseCNN


def opened(root, tmp_path, **settings):
    data = HorseOrHuman(root, **{"cache_dir": tmp_path / "cache", "test_fraction": 0, **settings})
    data.prepare_data()
    data.setup()
    return data


def sizes(data):
    return {name: len(source) for name, source in data.splits.items()}


@pytest.fixture
def root(tmp_path):
    return fakes.horse_or_human(tmp_path / "data")


def test_the_given_validation_folder_is_the_test_split(root, tmp_path):
    data = opened(root, tmp_path, val_fraction=0.25)
    assert sizes(data) == {"train": 18, "test": 12, "val": 6}
    assert data.classes == ["horses", "humans"]
    assert all("/validation/" in path for path in data.splits["test"].paths)
    assert all("/train/" in path for name in ("train", "val") for path in data.splits[name].paths)


def test_or_the_validation_split_as_the_author_has_it(root, tmp_path):
    data = opened(root, tmp_path, validation_folder="val", val_fraction=0)
    assert sizes(data) == {"train": 24, "val": 12}
    images, target = data.splits["val"].take(torch.arange(12))
    assert images.shape == (12, 3, 300, 300)  # RGBA files give three channels
    assert target["label"].tolist() == [0] * 6 + [1] * 6
    assert all(data.classes[int(y)] in path for y, path in zip(target["label"], data.splits["val"].paths, strict=True))


def test_an_unknown_split(root, tmp_path):
    with pytest.raises(UserError, match=r"data\.validation_folder=train is not known"):
        opened(root, tmp_path, validation_folder="train")


def test_no_files_and_no_server(tmp_path):
    with pytest.raises(UserError, match=r"cannot download horse-or-human\.zip \(http://127\.0\.0\.1:1/horse-or-human"):
        opened(tmp_path, tmp_path, url="http://127.0.0.1:1/")


def test_the_real_files(real_data, tmp_path):
    data = opened(real_data, tmp_path, val_fraction=0)
    assert sizes(data) == {"train": 1027, "test": 256}
    assert data.class_counts().tolist() == [500, 527]
    assert data.splits["test"].take(torch.arange(256))[1]["label"].bincount().tolist() == [128, 128]
    assert data.fingerprint()["files"] == 1283


def test_the_network_has_the_authors_parameters():
    """By hand: 448 + 4,640 + 18,496 + 2 * 36,928 in convolutions, 3,136 * 512 + 512 and 512 + 1 in Linear layers."""
    model = HorseCNN(3, 1, (300, 300))
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_704_097
    assert model.features(torch.zeros(2, 3, 300, 300)).shape == (2, 64, 7, 7)
    assert model(torch.zeros(2, 3, 300, 300)).shape == (2, 1)


def test_the_smallest_image():
    assert HorseCNN(1, 2, (94, 100))(torch.zeros(1, 1, 94, 100)).shape == (1, 2)
    with pytest.raises(ValueError, match=r"vanish in 5 blocks; at least 94"):
        HorseCNN(1, 2, (93, 100))
