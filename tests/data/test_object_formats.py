"""The same pictures in four formats: the same boxes, labels and masks, also resized, cached or not, oddly laid out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fake_objects
import fakes
from lightbed.data.auto import Auto
from lightbed.data.boxes import BoxData
from lightbed.data.coco import Coco
from lightbed.data.instance_masks import InstanceMasks
from lightbed.data.relabel import match_classes
from lightbed.data.shapes import checked, draw_masks, encode_masks
from lightbed.data.voc import Voc
from lightbed.data.yolo import Yolo
from lightbed.errors import UserError

FORMATS = {"voc": Voc, "coco": Coco, "yolo": Yolo, "instance_masks": InstanceMasks}
MASKED = ("coco", "instance_masks")


def opened(kind: type[BoxData], root: Path, **options: Any) -> BoxData:
    data = kind(root, cache_dir=root.parent / "cache", **options)
    data.setup()
    return data


def samples(data: BoxData) -> dict[str, tuple[torch.Tensor, dict[str, Any]]]:
    """Every sample by the name of its file, of plain tensors."""
    pairs = [source[i] for source in data.splits.values() for i in range(len(source))]
    images, targets = data.collate(pairs)
    return {Path(target["path"]).stem: (image, target) for image, target in zip(images, targets, strict=True)}


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_what_was_drawn(tmp_path: Path, name: str, cache: bool) -> None:
    data = opened(FORMATS[name], fakes.DRAWN[name](tmp_path / "data"), cache=cache)
    assert data.classes == (["object"] if name == "instance_masks" else list(fake_objects.KINDS))
    assert data.holds == (("boxes", "labels", "masks") if name in MASKED else ("boxes", "labels"))
    assert data.label_faults == {}
    found = samples(data)
    assert len(found) == 12
    for i in range(12):
        drawn = fake_objects.things(i)
        image, target = found[f"{i:02}"]
        single = ~target.get("crowd", torch.zeros(len(target["boxes"]), dtype=torch.bool))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), drawn.image)
        assert target["boxes"][single].shape == (len(drawn.boxes), 4)
        assert np.abs(target["boxes"][single].numpy() - drawn.boxes).max(initial=0) < 0.001
        labels = drawn.labels * (name != "instance_masks")
        assert target["labels"][single].tolist() == labels.tolist()
        if name in MASKED:
            assert np.array_equal(target["masks"][single].numpy(), drawn.masks)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("name", MASKED)
def test_boxes_and_masks_go_with_the_images_size(tmp_path: Path, name: str, resize: str) -> None:
    data = opened(FORMATS[name], fakes.DRAWN[name](tmp_path / "data"), image_size=[48, 48], resize=resize)
    own = samples(opened(FORMATS[name], tmp_path / "data"))
    for stem, (image, target) in samples(data).items():
        assert image.shape == (3, 48, 48)
        assert target["masks"].shape == (len(target["boxes"]), 48, 48)
        height, width = own[stem][0].shape[1:]
        scale = torch.tensor([48 / width, 48 / height] * 2) if resize == "stretch" else 48 / height
        left = 0 if resize == "stretch" else round((round(width * 48 / height) - 48) / 2)
        expected = (own[stem][1]["boxes"] * scale - torch.tensor([left, 0, left, 0])).clamp(0, 48)
        expected = expected[(expected[:, 2:] > expected[:, :2]).all(1)]
        assert len(expected) >= len(target["boxes"])  # a sliver of an object can be thinner than a pixel of its mask
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            assert float((expected - box).abs().amax(1).min()) < 1.3
            rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
            tight = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert float((tight - box).abs().max()) <= 1  # masks have whole pixels


def test_crowds_and_areas_come_along(tmp_path: Path) -> None:
    data = opened(Coco, fake_objects.coco(tmp_path / "data"), image_size=[30, 40])
    for i in range(10):
        drawn = fake_objects.things(i)
        height, width = drawn.image.shape[:2]
        _, target = samples(data)[f"{i:02}"]
        crowd = target["crowd"]
        assert crowd.tolist() == [False] * len(drawn.boxes) + [True]
        assert int(target["labels"][crowd]) == 1
        areas = drawn.masks.sum((1, 2)) / 2 * (30 / height) * (40 / width)
        assert target["area"][~crowd].numpy() == pytest.approx(areas, rel=1e-4)
        assert bool(target["masks"][crowd][0, :, -1].all())
        assert float(target["masks"][crowd].float().mean()) == pytest.approx(6 / width, abs=0.03)
    assert data.class_counts().tolist() == [
        sum(fake_objects.things(int(Path(path).stem)).labels.tolist().count(k) for path in data.splits["train"].paths)
        for k in range(3)
    ]


def test_one_outline_in_every_coding_is_one_mask() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((17, 23)) > 0.6
    runs, value = [0], False
    for pixel in mask.T.ravel().tolist():  # column by column, beginning with the ground
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    code = encode_masks(mask[None])[0]
    text = {**code, "counts": code["counts"].decode()}
    for shape in ({"size": [17, 23], "counts": runs}, code, text):
        assert np.array_equal(draw_masks([checked(shape)], (17, 23))[0].numpy(), mask)
    box = draw_masks([[[3.0, 2.0, 9.0, 2.0, 9.0, 7.0, 3.0, 7.0]]], (17, 23))[0]
    assert box.nonzero().amin(0).tolist() == [2, 3]
    assert box.nonzero().amax(0).tolist() == [6, 8]
    pieces = draw_masks([[[0, 0, 4, 0, 4, 4, 0, 4], [10, 10, 12, 10, 12, 12, 10, 12]]], (17, 23))[0]
    assert int(pieces.sum()) == 16 + 4


@pytest.mark.parametrize(
    "shape",
    [
        {"size": [4, 4], "counts": [3, 3]},
        {"size": [4, 4], "counts": "zz"},
        {"size": [4], "counts": [16]},
        {"size": [0, 4], "counts": [0]},
        {"counts": [16]},
        [[1, 2, 3, 4]],
        [[0, 0, 1, 1, float("nan"), 2]],
        [["a"] * 6],
        7,
    ],
)
def test_what_is_no_outline_is_refused(shape: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, RuntimeError)):
        checked(shape)


def test_a_mask_thinner_than_a_pixel_is_still_one(tmp_path: Path) -> None:
    root = fake_objects.coco(tmp_path / "data")
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    thin = {"bbox": [20.1, 30.1, 0.3, 8], "segmentation": [[20.1, 30.1, 20.4, 30.1, 20.4, 38.1, 20.1, 38.1]]}
    content["annotations"] = [{**content["annotations"][0], "id": 1, "iscrowd": 0, "area": 2.4, **thin}]
    file.write_text(json.dumps(content))
    for size in (None, [20, 20]):
        found = [target for _, target in samples(opened(Coco, root, image_size=size)).values()]
        masks = torch.cat([target["masks"].flatten(1).sum(1) for target in found])
        assert int(masks.min()) > 0


def odd_voc(root: Path) -> Path:
    """XML beside the images in folders called train, valid and test; endings of every kind."""
    for i in range(12):
        folder = root / ("train" if i < 8 else "valid" if i < 10 else "test") / "shots"
        folder.mkdir(parents=True, exist_ok=True)
        drawn = fake_objects.things(i)
        Image.fromarray(drawn.image).save(folder / f"Shot{i:02}.{'PNG' if i % 2 else 'png'}")
        text = fake_objects.xml_of(drawn, "C:\\photos\\elsewhere.jpg").replace("<object>", "<Object>")
        (folder / f"Shot{i:02}.{'XML' if i % 3 else 'xml'}").write_text(text.replace("</object>", "</Object>"))
    return root


@pytest.mark.parametrize("kind", [Voc, Auto])
def test_voc_beside_its_images_without_lists(tmp_path: Path, kind: type[BoxData]) -> None:
    data = opened(kind, odd_voc(tmp_path / "data"))
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 8, "val": 2, "test": 2}
    assert data.label_faults == {}
    for i in range(12):
        assert np.array_equal(samples(data)[f"Shot{i:02}"][1]["boxes"].numpy(), fake_objects.things(i).boxes)


def test_voc_that_counts_from_one(tmp_path: Path) -> None:
    data = opened(Voc, fake_objects.voc(tmp_path / "data"), one_based=True)
    expected = fake_objects.things(3).boxes - [1, 1, 0, 0]
    assert np.array_equal(samples(data)["03"][1]["boxes"].numpy(), expected)


def test_voc_without_train_list_takes_trainval(tmp_path: Path) -> None:
    root = fake_objects.voc(tmp_path / "data")
    lists = root / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + "08  1\n09 -1\n")
    assert len(opened(Voc, root).splits["train"]) == 8
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    data = opened(Voc, root, val_fraction=0)
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 10, "test": 2}


@pytest.mark.parametrize("layout", ["beside", "no yaml", "upwards", "lists"])
def test_yolo_in_its_layouts(tmp_path: Path, layout: str) -> None:
    root = fake_objects.yolo(tmp_path / "data")
    yaml = root / "data.yaml"
    if layout == "beside":  # Darknet's way
        for split in ("train", "val"):
            for label in (root / "labels" / split).iterdir():
                label.rename(root / "images" / split / label.name)
        shutil.rmtree(root / "labels")
    elif layout == "no yaml":
        yaml.unlink()
        (root / "classes.txt").write_text("cup\nfork\nspoon\n")
    elif layout == "upwards":  # Roboflow's way
        yaml.write_text(f"train: ../images/train\nval: ../images/val\nnc: 3\nnames: {list(fake_objects.KINDS)}\n")
    else:
        for split in ("train", "val"):
            images = sorted((root / "images" / split).iterdir())
            (root / f"{split}.txt").write_text("".join(f"./images/{split}/{image.name}\n" for image in images))
        yaml.write_text(f"train: train.txt\nval: val.txt\nnames: {list(fake_objects.KINDS)}\n")
    data = opened(Yolo, root)
    assert data.classes == list(fake_objects.KINDS)
    assert data.label_faults == {}
    assert len(data.splits["val"]) == 2
    for i in range(12):
        found = samples(data)[f"{i:02}"][1]["boxes"].numpy()
        assert np.abs(found - fake_objects.things(i).boxes).max(initial=0) < 0.001


def test_yolo_polygons_are_masks_and_its_training_split_validates_nothing(tmp_path: Path) -> None:
    root = fake_objects.yolo(tmp_path / "data")
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [a, b, c]\n")
    (root / "labels" / "train" / "03.txt").write_text("1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    for path in (root / "labels" / "train").iterdir():
        if path.stem != "03":
            path.write_text("")
    data = opened(Yolo, root)
    assert data.label_faults == {"splits that are the training split again, cut from it instead": 1}
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 7, "test": 2, "val": 1}
    image, target = samples(data)["03"]
    height, width = image.shape[1:]
    assert target["boxes"].tolist() == [[width / 4, height / 4, width * 3 / 4, height * 3 / 4]]
    assert float(target["masks"].float().mean()) == pytest.approx(0.25, abs=0.02)


def test_masks_in_colours_and_with_a_void(tmp_path: Path) -> None:
    root = fake_objects.instance_masks(tmp_path / "data")
    plain = samples(opened(InstanceMasks, root))
    tones = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    for path in (root / "masks").iterdir():
        Image.fromarray(tones[np.asarray(Image.open(path))]).save(path)
    coloured = samples(opened(InstanceMasks, root, class_name="thing"))
    for stem, (_, target) in coloured.items():
        boxes = {tuple(box) for box in target["boxes"].tolist()}
        assert boxes == {tuple(box) for box in plain[stem][1]["boxes"].tolist()}
    for path in (root / "masks").iterdir():
        values = np.asarray(Image.open(path)).sum(-1) > 0
        Image.fromarray(np.where(values, 7, np.eye(*values.shape) * 99).astype(np.uint8)).save(path)
    void = opened(InstanceMasks, root, void=99)
    assert {len(target["boxes"]) for _, target in samples(void).values()} == {0, 1}


def test_grey_and_rgba_images_are_read(tmp_path: Path) -> None:
    root = fake_objects.voc(tmp_path / "data")
    for i, mode in enumerate(("L", "RGBA", "P", "1", "LA")):
        Image.open(root / "JPEGImages" / f"{i:02}.png").convert(mode).save(root / "JPEGImages" / f"{i:02}.png")
    assert {image.shape[0] for image, _ in samples(opened(Voc, root)).values()} == {3}
    assert {image.shape[0] for image, _ in samples(opened(Voc, root, channels=1)).values()} == {1}


def test_some_classes_in_another_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fake_objects.voc(tmp_path / "data")
    data = opened(Voc, root, classes=["spoon", "cup"])
    assert data.classes == ["spoon", "cup"]
    left_out = 0
    for stem, (_, target) in samples(data).items():
        drawn = fake_objects.things(int(stem))
        kept = drawn.labels != 1
        left_out += int((~kept).sum())
        assert np.array_equal(target["boxes"].numpy(), drawn.boxes[kept])
        assert target["labels"].tolist() == [{2: 0, 0: 1}[label] for label in drawn.labels[kept].tolist()]
    assert f"{left_out} objects of other classes" in capsys.readouterr().out
    with pytest.raises(UserError, match="no object is labelled knife; there is cup, fork, spoon"):
        opened(Voc, root, classes=["knife"])


def test_another_models_order_of_classes_renumbers_labels(tmp_path: Path) -> None:
    data = opened(Voc, fake_objects.voc(tmp_path / "data"))
    before = [data.splits["train"][i][1]["labels"].tolist() for i in range(4)]
    assert match_classes(data, ["spoon", "fork", "cup"], "names")
    after = [data.splits["train"][i][1]["labels"].tolist() for i in range(4)]
    assert after == [[2 - label for label in labels] for labels in before]


def test_validation_images_can_be_the_test(tmp_path: Path) -> None:
    root = fake_objects.coco(tmp_path / "data")
    data = opened(Coco, root, validation_as="test")
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 9, "test": 2, "val": 1}
    assert sorted(Path(path).parent.name for path in data.splits["test"].paths) == ["val", "val"]
    assert (
        len(opened(Voc, fake_objects.voc(tmp_path / "voc"), validation_as="test").splits["val"]) == 2
    )  # it has a test


def test_fewer_images_are_some_of_the_more(tmp_path: Path) -> None:
    root = fake_objects.voc(tmp_path / "data")
    several = [set(opened(Voc, root, limit=count).splits["train"].paths) for count in (2, 5, 8)]
    assert several[0] < several[1] < several[2]
    assert [len(paths) for paths in several] == [2, 5, 8]
    assert several[2] == set(opened(Voc, root).splits["train"].paths)
    assert several[0] != set(opened(Voc, root, limit=2, split_seed=3).splits["train"].paths)
    assert len(opened(Voc, root, limit=2).splits["test"]) == 2
    with pytest.raises(UserError, match=r"data\.limit=9: there are only 8 training images"):
        opened(Voc, root, limit=9)
    with pytest.raises(UserError, match=r"data\.limit=0 must be at least 1"):
        opened(Voc, root, limit=0)


def test_masks_are_left_out_on_request(tmp_path: Path) -> None:
    data = opened(Coco, fake_objects.coco(tmp_path / "data"), masks=False)
    assert data.holds == ("boxes", "labels")
    assert "masks" not in data.splits["train"][0][1]
