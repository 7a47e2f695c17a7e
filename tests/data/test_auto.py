"""Which format a folder has, and which image a label file means."""

import json
from pathlib import Path

import pytest
import torch
from test_object_formats import FORMATS, opened, samples

import fake_objects
import fakes
from lightbed.data.auto import Auto
from lightbed.data.lookup import Images
from lightbed.errors import UserError


def test_images_are_found_by_what_agrees_best(tmp_path: Path) -> None:
    for name in ("train/a.jpg", "val/a.jpg", "images/b.PNG", "masks/b.png", "one/c.jpg", "two/c.jpg", "deep/x/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    images = Images(tmp_path)

    def found(*names: str, **options: str) -> str:
        entry = images.find(*names, **options)
        return entry if isinstance(entry, str) else entry.path

    assert found("a.jpg", split="val") == "val/a.jpg"
    assert found("a.jpg", "train") == "train/a.jpg"
    assert found("b.jpg") == "images/b.PNG"
    assert found("C:\\somewhere\\two\\c.jpg") == "two/c.jpg"
    assert found("D.jpeg") == "deep/x/d.jpg"
    assert found("c.jpg") == "several images are called c.jpg: one/c.jpg, two/c.jpg"
    assert found("e.jpg") == "there is no image e.jpg"


@pytest.mark.parametrize("name", FORMATS)
def test_auto_recognises_each_format(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = fakes.DRAWN[name](tmp_path / "data")
    given, data = opened(FORMATS[name], root), opened(Auto, root)
    assert f": as data={name}" in capsys.readouterr().out
    assert (data.classes, data.holds) == (given.classes, given.holds)
    for stem, (_, target) in samples(given).items():
        assert torch.equal(samples(data)[stem][1]["boxes"], target["boxes"])


def test_auto_recognises_masks_of_unusual_names(tmp_path: Path) -> None:
    root = fakes.penn_fudan_people(tmp_path) / "PennFudanPed"
    (root / "PNGImages").rename(root / "Shots of 2007")
    (root / "PedMasks").rename(root / "who")
    data = opened(Auto, root)
    assert data.holds == ("boxes", "labels", "masks")
    assert sum(len(source) for source in data.splits.values()) == 12


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_auto_recognises_text_that_windows_wrote(tmp_path: Path, encoding: str) -> None:
    root = fake_objects.voc(tmp_path / "voc")
    for file in (root / "Annotations").iterdir():
        text = file.read_text().replace("annotation>", "Annotation>").replace("\n", "\r\n")
        file.write_bytes(text.encode(encoding))
    for file in (root / "ImageSets" / "Main").iterdir():
        file.write_bytes(file.read_text().replace("\n", "\r\n").encode("utf-8-sig"))
    assert {name: len(source) for name, source in opened(Auto, root).splits.items()} == {
        "train": 8,
        "val": 2,
        "test": 2,
    }
    if encoding == "utf-16":
        return
    root = fake_objects.yolo(tmp_path / "yolo")
    for file in [*root.rglob("*.txt"), root / "data.yaml"]:
        text = file.read_text().replace("images/", "images\\") if file.suffix == ".yaml" else file.read_text()
        file.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert samples(opened(Auto, root)).keys() == samples(opened(Auto, fake_objects.yolo(tmp_path / "plain"))).keys()


def test_auto_recognises_a_coco_file_without_annotations(tmp_path: Path) -> None:
    root = fake_objects.coco(tmp_path / "data")
    file = root / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "annotations": []}))
    data = opened(Auto, root)
    assert len(data.splits["val"]) == 2
    assert all(len(data.splits["val"][i][1]["boxes"]) == 0 for i in range(2))
    (root / "captions.json").write_text(json.dumps({**content, "annotations": [{"caption": "a cup"}]}))
    assert len(opened(Auto, root).splits["val"]) == 2, "other JSON files with the same keys are none"


def test_auto_says_when_none_or_several_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no labels that are known: .* data=image_folder reads class folders"):
        opened(Auto, fakes.image_folder(tmp_path / "folders"))
    root = fake_objects.coco_mini(tmp_path) / "coco-mini"
    with pytest.raises(UserError, match=r"COCO files .* and YOLO labels .*: say which by data=coco or data=yolo"):
        opened(Auto, root)
    with pytest.raises(UserError, match="does not exist"):
        opened(Auto, tmp_path / "nowhere")


def test_two_files_that_name_classes_ask_for_a_choice(tmp_path: Path) -> None:
    root = fake_objects.yolo(tmp_path / "data")
    (root / "old.yaml").write_text((root / "data.yaml").read_text())
    assert len(opened(Auto, root).splits["val"]) == 2  # data.yaml comes before others
    (root / "data.yaml").rename(root / "new.yaml")
    with pytest.raises(UserError, match=r"new\.yaml and .*old\.yaml both name classes: say which by data\.file=FILE"):
        opened(Auto, root)
