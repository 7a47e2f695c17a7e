"""Average precision of boxes and masks against pycocotools, from the tensors of a detector to the figures."""

import contextlib
import io
import time
from statistics import median

import numpy as np
import torch
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.paired import Row, Setting
from lightbed.metrics.detection import DetectionScores
from lightbed.types import Prediction, Target

CLASSES, DETECTIONS, OBJECTS = 80, 100, 8
FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
_STATS = (0, 1, 2, 3, 4, 5, 8)  # where pycocotools has them

Scenes = tuple[list[Prediction], list[Target]]


def boxes(setting: Setting) -> list[Row]:
    """1,000 images of 100 boxes each, in 80 classes."""
    what = f"COCO evaluation of boxes, 1,000 images x {DETECTIONS} detections x {CLASSES} classes"
    return [compare(setting, scenes(1000, 640, masks=False), what, goal=5)]


def masks(setting: Setting) -> list[Row]:
    """200 images of 100 masks of 256x256 each, in 80 classes: boxes and masks are evaluated."""
    what = f"COCO evaluation of boxes and masks 256x256, 200 images x {DETECTIONS} detections x {CLASSES} classes"
    return [compare(setting, scenes(200, 256, masks=True), what, goal=2)]


def compare(setting: Setting, given: Scenes, what: str, goal: int, rounds: int = 3) -> Row:
    """Both on the same images in turn; pycocotools encodes masks and gets Python's lists, as it wants them."""
    torch.set_num_threads(setting.threads)
    pairs, apart = [], 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        ours = lightbed(*given)
        between = time.perf_counter()
        theirs = pycocotools(*given)
        pairs.append((time.perf_counter() - between, between - start))
        apart = max(abs(ours[name] - theirs[name]) for name in theirs)
    times = median(theirs / ours for theirs, ours in pairs)
    seconds = [median(column) for column in zip(*pairs, strict=True)]
    measured = f"{times:.1f} x: {seconds[0]:.2f} to {seconds[1]:.2f} s; largest difference {apart:.0e}"
    return Row(what, measured, f">= {goal} x, equal to 1e-6", times >= goal and apart <= 1e-6)


def scenes(images: int, size: int, *, masks: bool) -> Scenes:
    """Objects of all sizes, detections on and beside them, of the right class more often than not."""
    random = torch.Generator().manual_seed(0)
    predictions, targets = [], []
    for index in range(images):
        truth = drawn(random, OBJECTS, size)
        labels = torch.randint(CLASSES, (OBJECTS,), generator=random)
        copied = torch.randint(OBJECTS, (DETECTIONS // 2,), generator=random)
        sides = (truth[copied, 2:] - truth[copied, :2]).repeat(1, 2)
        moved = truth[copied] + torch.randn(len(copied), 4, generator=random) * 0.08 * sides
        near = torch.cat([moved, drawn(random, DETECTIONS - len(copied), size)]).clamp(0, size)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        called = torch.randint(CLASSES, (DETECTIONS,), generator=random)
        right = torch.rand(len(copied), generator=random) < 0.7
        called[: len(copied)] = torch.where(right, labels[copied], called[: len(copied)])
        scores = torch.rand(DETECTIONS, generator=random).sort(descending=True).values
        order = torch.randperm(DETECTIONS, generator=random)
        prediction = Prediction(boxes=near[order], labels=called[order], scores=scores)
        target = Target(boxes=truth, labels=labels, index=torch.tensor(index))
        if masks:
            prediction["masks"], target["masks"] = ellipses(prediction["boxes"], size), ellipses(truth, size)
        predictions.append(prediction)
        targets.append(target)
    return predictions, targets


def drawn(random: torch.Generator, count: int, size: int) -> torch.Tensor:
    """Boxes with sides from a 32nd to half of the image's."""
    sides = (
        size
        * 2 ** (-5 + 4 * torch.rand(count, 1, generator=random))
        * (0.7 + 0.6 * torch.rand(count, 2, generator=random))
    )
    corner = torch.rand(count, 2, generator=random) * (size - sides).clamp(min=0)
    return torch.cat([corner, corner + sides], 1)


def ellipses(inside: torch.Tensor, size: int) -> torch.Tensor:
    """An ellipse in each box, bool (n, size, size)."""
    grid = torch.arange(size) + 0.5
    centre, half = (inside[:, :2] + inside[:, 2:]) / 2, (inside[:, 2:] - inside[:, :2]) / 2
    off = [((grid - centre[:, i, None]) / half[:, i, None]) ** 2 for i in (0, 1)]
    return off[1][:, :, None] + off[0][:, None, :] <= 1


def lightbed(predictions: list[Prediction], targets: list[Target], batch: int = 2) -> dict[str, float]:
    metric = DetectionScores(CLASSES, masks="masks" in targets[0])
    for start in range(0, len(targets), batch):
        metric.update(predictions[start : start + batch], targets[start : start + batch])
    return {name: float(value) for name, value in metric.compute().items()}


def pycocotools(predictions: list[Prediction], targets: list[Target]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        found = [line for index, values in enumerate(predictions) for line in lines(values, index)]
        truth = [line for index, values in enumerate(targets) for line in lines(values, index)]
        for number, line in enumerate(truth):
            line |= {"id": number + 1, "iscrowd": 0}
        coco = COCO()
        names = [{"id": k, "name": str(k)} for k in range(CLASSES)]
        height, width = targets[0]["masks"].shape[1:] if "masks" in targets[0] else (0, 0)
        images = [{"id": i, "height": height, "width": width} for i in range(len(targets))]
        coco.dataset = {"images": images, "annotations": truth, "categories": names}
        coco.createIndex()
        values = figures(coco, found, "bbox")
        if "masks" in targets[0]:
            for line in found:
                del line["bbox"]  # else the detections' areas would be those of their boxes
            values |= {f"mask_{name}": value for name, value in figures(coco, found, "segm").items()}
    return values


def lines(values: Prediction | Target, index: int) -> list[dict]:
    """Annotations or results of one image."""
    sides = values["boxes"].double()
    sides[:, 2:] -= sides[:, :2]
    found = [
        {"image_id": index, "category_id": label, "bbox": box, "area": box[2] * box[3]}
        for box, label in zip(sides.tolist(), values["labels"].tolist(), strict=True)
    ]
    if "scores" in values:
        for line, score in zip(found, values["scores"].tolist(), strict=True):
            line["score"] = score
    if "masks" in values:
        encoded = coco_masks.encode(np.asfortranarray(values["masks"].permute(1, 2, 0).numpy().view(np.uint8)))
        for line, mask in zip(found, encoded, strict=True):
            line |= {"segmentation": mask, "area": float(coco_masks.area(mask))}
    return found


def figures(coco: COCO, found: list[dict], kind: str) -> dict[str, float]:
    evaluation = COCOeval(coco, coco.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: float(evaluation.stats[place]) for name, place in zip(FIGURES, _STATS, strict=True)}
