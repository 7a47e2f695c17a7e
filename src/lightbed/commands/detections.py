"""What a detector sees in image files: at their own sizes, as lines of JSON and as COCO's results."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lightbed.data.shapes import encode_masks
from lightbed.transforms.boxes import clip
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import Prediction

THRESHOLD = 0.9  # least score of what is told, where none is given


def at_own_size(prediction: Prediction, preprocess: Preprocess, size: tuple[int, int]) -> Prediction:
    """A prediction of a preprocessed image in pixels of the image itself, which is of `size` (height, width)."""
    boxes = clip(preprocess.unfit_boxes(prediction["boxes"], size), size)
    whole = Prediction(boxes=boxes.cpu(), labels=prediction["labels"].cpu(), scores=prediction["scores"].cpu())
    if "masks" in prediction:
        whole["masks"] = preprocess.unfit_masks(prediction["masks"].cpu(), size)
    return whole


def objects(prediction: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Each detection's `label`, `index` of the label, `score`, and `box` xyxy in pixels; the best first."""
    rows = zip(prediction["labels"].tolist(), prediction["scores"], prediction["boxes"], strict=True)
    return [
        {"label": classes[label], "index": label, "score": _short(score), "box": [_short(value) for value in box]}
        for label, score, box in rows
    ]


def image_ids(files: Sequence[Path]) -> dict[Path, int]:
    """The number of each file for COCO's results: that of its name, as COCO names its images, else from 1 on."""
    names = [file.stem for file in files]
    numbers = [int(name) for name in names if name.isascii() and name.isdigit()]
    if len(set(numbers)) == len(files):
        return dict(zip(files, numbers, strict=True))
    return {file: number for number, file in enumerate(files, 1)}


def results(prediction: Prediction, image_id: int, category_ids: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """An image's detections as COCO's results have them: `bbox` xywh, masks as RLE.

    Args:
        prediction: at the image's own size.
        image_id: its number.
        category_ids: of each class; None: they count from 1.
    """
    boxes = prediction["boxes"]
    lines: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": category_ids[label] if category_ids else label + 1,
            "bbox": [_short(value) for value in (*box[:2], *(box[2:] - box[:2]))],
            "score": _short(score),
        }
        for label, box, score in zip(prediction["labels"].tolist(), boxes, prediction["scores"], strict=True)
    ]
    if "masks" in prediction and lines:
        for line, code in zip(lines, encode_masks(prediction["masks"].numpy()), strict=True):
            line["segmentation"] = {"size": code["size"], "counts": code["counts"].decode("ascii")}
    return lines


@contextmanager
def results_file(path: Path) -> Iterator[Any]:
    """A function that adds detections to a file of COCO's results, a line each; the file is whole at the end only."""
    beside = path.with_name(f".{path.name}.tmp")
    count = 0
    with beside.open("w", encoding="utf-8") as out:

        def add(lines: Sequence[dict[str, Any]]) -> None:
            nonlocal count
            for line in lines:
                out.write(("," if count else "[") + "\n" + json.dumps(line))
                count += 1

        yield add
        out.write("\n]\n" if count else "[]\n")
    beside.replace(path)


def cells(line: dict[str, Any]) -> tuple[str, str]:
    """What the table of predictions says of an image: how many of which class, and the highest scores."""
    found = line["objects"]
    common = Counter(one["label"] for one in found).most_common(3)
    scores = [f"{one['score']:.3f}" for one in found[:3]]
    more = [f"... {len(found)} in all"] if len(found) > len(scores) else []
    return ", ".join(f"{name} ×{count}" for name, count in common) or "none", ", ".join([*scores, *more])


def _short(value: Any) -> float:
    """A float32 in the fewest digits that give it back."""
    return float(str(np.float32(float(value))))
