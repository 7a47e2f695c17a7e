"""What is wrong in label files: told once by file and line, counted in the record, and never the end of a run."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fake_objects
from lightbed.commands.train import describe
from lightbed.data.annotations import Object, annotated, settle, summary, without_twins
from lightbed.data.boxes import BoxData, targets_of
from lightbed.data.coco import Coco
from lightbed.data.files import Entry, split_of
from lightbed.data.instance_masks import InstanceMasks
from lightbed.data.voc import Voc, read_xml
from lightbed.data.yolo import Yolo
from lightbed.errors import UserError

ANY = st.floats(-200, 200) | st.sampled_from([float("nan"), float("inf"), 0.0, 50.0, 100.0])


def opened(kind: type[BoxData], root: Path, **options: Any) -> BoxData:
    data = kind(root, cache_dir=root.parent / "cache", **options)
    data.setup()
    return data


def images_of(data: BoxData) -> set[str]:
    return {Path(path).stem for source in data.splits.values() for path in source.paths}


def objects_of(data: BoxData) -> int:
    """How many objects there are in all splits, crowds left out."""
    return sum(len(target["labels"]) for source in data.splits.values() for target in targets_of(source))


def with_box(number: int, *sides: float | str, name: str = "cup") -> str:
    """The XML of picture `number` with one more object, whose box begins in the last line but one."""
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=False))
    more = f"<object><name>{name}</name>\n<bndbox>{box}</bndbox></object>\n</annotation>"
    return fake_objects.xml_of(fake_objects.things(number), f"{number:02}.png").replace("</annotation>", more)


def test_faults_of_voc(tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    root = fake_objects.voc(tmp_path / "data")
    xml = root / "Annotations"
    (xml / "00.xml").write_text(with_box(0, 5, 6, 5, 9))
    (xml / "01.xml").write_text(with_box(1, -20, 6, 30, 20))
    (xml / "02.xml").write_text(with_box(2, 500, 6, 530, 20))
    (xml / "03.xml").write_text(with_box(3, 5, 6, "nan", 20))
    (xml / "04.xml").write_text(with_box(4, 5, 6, 20, 20, name=""))
    (xml / "05.xml").write_text(with_box(5, 5, 6, "wide", 20))
    (xml / "06.xml").write_text("<annotation>\n<object>\n</annotation>")
    (xml / "07.xml").write_text("")
    (root / "JPEGImages" / "08.png").unlink()
    half = Image.open(root / "JPEGImages" / "09.png")
    half.resize((half.width // 2, half.height // 2)).save(root / "JPEGImages" / "09.png")
    Image.new("RGB", (33, 77)).save(root / "JPEGImages" / "10.png")
    lists = root / "ImageSets" / "Main" / "val.txt"
    lists.write_text(lists.read_text() + "00\n99\n")
    (xml / "12.xml").write_text("<annotation/>")
    with caplog.at_level(logging.WARNING, "lightbed"):
        data = opened(Voc, root)
    told = [record.message.removeprefix("label fault: ") for record in caplog.records]
    lines = {number: len(fake_objects.xml_of(fake_objects.things(number), "").splitlines()) + 1 for number in range(6)}
    expected = [
        f"{lists} line 3: 00: train and val (images in two splits, kept in the one further from training)",
        f"{lists} line 4: there is no XML file of 99 (images without a label file, left out)",
        f"{lists.parent}: 1 XML files are in no list, e.g. Annotations/12.xml (lists of splits that lack images, which",
        f"{xml}/00.xml line {lines[0]}: box [5.0, 6.0, 5.0, 9.0] of an image of 80x60 (boxes without area, dropped)",
        f"{xml}/01.xml line {lines[1]}: box [-20.0, 6.0, 30.0, 20.0] of an image of 86x64 (boxes partly outside",
        f"{xml}/02.xml line {lines[2]}: box [500.0, 6.0, 530.0, 20.0] of an image of 92x68 (boxes outside their image",
        f"{xml}/03.xml line {lines[3]}: box [5.0, 6.0, nan, 20.0] of an image of 98x60 (boxes that are no finite",
        f"{xml}/04.xml line {lines[4]}: an object without a name (objects that cannot be read, dropped)",
        f"{xml}/05.xml line {lines[5]}: a box of 5, 6, wide, 20 (objects that cannot be read, dropped)",
        f"{xml}/06.xml: line 3: mismatched tag (label files that cannot be read, their images left out)",
        f"{xml}/07.xml: line 1: no element found (label files that cannot be read, their images left out)",
        f"{xml}/08.xml: there is no image 08.jpg (images that are missing, left out)",
        f"{xml}/09.xml: JPEGImages/09.png is 43x30 pixels, its labels are of 86x60 (images of another size than",
        f"{xml}/10.xml: JPEGImages/10.png is 33x77 pixels, its labels are of 92x64 (images of another size than",
    ]
    assert len(told) == len(expected)
    for line in expected:
        assert sum(message.startswith(line) for message in told) == 1, (line, told)
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if line.startswith("label files have faults: ")]) == 1
    record = describe(data)
    assert sum(record["label_faults"].values()) == len(expected)
    assert record["label_faults"]["label files that cannot be read, their images left out"] == 2
    assert record["skipped"] == 0
    assert images_of(data) == {"00", "01", "02", "03", "04", "05", "09", "11"}
    for source in data.splits.values():
        for i in range(len(source)):
            stem, boxes = Path(source.paths[i]).stem, source[i][1]["boxes"].numpy()
            drawn = fake_objects.things(int(stem)).boxes * (0.5 if stem == "09" else 1)
            if stem == "01":
                drawn = np.concatenate([drawn, [[0, 6, 30, 20]]])
            assert np.allclose(boxes, drawn)


def test_faults_of_yolo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fake_objects.yolo(tmp_path / "data")
    labels = root / "labels" / "train"
    lines = ["0 0.5 0.5 0.1", "0 0.5 0.5 0.1 x", "3 0.5 0.5 0.1 0.1", "0 0.5 0.5 0 0.1", "", "-1 0.5 0.5 0.1 0.1"]
    (labels / "01.txt").write_text("\n".join([*lines, "0.5 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1 0.1 0.9", "0 nan .5 1 1"]))
    (labels / "02.txt").write_bytes(b"\xff\xfe\x00\x01")
    (labels / "gone.txt").write_text("0 0.5 0.5 0.1 0.1")
    with caplog.at_level(logging.WARNING, "lightbed"):
        data = opened(Yolo, root)
    told = "\n".join(record.message for record in caplog.records)
    for text in (
        f"{labels}/01.txt line 1: 4 numbers, where class x y width height are 5",
        f"{labels}/01.txt line 2: `0 0.5 0.5 0.1 x` is not numbers",
        f"{labels}/01.txt line 3: class 3, there are 0..2",
        f"{labels}/01.txt line 4: box [43.0, 28.8, 43.0, 35.2] of an image of 86x64 (boxes without area, dropped)",
        f"{labels}/01.txt line 6: class -1",
        f"{labels}/01.txt line 7: class 0.5",
        f"{labels}/01.txt line 8: 6 numbers",
        f"{labels}/01.txt line 9: box [nan",
        f"{labels}/02.txt: it is no text",
        f"{labels}/gone.txt: labels without an image",
    ):
        assert told.count(text) == 1, text
    assert sum(data.label_faults.values()) == len(caplog.records) == 10
    assert "02" not in images_of(data)
    assert "01" in images_of(data)


def test_faults_of_coco(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fake_objects.coco(tmp_path / "data")
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    first = {**content["annotations"][0], "iscrowd": 0}
    for number, change in enumerate(
        (
            {"category_id": 3},
            {"image_id": 9},
            {"bbox": [1, 2, 3]},
            {"bbox": [1, 2, "3", 4]},
            {"segmentation": {"size": [5, 5], "counts": [25]}},
            {"segmentation": [[1, 2, 3, 4]]},
            {"segmentation": []},
            {"bbox": [90, 2, 3, 4]},
        )
    ):
        content["annotations"].append({**first, "id": 900 + number, **change})
    content["images"].append({"id": 1, "file_name": "gone.png", "height": 5, "width": 5})
    file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, "lightbed"):
        data = opened(Coco, root)
    told = "\n".join(record.message for record in caplog.records)
    for text in (
        "annotation 900: category_id 3 is not among the categories (objects of an unknown class, dropped)",
        "annotation 901: image_id 9 (objects of images that the file does not list, dropped)",
        "annotation 902: bbox [1, 2, 3] is not [x, y, width, height]",
        "annotation 903: bbox [1, 2, '3', 4] is not",
        "annotation 904: segmentation: a run-length code of [5, 5], but the image is [60, 80] (outlines that cannot be",
        "annotation 905: segmentation: a polygon of 4 numbers (outlines that cannot be read, replaced by their box)",
        "annotation 906: no outline (objects without an outline, given their box as one)",
        "annotation 907: box [90.0, 2.0, 93.0, 6.0] of an image of 80x60 (boxes outside their image, dropped)",
        "image 1: there is no image gone.png (images that are missing, left out)",
    ):
        assert told.count(f"{file} {text}") == 1, text
    found = {Path(source.paths[i]).stem: source[i][1] for source in data.splits.values() for i in range(len(source))}
    target = found["00"]  # an image without objects of its own, but with a crowd
    assert target["boxes"].shape == (1 + 3, 4)
    assert target["masks"].flatten(1).sum(1).tolist() == [6 * 60, *[6 * 60] * 3]


def test_faults_of_masks(tmp_path: Path) -> None:
    root = fake_objects.instance_masks(tmp_path / "data")
    Image.new("L", (5, 5)).save(root / "masks" / "01.png")
    (root / "masks" / "02.png").write_bytes(b"no image")
    (root / "masks" / "03.png").unlink()
    data = opened(InstanceMasks, root)
    assert data.label_faults == {
        "label files that cannot be read, their images left out": 2,
        "images without a label file, left out": 1,
    }
    assert images_of(data) == {f"{i:02}" for i in range(12)} - {"01", "02", "03"}


def test_broken_images_end_a_run_or_are_skipped(tmp_path: Path) -> None:
    root = fake_objects.voc(tmp_path / "data")
    (root / "JPEGImages" / "02.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"02\.png is empty; mend or delete it"):
        opened(Voc, root)
    data = opened(Voc, root, broken="skip")
    assert images_of(data) == {f"{i:02}" for i in range(12)} - {"02"}
    assert describe(data)["skipped"] == 1
    assert data.label_faults == {}
    for source in data.splits.values():  # the others keep their own labels
        for i in range(len(source)):
            expected = fake_objects.things(int(Path(source.paths[i]).stem)).boxes
            assert np.array_equal(source[i][1]["boxes"].numpy(), expected)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Coco, ("annotations/instances_train.json", "{\n"), "there is no file to train on"),
        (
            Coco,
            ("annotations/instances_train.json", '{"images": "annotations categories bbox"}'),
            "there is no file to train on",
        ),
        (Yolo, ("data.yaml", "names: [a]\ntrain: nowhere\n"), "train: nowhere does not exist"),
        (Yolo, ("data.yaml", "names: {1: a}\ntrain: images\n"), r"names must be numbered 0\.\.0, not \[1\]"),
        (Yolo, ("data.yaml", "names: [a]\nval: images/val\n"), "`train` names no images"),
        (
            Yolo,
            ("data.yaml", "names: [a\ntrain: :"),
            r"data\.yaml: line 2: .*; mend it, or take another by data=yolo data\.file=",
        ),
    ],
)
def test_what_nothing_can_be_read_from_is_told(
    tmp_path: Path, kind: type[BoxData], change: tuple[str, str], message: str
) -> None:
    root = {Coco: fake_objects.coco, Yolo: fake_objects.yolo}[kind](tmp_path / "data")  # type: ignore[index]
    (root / change[0]).write_text(change[1])
    with pytest.raises(UserError, match=message):
        opened(kind, root)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("category_id", [2], "objects of an unknown class, dropped"),
        ("image_id", {}, "objects of images that the file does not list, dropped"),
        ("bbox", [1, 2, 10**400, 5], "objects that cannot be read, dropped"),
        ("iscrowd", "0", None),
    ],
)
def test_a_coco_object_of_strange_types_is_a_fault(tmp_path: Path, key: str, value: Any, kind: str | None) -> None:
    root = fake_objects.coco(tmp_path / "data")
    before = objects_of(opened(Coco, root))
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    next(one for one in content["annotations"] if not one.get("iscrowd"))[key] = value
    content["categories"].append({"id": "text", "name": "sorted behind numbers"})
    file.write_text(json.dumps(content))
    data = opened(Coco, root)
    assert list(data.label_faults) == ([] if kind is None else [kind])
    assert objects_of(data) == before - (kind is not None)
    assert data.classes[-1] == "sorted behind numbers"
    content["images"][0]["id"] = [1]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"the id \[1\] in `images` is no number"):
        opened(Coco, root)


def test_yolo_classes_without_a_count(tmp_path: Path) -> None:
    root = fake_objects.yolo(tmp_path / "data")
    (root / "data.yaml").write_text("names: {'0': cup, '1': ball, '2': box}\ntrain: images/train\n")
    assert opened(Yolo, root).classes == ["cup", "ball", "box"]
    (root / "data.yaml").unlink()
    (root / "labels" / "train" / "01.txt").write_text("1e12 0.5 0.5 0.1 0.1\n1e300 0.5 0.5 0.1 0.1\n")
    data = opened(Yolo, root)
    assert data.classes == ["0", "1", "2"]
    assert data.label_faults["objects of an unknown class, dropped"] == 2
    (root / "classes.txt").write_bytes("Äpfel\nBälle\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt, which names the classes: it is no text; write it in UTF-8"):
        opened(Yolo, root)


def test_labels_of_which_nothing_is_left_end_a_run(tmp_path: Path) -> None:
    root = fake_objects.voc(tmp_path / "data")
    files = list((root / "Annotations").iterdir())
    box = "<object><name>cup</name><bndbox>{}</bndbox></object>"
    backwards = box.format("<xmin>9</xmin><ymin>9</ymin><xmax>3</xmax><ymax>3</ymax>")
    for said, message in (
        ("", r"no object is labelled in its 12 images$"),
        (box.format(""), r"no object is labelled in its 12 images: .*xml line 1: an object without xmin"),
        (backwards, r"none of its objects can be used, e\.g\. .*xml line 1: box .* \(boxes without area, dropped\)"),
        ("<size><width>9</width><height>90</height></size>" + backwards, "none of its images can be used"),
    ):
        for file in files:
            file.write_text(f"<annotation>{said}</annotation>")
        with pytest.raises(UserError, match=message):
            opened(Voc, root)


def test_labels_of_which_none_is_learnt_end_a_run(tmp_path: Path) -> None:
    root = fake_objects.voc(tmp_path / "data")
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<bndbox>", "<difficult>1</difficult><bndbox>"))
    with pytest.raises(UserError, match=r"all of its 18 objects are crowds or difficult: .* data\.difficult=learn"):
        opened(Voc, root)
    assert objects_of(opened(Voc, root, difficult="learn")) == 18
    root = fake_objects.coco(tmp_path / "empty")
    for file in (root / "annotations").iterdir():
        file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    with pytest.raises(UserError, match=r"none of its objects can be used: there are no labels of them$"):
        opened(Coco, root)


def test_coco_ids_are_one_whether_numbers_or_texts(tmp_path: Path) -> None:
    root = fake_objects.coco(tmp_path / "data")
    before = objects_of(opened(Coco, root))
    for file, spelling in zip(sorted((root / "annotations").iterdir()), (str, float, str), strict=False):
        content = json.loads(file.read_text())
        for one in content["annotations"]:
            one |= {key: spelling(one[key]) for key in ("image_id", "category_id")}
        file.write_text(json.dumps(content))
    data = opened(Coco, root)
    assert objects_of(data) == before
    assert data.label_faults == opened(Coco, root).label_faults


def test_images_that_share_an_id_are_left_out(tmp_path: Path) -> None:
    root = fake_objects.coco(tmp_path / "data")
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    gone = {Path(one["file_name"]).stem for one in content["images"][:2]}
    file.write_text(json.dumps(content))
    data = opened(Coco, root)
    assert data.label_faults["images that share their id with another, left out"] == 2
    assert not images_of(data) & gone
    content["images"][0]["id"] = None
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"the id None in `images` is no number"):
        opened(Coco, root)


def test_a_yolo_file_of_names_alone_leaves_the_splits_to_the_folders(tmp_path: Path) -> None:
    root = fake_objects.yolo(tmp_path / "data")
    given = opened(Yolo, root)
    (root / "data.yaml").write_text("names: [cup, fork, spoon]\nnc: 3\n")
    data = opened(Yolo, root)
    assert data.classes == ["cup", "fork", "spoon"]
    assert images_of(data) == images_of(given)
    assert {name: len(source) for name, source in data.splits.items()} == {
        name: len(source) for name, source in given.splits.items()
    }


def test_the_file_that_is_named_is_read_and_its_faults_are_told(tmp_path: Path) -> None:
    root = fake_objects.coco(tmp_path / "data")
    (root / "broken.json").write_text('{"images": [],\n"annotations"}')
    with pytest.raises(UserError, match=r"broken\.json line 2 is no JSON"):
        opened(Coco, root, annotations="broken.json")
    (root / "other.json").write_text('{"images": [{"id": 1}], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match=r"needs a list `images` of objects with id and file_name"):
        opened(Coco, root, annotations="other.json")
    with pytest.raises(UserError, match=r"must have train, and may have val and test"):
        opened(Coco, root, annotations={"val": "other.json"})
    (root / "data.yml").write_text("names: [a]\n: :\n")
    with pytest.raises(UserError, match=r"data\.yml: line 2"):
        opened(Yolo, root, file="data.yml")
    (root / "data.yml").write_text("train: images\n")
    with pytest.raises(UserError, match=r"data\.yml: it lacks `names`"):
        opened(Yolo, root, file="data.yml")
    with pytest.raises(UserError, match="holds no XML files"):
        opened(Voc, root)
    with pytest.raises(UserError, match=r"data\.lists=.* does not exist"):
        opened(Voc, root, lists="nowhere")


def test_xml_is_read_with_its_lines() -> None:
    root = read_xml(b"<annotation>\n <object>\n  <Name> a &amp; b </Name></object>\n</annotation>")
    assert (root.tag, root.line) == ("annotation", 1)
    assert (root.children[0].line, root.children[0].value("name")) == (2, "a & b")
    with pytest.raises(ValueError, match="line 2: mismatched tag"):
        read_xml(b"<a>\n</b>")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("train/pictures_test.json", "test"),
        ("testament/trainers.json", None),
        ("data.json", None),
    ],
)
def test_splits_are_words_of_a_path(path: str, split: str | None) -> None:
    assert split_of(path) == split


def test_an_image_is_in_one_split() -> None:
    images = [
        annotated(Entry(path, 1, 1), split, Path("a.json"), [])
        for path, split in (("1", "train"), ("1", "val"), ("2", "train"), ("1", "test"), ("2", "train"))
    ]
    kept, faults = without_twins(images)
    assert [(one.image.path, one.split) for one in kept] == [("2", "train"), ("1", "test")]
    told = ["1 is in train and in test", "1 is in val and in test", "2, also in a.json"]
    assert [fault.what for fault in faults] == told


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY, ANY, ANY, ANY), max_size=6), st.integers(1, 120), st.integers(1, 120))
def test_settled_boxes_lie_inside_and_none_is_lost_in_silence(
    boxes: list[tuple[float, float, float, float]], height: int, width: int
) -> None:
    objects = [Object(line, box, line % 3, area=5.0) for line, box in enumerate(boxes, 1)]
    one, faults = settle(annotated(Entry("a.png", 1, 1), "train", Path("a.txt"), objects), (height, width), masks=False)
    assert one is not None
    assert len(one.boxes) == len(one.labels) == len(one.numbers) == len(one.areas) == len(one.shapes)
    assert (one.boxes[:, :2] >= 0).all()
    assert (one.boxes[:, 2:] <= [width, height]).all()
    assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
    clipped = summary(faults).get("boxes partly outside their image, clipped", 0)
    assert len(one.boxes) == len(boxes) - (len(faults) - clipped)
    for number, box in zip(one.numbers, one.boxes, strict=True):  # what needs no mending is as it was
        given_box = np.array(boxes[number - 1])
        if (given_box >= 0).all() and (given_box <= [width, height, width, height]).all():
            assert np.array_equal(given_box, box)
        assert one.labels[one.numbers.index(number)] == number % 3
