"""The same pictures of objects with their label files in each format that detection data has."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

KINDS = ("cup", "fork", "spoon")


class Drawn(NamedTuple):
    """A picture of n rectangles."""

    image: np.ndarray  # uint8 (H, W, 3)
    boxes: np.ndarray  # int64 (n, 4): xyxy
    labels: np.ndarray  # int64 (n,), of `KINDS`
    masks: np.ndarray  # bool (n, H, W): what others do not cover


def things(seed: int, size: tuple[int, int] | None = None) -> Drawn:
    """The picture of `seed`: of a size that differs from one to the next, with 0 to 3 objects apart from each other."""
    rng = np.random.default_rng(seed)
    height, width = size or (60 + 4 * (seed % 3), 80 + 6 * (seed % 4))
    image = rng.normal(110, 6, (height, width, 3))
    boxes, labels, masks = [], [], []
    for place in range(seed % 4):
        left, top = width * place // 3 + int(rng.integers(2, 6)), int(rng.integers(3, height // 2))
        box = (left, top, left + int(rng.integers(8, 18)), top + int(rng.integers(10, height // 2 - 4)))
        labels.append((seed + place) % len(KINDS))
        image[box[1] : box[3], box[0] : box[2]] = 30 + 90 * np.eye(3)[labels[-1]]
        mask = np.zeros((height, width), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        boxes.append(box)
        masks.append(mask)
    stacked = np.stack(masks) if masks else np.zeros((0, height, width), bool)
    pixels = image.clip(0, 255).astype(np.uint8)
    return Drawn(pixels, np.array(boxes, np.int64).reshape(-1, 4), np.array(labels, np.int64), stacked)


def _save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def xml_of(drawn: Drawn, name: str) -> str:
    """A picture's objects as Pascal VOC has them."""
    height, width = drawn.image.shape[:2]
    lines = ["<annotation>", f"<filename>{name}</filename>"]
    lines.append(f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>")
    for box, label in zip(drawn.boxes.tolist(), drawn.labels, strict=True):
        sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        lines += ["<object>", f"<name>{KINDS[label]}</name>", f"<bndbox>{sides}</bndbox>", "</object>"]
    return "\n".join([*lines, "</annotation>"])


def voc(root: Path, count: int = 12) -> Path:
    """`root/JPEGImages/i.png`, `Annotations/i.xml` and `ImageSets/Main/{train,val,test}.txt`; returns `root`."""
    names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    (root / "Annotations").mkdir(parents=True)
    for i in range(count):
        drawn = things(i)
        _save(drawn.image, root / "JPEGImages" / f"{i:02}.png")
        (root / "Annotations" / f"{i:02}.xml").write_text(xml_of(drawn, f"{i:02}.jpg"))
        names["train" if i < count - 4 else "val" if i < count - 2 else "test"].append(f"{i:02}")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, inside in names.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(inside) + "\n")
    return root


def coco_json(drawn: dict[str, Drawn], crowd: bool = False) -> dict[str, Any]:
    """Pictures' objects as COCO has them, by file name: ids with gaps, outlines as polygons, a crowd as run lengths."""
    annotations: list[dict[str, Any]] = []
    images = []
    for number, (name, one) in enumerate(drawn.items()):
        height, width = one.image.shape[:2]
        images.append({"id": 10 + 3 * number, "file_name": name, "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(one.boxes.tolist(), one.labels.tolist(), strict=True):
            about = {"id": 100 + len(annotations), "image_id": 10 + 3 * number, "category_id": 2 + 5 * label}
            outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            box = [x1, y1, x2 - x1, y2 - y1]
            area = (x2 - x1) * (y2 - y1) / 2  # COCO's is that of the outline, which is less than the box
            annotations.append({**about, "bbox": box, "segmentation": outline, "area": area, "iscrowd": 0})
        if crowd:
            runs = {"size": [height, width], "counts": [height * (width - 6), height * 6]}
            about = {"id": 100 + len(annotations), "image_id": 10 + 3 * number, "category_id": 7, "iscrowd": 1}
            annotations.append({**about, "bbox": [width - 6, 0, 6, height], "segmentation": runs, "area": height * 6})
    categories = [{"id": 2 + 5 * label, "name": name} for label, name in enumerate(KINDS)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(root: Path, count: int = 12) -> Path:
    """`root/images/{train,val}/i.png` and `root/annotations/instances_{train,val}.json`; returns `root`."""
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", range(count - 2)), ("val", range(count - 2, count))):
        drawn = {f"{i:02}.png": things(i) for i in numbers}
        for name, one in drawn.items():
            _save(one.image, root / "images" / split / name)
        content = coco_json(drawn, crowd=split == "train")
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def yolo(root: Path, count: int = 12) -> Path:
    """`root/images/{train,val}/i.png`, `root/labels/{train,val}/i.txt` and `root/data.yaml`; returns `root`.

    An image without objects has no label file or an empty one.
    """
    for split, numbers in (("train", range(count - 2)), ("val", range(count - 2, count))):
        (root / "labels" / split).mkdir(parents=True)
        for i in numbers:
            drawn = things(i)
            _save(drawn.image, root / "images" / split / f"{i:02}.png")
            height, width = drawn.image.shape[:2]
            lines = [
                f"{label} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
                f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}"
                for (x1, y1, x2, y2), label in zip(drawn.boxes.tolist(), drawn.labels.tolist(), strict=True)
            ]
            if lines or i:
                (root / "labels" / split / f"{i:02}.txt").write_text("\n".join(lines))
    names = "".join(f"  {label}: {name}\n" for label, name in enumerate(KINDS))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return root


def instance_masks(root: Path, count: int = 12) -> Path:
    """`root/images/i.png` and `root/masks/i.png` with 0 for the ground and 1..n for the objects; returns `root`."""
    for i in range(count):
        drawn = things(i)
        numbers = (drawn.masks * np.arange(1, len(drawn.masks) + 1)[:, None, None]).sum(0).astype(np.uint8)
        _save(drawn.image, root / "images" / f"{i:02}.png")
        _save(numbers, root / "masks" / f"{i:02}.png")
    return root


def coco_mini(root: Path) -> Path:
    """`root/coco-mini` with both of its formats; returns `root`."""
    coco(root / "coco-mini")
    yolo(root / "coco-mini")
    return root
