"""Labels of images that EXIF turns: of the pixels as shown or as stored, whichever their size says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from test_object_formats import opened, samples

import fake_objects
from lightbed.data.boxes import BoxData
from lightbed.data.coco import Coco
from lightbed.data.instance_masks import InstanceMasks
from lightbed.data.shapes import encode_masks
from lightbed.data.upright import turned_mask
from lightbed.data.voc import Voc

TOLD = "images labelled before they were turned upright, boxes turned with them"


def store(path: Path, image: np.ndarray, orientation: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(path, exif=exif)


def upright(mask: np.ndarray, orientation: int) -> np.ndarray:
    """A picture as Pillow turns it."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    picture.getexif()[274] = orientation
    return np.asarray(ImageOps.exif_transpose(picture)) > 0


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_is_turned_as_pillow_turns(orientation: int) -> None:
    mask = fake_objects.things(3).masks[1]
    assert np.array_equal(turned_mask(mask, orientation), upright(mask, orientation))


def drawn_as(kind: type[BoxData], root: Path, drawn: fake_objects.Drawn, codes: bool) -> None:
    """A label file of a picture's pixels as they are stored, for `root/images/0.png`."""
    if kind is Voc:
        (root / "images" / "0.xml").write_text(fake_objects.xml_of(drawn, "0.png"))
    elif kind is Coco:
        content: Any = fake_objects.coco_json({"0.png": drawn})
        for i, one in enumerate(content["annotations"]):
            code = encode_masks(drawn.masks[i][None])[0]
            one["segmentation"] = {**code, "counts": code["counts"].decode()} if codes else one["segmentation"]
        (root / "all.json").write_text(json.dumps(content))
    else:
        numbers = (drawn.masks * np.arange(1, len(drawn.masks) + 1)[:, None, None]).sum(0).astype(np.uint8)
        (root / "masks").mkdir()
        Image.fromarray(numbers).save(root / "masks" / "0.png")


@pytest.mark.parametrize(
    ("kind", "orientation", "codes"),
    [(Voc, 6, False), (Voc, 7, False), (Coco, 5, False), (Coco, 8, True), (InstanceMasks, 6, False)],
)
def test_labels_of_the_stored_pixels_are_turned(
    tmp_path: Path, kind: type[BoxData], orientation: int, codes: bool
) -> None:
    drawn = fake_objects.things(7)
    store(tmp_path / "data" / "images" / "0.png", drawn.image, orientation)
    drawn_as(kind, tmp_path / "data", drawn, codes)
    data = opened(kind, tmp_path / "data", val_fraction=0, test_fraction=0)
    assert data.label_faults == {TOLD: 1}
    for image, target in samples(data).values():
        height, width = drawn.image.shape[:2]
        assert image.shape == (3, width, height)
        for i, box in enumerate(target["boxes"].int().tolist()):
            shown = torch.from_numpy(upright(drawn.masks[i], orientation))
            assert shown[box[1] : box[3], box[0] : box[2]].all()
            assert shown.sum() == (box[3] - box[1]) * (box[2] - box[0])
            if "masks" in target:
                assert torch.equal(target["masks"][i], shown)


def test_labels_of_the_pixels_as_shown_stay(tmp_path: Path) -> None:
    drawn = fake_objects.things(7)
    store(tmp_path / "data" / "images" / "0.png", np.rot90(drawn.image), 6)  # turned left, shown turned right
    drawn_as(Voc, tmp_path / "data", drawn, False)
    data = opened(Voc, tmp_path / "data", val_fraction=0, test_fraction=0)
    assert data.label_faults == {}
    for image, target in samples(data).values():
        assert np.array_equal(image.permute(1, 2, 0).numpy(), drawn.image)
        assert np.array_equal(target["boxes"].numpy(), drawn.boxes)
