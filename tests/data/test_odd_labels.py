"""Labels that are unusual but no fault, odd lines, and images of any kind."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_label_faults import images_of, objects_of, opened

import fake_objects
from lightbed.data.coco import Coco
from lightbed.data.voc import Voc
from lightbed.data.yolo import Yolo
from lightbed.errors import UserError


def test_difficult_objects_are_not_learnt_unless_asked_for(tmp_path: Path) -> None:
    root = fake_objects.voc(tmp_path / "data")
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace("</name>", "</name><difficult>1</difficult>", 1))
    marked = sum(i % 4 > 0 for i in range(12))
    data = opened(Voc, root)
    assert objects_of(opened(Voc, root, difficult="learn")) == objects_of(data) + marked
    crowds = [source[i][1]["crowd"] for source in data.splits.values() for i in range(len(source))]
    assert sum(int(crowd.sum()) for crowd in crowds) == marked, "detections on them do not count"
    assert data.label_faults == {}
    with pytest.raises(UserError, match=r"data\.difficult=no"):
        opened(Voc, root, difficult="no")


def test_an_image_that_is_labelled_twice_is_there_once(tmp_path: Path) -> None:
    root = fake_objects.coco(tmp_path / "data")
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"].append({**content["images"][3], "id": 999})
    file.write_text(json.dumps(content))
    data = opened(Coco, root)
    assert data.label_faults == {"images labelled twice, kept once, with the labels that come first": 1}
    assert sorted(Path(path).stem for source in data.splits.values() for path in source.paths) == sorted(
        images_of(data)
    )


def test_ids_of_coco_may_be_texts_and_are_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = fake_objects.coco(tmp_path / "data")
    assert opened(Coco, root).category_ids == [2, 7, 12]
    assert opened(Coco, root, classes=["spoon", "cup"]).category_ids == [12, 2]
    assert opened(Voc, fake_objects.voc(tmp_path / "voc")).category_ids is None
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for key in ("images", "annotations", "categories"):
            for one in content[key]:
                one |= {name: str(one[name]) for name in ("id", "image_id", "category_id") if name in one}
        content["annotations"][0]["bbox"] = [1, 2, 0, 4]
        file.write_text(json.dumps(content))
    data = opened(Coco, root)
    assert data.label_faults == {"boxes without area, dropped": 2}
    assert "annotation 100: box" in caplog.text


ODD = {  # line of a text file -> the box that it becomes, in an image of 100 x 80, or what is told of it
    "0 0.5 0.5 0.2 0.5\r": [40, 20, 60, 60],
    "0 0,5 0,5 0,1 0,1": "is not numbers",
    "0,0.5,0.5,0.1,0.1": "is not numbers",
    "0 50 40 20 40": "boxes outside their image, dropped",
    "0 0.5 0.5 -0.2 0.5": "boxes without area, dropped",
    "0 inf 0.5 0.2 0.5": "boxes that are no finite numbers, dropped",
    "0 0.9 0.5 0.4 0.5": [70, 20, 100, 60],
    "1 0.5 0.5 0.2 0.5": "class 1, there are 0..0",
    "cat 0.5 0.5 0.2 0.5": "is not numbers",
    "0 0.1 0.25 0.3 0.25 0.3 0.75": [10, 20, 30, 60],
}


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_odd_lines_and_images_of_any_kind_do_not_stop_a_reading(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for number, line in enumerate([*ODD, ""]):
        picture = Image.new(mode, (100, 80))
        picture.save(root / "images" / f"{number}.{'tif' if mode == 'CMYK' else 'png'}")
        (root / "labels" / f"{number}.txt").write_bytes(b"\xef\xbb\xbf" + line.encode())
    (root / "classes.txt").write_bytes(b"\xef\xbb\xbfcup\r\n")
    data = opened(Yolo, root, val_fraction=0, test_fraction=0)
    assert data.classes == ["cup"]
    source = data.splits["train"]
    found = {int(Path(source.paths[i]).stem): source[i] for i in range(len(source))}
    assert len(found) == len(ODD) + 1
    for number, expected in enumerate([*ODD.values(), []]):
        image, target = found[number]
        assert image.shape == (3, 80, 100)
        if isinstance(expected, str):
            line = next(each for each in caplog.messages if f"{root}/labels/{number}.txt line 1: " in each)
            assert expected in line
        assert np.allclose(target["boxes"].flatten().numpy(), [] if isinstance(expected, str) else expected)
