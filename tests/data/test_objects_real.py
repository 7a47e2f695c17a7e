"""Real label files: raccoons, blood cells, the first images of COCO in two formats, people in streets."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightbed.data.boxes import BoxData
from lightbed.data.coco import Coco
from lightbed.data.penn_fudan import PennFudan
from lightbed.data.voc import Voc
from lightbed.data.yolo import Yolo

WHOLE: dict[str, Any] = {"val_fraction": 0, "test_fraction": 0, "cache": False}  # nothing is cut off, nothing written


def opened(kind: type[BoxData], root: Path, **options: Any) -> BoxData:
    data = kind(root, **{**WHOLE, **options})
    data.setup()
    return data


def targets(data: BoxData, split: str) -> dict[str, dict[str, Any]]:
    source = data.splits[split]
    return {Path(source[i][1]["path"]).stem: source[i][1] for i in range(len(source))}


def counts(data: BoxData) -> dict[str, int]:
    return {name: len(source) for name, source in data.splits.items()}


def test_raccoons(real_data: Path, tmp_path: Path) -> None:
    data = opened(Voc, real_data / "raccoon", cache_dir=tmp_path)
    assert counts(data) == {"train": 160, "val": 40}
    assert (data.classes, data.label_faults) == (["raccoon"], {})
    files = {file.stem: file for file in (real_data / "raccoon" / "Annotations").glob("*.xml")}
    boxes = {**targets(data, "train"), **targets(data, "val")}
    assert sum(len(target["boxes"]) for target in boxes.values()) == 217
    for stem, target in boxes.items():  # against a reading by hand
        text = files[stem].read_text()
        sides = [[int(v) for v in re.findall(f"<{side}>(\\d+)<", text)] for side in ("xmin", "ymin", "xmax", "ymax")]
        assert target["boxes"].tolist() == [list(map(float, box)) for box in zip(*sides, strict=True)]


def test_blood_cells_with_two_boxes_of_no_area(
    real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lightbed"):
        data = opened(Voc, real_data / "BCCD", cache_dir=tmp_path)
    assert counts(data) == {"train": 205, "val": 87, "test": 72}
    assert data.classes == ["Platelets", "RBC", "WBC"]
    assert data.label_faults == {"boxes without area, dropped": 2}
    told = sorted(record.message for record in caplog.records)
    assert [re.search(r"BloodImage_(\d+)\.xml line (\d+): box \[(.*?)\]", line).groups() for line in told] == [  # type: ignore[union-attr]
        ("00338", "163", "504.0, 337.0, 504.0, 337.0"),
        ("00343", "55", "181.0, 329.0, 181.0, 329.0"),
    ]
    total = sum(len(one["labels"]) for name in data.splits for one in targets(data, name).values())
    assert total == 4888 - 2


def test_cocos_two_formats_agree(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "coco-mini"
    coco = opened(Coco, root, cache_dir=tmp_path)
    yolo = opened(Yolo, root, cache_dir=tmp_path)
    assert counts(coco) == counts(yolo) == {"train": 62, "val": 20}
    assert coco.classes == yolo.classes
    assert len(coco.classes) == 80
    assert coco.label_faults == yolo.label_faults == {}
    for split, total, crowds in (("train", 458, 5), ("val", 163, 2)):
        ours, theirs = targets(coco, split), targets(yolo, split)
        assert ours.keys() == theirs.keys()
        content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        areas = {Path(one["file_name"]).stem: [] for one in content["images"]}
        names = {one["id"]: Path(one["file_name"]).stem for one in content["images"]}
        for one in content["annotations"]:
            areas[names[one["image_id"]]].append(one["area"])
        assert sum(len(one["boxes"]) for one in ours.values()) == total
        assert sum(int(one["crowd"].sum()) for one in ours.values()) == crowds
        for stem, target in ours.items():
            single = ~target["crowd"]
            assert torch.equal(target["labels"][single], theirs[stem]["labels"])
            assert torch.allclose(target["boxes"][single], theirs[stem]["boxes"], atol=0.01)
            assert target["area"].tolist() == pytest.approx(areas[stem], rel=1e-5)
            drawn = target["masks"].flatten(1).sum(1)
            # an outline's area and the number of its pixels differ along its edge alone
            edge = 2 * (target["boxes"][:, 2:] - target["boxes"][:, :2]).sum(1) + 4
            assert bool(((drawn - target["area"]).abs() <= edge)[single].all())  # crowds were counted otherwise
    assert [len(targets(coco, "train")[name]["boxes"]) for name in ("000000000250", "000000000508")] == [0, 0]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # its own, with NumPy 2
def test_masks_are_pycocotools(real_data: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    from lightbed.data.shapes import checked, draw_masks

    content = json.loads((real_data / "coco-mini" / "annotations" / "instances_val.json").read_text())
    sizes = {one["id"]: (one["height"], one["width"]) for one in content["images"]}
    for one in content["annotations"]:
        size, shape = sizes[one["image_id"]], one["segmentation"]
        codes = mask.frPyObjects(shape, *size)
        expected = mask.decode(mask.merge(codes) if isinstance(codes, list) else codes).astype(bool)
        assert np.array_equal(draw_masks([checked(shape)], size)[0].numpy(), expected)  # type: ignore[list-item]


def test_people_as_their_own_boxes_say(real_data: Path, tmp_path: Path) -> None:
    """The authors' boxes are 1-based with both ends inside, and agree with the masks to 2 pixels, but for two."""
    data = opened(PennFudan, real_data, cache_dir=tmp_path)
    found = targets(data, "train")
    assert len(found) == 170
    far: list[tuple[str, int, int]] = []
    people = 0
    for stem, target in found.items():
        text = (real_data / "PennFudanPed" / "Annotation" / f"{stem}.txt").read_text(encoding="latin-1")
        said = re.findall(r"\(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)", text)
        boxes = np.array(said, int) - [1, 1, 0, 0]
        assert len(boxes) == len(target["boxes"]) == len(target["masks"])
        people += len(boxes)
        difference = np.abs(boxes - target["boxes"].numpy()).max(1)
        far += [(stem, i + 1, int(difference[i])) for i in np.flatnonzero(difference > 2)]
    assert people == 423
    assert sorted(far) == [("PennPed00019", 6, 3), ("PennPed00027", 1, 6)]
