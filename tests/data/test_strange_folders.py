"""Folders of images as people have them: other layouts of splits, one folder too many, links, unusual files."""

import numpy as np
import pytest
import torch
from PIL import Image

import fakes
from lightbed.commands.reading import find_images
from lightbed.data.folder import ImageFolder
from lightbed.data.labelled import by_folders
from lightbed.errors import UserError


def draw(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6)).save(root / path)


def found(root):
    """Classes, and the split of each class folder."""
    labelled = by_folders(root)
    pairs = zip(labelled.labels, labelled.splits, strict=True)
    return labelled.classes, {(names[0], split) for names, split in pairs}


@pytest.mark.parametrize(
    ("train", "test"),
    [("training_set", "test_set"), ("seg_train", "seg_test"), ("train", "test-data"), ("Train1", "Val")],
)
def test_folders_whose_names_hold_a_split_are_splits(tmp_path, train, test):
    draw(tmp_path, *(f"{split}/{name}/{name}.png" for split in (train, test) for name in ("cat", "dog")))
    classes, splits = found(tmp_path)
    assert classes == ["cat", "dog"]
    assert {split for _, split in splits} == {"train", "val" if test == "Val" else "test"}


def test_classes_may_be_called_like_splits(tmp_path):
    draw(tmp_path, "train/1.png", "car/1.png", "bus/1.png")  # of traffic
    assert found(tmp_path)[0] == ["bus", "car", "train"]
    draw(tmp_path / "other", "train_station/1.png", "harbour/1.png")
    assert found(tmp_path / "other")[0] == ["harbour", "train_station"]


def test_a_folder_too_many_is_told_with_the_right_one(tmp_path):
    draw(tmp_path, "archive/cat/1.png", "archive/dog/1.png")
    with pytest.raises(
        UserError, match=r"only one class, archive: .* are cat, dog the classes\? Then data\.root=.*/archive$"
    ):
        by_folders(tmp_path)
    draw(tmp_path / "one", "cat/1.png", "cat/2.png")
    with pytest.raises(UserError, match=r"takes two or more$"):
        by_folders(tmp_path / "one")


def test_what_is_there_instead_of_images_is_told(tmp_path):
    for name in ("cat/1.heic", "cat/2.HEIC", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds no images \(jpg, .*\) but 2 \.heic, 1 \.txt files$"):
        by_folders(tmp_path)


def test_links_that_lead_back_are_not_followed(tmp_path):
    draw(tmp_path / "photos", "cat/1.png", "dog/1.png")
    (tmp_path / "photos" / "cat" / "up").symlink_to("..")
    (tmp_path / "photos" / "dog" / "self").symlink_to(".")
    draw(tmp_path, "elsewhere/1.png")
    (tmp_path / "photos" / "cow").symlink_to(tmp_path / "elsewhere")
    assert [file.path for file in by_folders(tmp_path / "photos").files] == ["cat/1.png", "cow/1.png", "dog/1.png"]


def test_predict_leaves_out_hidden_folders_as_training_does(tmp_path):
    draw(tmp_path, "1.png", ".thumbnails/1.png", "deep/er/2.png")
    (tmp_path / "none").mkdir()
    for source, told in (("none", "has no files$"), ("*.jpg", "matches no file$")):
        with pytest.raises(UserError, match=told):
            find_images(str(tmp_path / source))
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(str(tmp_path))] == ["1.png", "deep/er/2.png"]


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_images_of_a_pixel_and_of_every_kind_are_read_together(tmp_path, resize):
    root = fakes.image_folder(tmp_path / "photos", ("apple", "pear"), count=2)
    sizes = {"dot.png": (1, 1), "line.png": (300, 1), "post.png": (1, 300)}
    for name, size in sizes.items():
        Image.new("RGB", size, "red").save(root / "apple" / name)
    for mode, name in (
        ("CMYK", "a.jfif"),
        ("L", "b.pgm"),
        ("RGB", "c.ppm"),
        ("1", "d.pbm"),
        ("LA", "e.png"),
        ("P", "f.gif"),
    ):
        kind = "JPEG" if name.endswith("jfif") else None
        Image.fromarray(fakes.picture(0, (20, 20), 1)).convert(mode).save(root / "pear" / name, kind)
    wide = Image.fromarray((np.arange(400).reshape(20, 20) * 160).astype(np.uint16))
    wide.save(root / "pear" / "g.png")
    frames = [Image.fromarray(fakes.picture(label, (20, 20), 1)) for label in range(3)]
    frames[0].save(root / "pear" / "h.webp", save_all=True, append_images=frames[1:], lossless=True)
    data = ImageFolder(
        root, image_size=12, resize=resize, val_fraction=0, test_fraction=0, cache_dir=tmp_path / "cache"
    )
    data.setup()
    source = data.splits["train"]
    assert len(source) == 4 + 3 + 6 + 1 + 1
    images, _ = source.take(torch.arange(len(source)))
    assert images.shape == (15, 3, 12, 12)
    by_name = {path.rpartition("/")[2]: images[i] for i, path in enumerate(source.paths)}
    for name in sizes:
        assert (by_name[name] == torch.tensor([255, 0, 0]).view(3, 1, 1)).all()
    assert (by_name["b.pgm"].float() - by_name["c.ppm"].float().mean(0)).abs().max() < 40


def test_a_table_may_lie_below_the_images(tmp_path):
    draw(tmp_path, *(f"{i}.png" for i in range(4)))
    (tmp_path / "labels.csv").write_text("path,labels\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(4)))
    data = ImageFolder(tmp_path, labels="labels.csv", val_fraction=0, test_fraction=0, cache_dir=tmp_path / "cache")
    data.setup()
    assert data.classes == ["a", "b"]
