"""What a network said, as JSON: for the API at the image's own size, for the page as it is drawn there."""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lightbed.commands.predict import Seen, describe
from lightbed.data.shapes import encode_masks
from lightbed.draw.boxes import confident
from lightbed.draw.masks import class_shares, colour, palette
from lightbed.draw.panel import as_pixels
from lightbed.types import Prediction
from lightbed.web.served import Answer, Served

SIDE = 1280  # pixels of the longer side of what the page shows
TOP = 5  # classes with a bar
_SMALL = 512  # pixels of the longer side up to which an image is shown as it is, without loss


def for_api(served: Served, answer: Answer, image: Tensor, threshold: float) -> dict[str, Any]:
    """An answer with what scores `threshold` or more, as `lightbed predict` writes it.

    Args:
        served: who answered.
        answer: see `Answer`.
        image: uint8 (3, h, w).
        threshold: in 0..1; pixels have none.
    """
    prediction = confident(answer.prediction, threshold)
    told = describe(Seen(Path(), prediction), served.classes, threshold)
    del told["path"]
    if "box" in prediction:
        told.setdefault("box", [round(float(value), 2) for value in prediction["box"]])
    if "masks" in prediction:
        for one, mask in zip(told["objects"], prediction["masks"], strict=True):
            one["segmentation"] = _coded(mask, image)
    if "mask" in prediction:
        told["mask"] = _png(_indexed(prediction["mask"], served.classes))
    size = {"height": image.shape[-2], "width": image.shape[-1]}
    return {"run": served.name, "seconds": round(answer.seconds, 4), **size, **told}


def for_page(served: Served, answer: Answer, image: Tensor) -> dict[str, Any]:
    """An answer as the page draws it: everything that was found, of whatever score; places in parts of the image.

    Returns:
        `title`, `kinds`, `seconds`, and, by its kind: `bars`, the best classes; `objects` with `label`, `score`, `box`
        and, with masks, `mask`, a picture of its box alone, and `colour`; `mask`, a picture whose grey values are
        classes, and `shares`. `classes` has name and colour of each class that occurs.
    """
    prediction = answer.prediction
    told: dict[str, Any] = {"title": served.title, "kinds": served.kinds, "seconds": answer.seconds}
    labels: list[int] = []
    if "mask" in prediction:
        shown = Image.fromarray(_array(prediction["mask"]).astype(np.uint8))
        shown.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
        numbers = {name: i for i, name in enumerate(served.classes)}
        told["shares"] = {
            numbers[name]: part for name, part in class_shares(prediction["mask"], served.classes).items()
        }
        told["mask"], labels = _png(shown), list(told["shares"])
    elif "boxes" in prediction:
        told["objects"] = _objects(prediction, image)
        labels = sorted(set(prediction["labels"].tolist()))
    else:
        told["bars"], labels = _bars(prediction, served.classes)
        if "box" in prediction:
            told["objects"] = [_localized(prediction, image)]
    tones = ["#{:02x}{:02x}{:02x}".format(*tone) for tone in palette(served.classes[:255]).tolist()]
    told["classes"] = {
        label: {"name": served.classes[label], "colour": tones[label] if label < len(tones) else _hex(label)}
        for label in labels
    }
    return told


def shown(image: Tensor) -> dict[str, Any]:
    """An image uint8 (3, h, w) for the page: `src`, at most `SIDE` pixels large, and its own `width` and `height`."""
    picture = Image.fromarray(as_pixels(image))
    size = {"width": picture.width, "height": picture.height}
    if max(picture.size) <= _SMALL:
        return {**size, "src": _png(picture)}
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return {**size, "src": _data(picture, "JPEG", quality=90)}


def thumbnail(image: Tensor, side: int) -> str:
    """An image uint8 (3, h, w), at most `side` pixels large, as the address of a picture."""
    picture = Image.fromarray(as_pixels(image))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _png(picture)


def _objects(prediction: Prediction, image: Tensor) -> list[dict[str, Any]]:
    scores, labels = prediction["scores"].tolist(), prediction["labels"].tolist()
    boxes = _relative(prediction["boxes"], image)
    objects = [
        {"label": label, "score": score, "box": box}
        for label, score, box in zip(labels, scores, boxes, strict=True)
    ]  # fmt: skip
    if "masks" in prediction:
        for i, (one, mask) in enumerate(zip(objects, prediction["masks"], strict=True)):
            one |= {"colour": _hex(i), **_cut(_array(mask))}
    return objects


def _localized(prediction: Prediction, image: Tensor) -> dict[str, Any]:
    label = int(prediction["label"])
    box = _relative(prediction["box"][None], image)[0]
    return {"label": label, "score": float(prediction["scores"][label]), "box": box}


def _bars(prediction: Prediction, classes: Sequence[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """The classes with the highest scores, the best first, and their numbers."""
    order = prediction["scores"].argsort(descending=True, stable=True)[:TOP].tolist()
    return [{"label": i, "name": classes[i], "score": float(prediction["scores"][i])} for i in order], order


def _cut(mask: np.ndarray) -> dict[str, Any]:
    """The part of a mask bool (h, w) that holds something, as a picture, and its place; nothing for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return {}
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    picture = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    factor = min(1.0, SIDE / max(mask.shape))
    if factor < 1:
        sides = [max(1, round(side * factor)) for side in picture.size]
        picture = picture.resize((sides[0], sides[1]), Image.Resampling.BOX)
    height, width = mask.shape
    place = [left / width, top / height, right / width, bottom / height]
    clear = Image.merge("LA", (picture, picture))
    return {"mask": _png(clear), "place": place}


def _coded(mask: Tensor, image: Tensor) -> dict[str, Any]:
    """A mask bool (H, W) in COCO's code at the size of the image; one at a time, for the image may be large."""
    if mask.shape != image.shape[-2:]:
        mask = F.resize(mask[None].float(), list(image.shape[-2:]), antialias=True)[0] >= 0.5
    [code] = encode_masks(_array(mask)[None])
    return {"size": code["size"], "counts": code["counts"].decode("ascii")}


def _relative(boxes: Tensor, image: Tensor) -> list[list[float]]:
    height, width = image.shape[-2:]
    found: list[list[float]] = (boxes.float() / boxes.new_tensor([width, height, width, height]).float()).tolist()
    return found


def _indexed(mask: Tensor, classes: Sequence[str]) -> Image.Image:
    picture = Image.fromarray(_array(mask).astype(np.uint8), "P")
    picture.putpalette(palette(classes).ravel().tolist())
    return picture


def _hex(number: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour(number))


def _png(picture: Image.Image) -> str:
    return _data(picture, "PNG")


def _data(picture: Image.Image, kind: str, **options: Any) -> str:
    """A picture as the address of itself, so that no file of it is ever served."""
    out = BytesIO()
    picture.save(out, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().numpy()
    return array
