"""Average precision against pycocotools, on random sets with everything that makes it hard."""

import contextlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lightbed.draw.classes import precision_recall
from lightbed.metrics.detection import DetectionScores
from lightbed.types import Prediction, Target

NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
CLASSES = 4  # of which the last never has an object


def filled(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Ellipses in boxes, bool (n, size, size)."""
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=0.1) / 2
    off = [(grid - centre[:, i, None, None]) / half[:, i, None, None] for i, grid in enumerate((x, y))]
    return off[0] ** 2 + off[1] ** 2 <= 1


def scene(
    seed: int, images: int = 6, size: int = 160, most: int = 12, whole: bool = True
) -> tuple[list[Prediction], list[Target]]:
    """Objects of all sizes, crowds among them, images without any, and detections near them; many scores are equal."""
    random = torch.Generator().manual_seed(seed)
    predictions, targets = [], []
    for index in range(images):
        count = int(torch.randint(0, most + 1, (), generator=random)) * (index != 1)
        corner = torch.rand(count, 2, generator=random) * size * 0.8
        # sides of exactly 32 and 96 pixels are the edges of the ranges of areas
        sides = torch.tensor([4.0, 32.0, 32.0, 96.0, 50.0])[torch.randint(0, 5, (count, 1), generator=random)]
        boxes = torch.cat([corner, corner + sides.expand(-1, 2)], 1)
        boxes = (boxes.round() if whole else boxes).clamp(max=size)
        labels = torch.randint(0, CLASSES - 1, (count,), generator=random)
        crowd = torch.rand(count, generator=random) < 0.2
        twice = torch.randint(0, max(count, 1), (2 * count,), generator=random)
        near = boxes[twice] + (torch.randn(2 * count, 4, generator=random) * 4).round()
        stray = torch.rand(3, 2, generator=random) * size * 0.6
        near = torch.cat([near, torch.cat([stray, stray + 20], 1)]).clamp(0, size)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        called = torch.cat([labels[twice], torch.randint(0, CLASSES, (3,), generator=random)])
        wrong = torch.rand(len(called), generator=random) < 0.2
        called = torch.where(wrong, torch.randint(0, CLASSES, called.shape, generator=random), called)
        scores = (torch.rand(len(called), generator=random) * 20).round() / 20
        order = scores.argsort(descending=True, stable=True)
        prediction = Prediction(boxes=near[order], labels=called[order], scores=scores[order])
        target = Target(boxes=boxes, labels=labels, crowd=crowd, index=torch.tensor(index))
        prediction["masks"], target["masks"] = filled(prediction["boxes"], size), filled(boxes, size)
        predictions.append(prediction)
        targets.append(target)
    return predictions, targets


def pycocotools(
    predictions: list[Prediction], targets: list[Target], kind: str, area: str = "area"
) -> tuple[dict[str, float], np.ndarray]:
    """COCO's figures without those that it gives as -1, and the average precision of each class."""
    images, truths, found, other = [], [], [], {"bbox": "segmentation", "segm": "bbox"}
    for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        size = [int(n) for n in target["masks"].shape[1:]] if "masks" in target else [1, 1]
        images.append({"id": number, "height": size[0], "width": size[1]})
        for i in range(len(target["labels"])):
            truths.append(entry(target, i, number) | {"id": len(truths) + 1, "iscrowd": int(target["crowd"][i])})
            if area in target:
                truths[-1]["area"] = float(target[area][i])
            else:
                box = truths[-1]["bbox"]
                own = kind == "bbox" and "masks" not in target
                truths[-1]["area"] = box[2] * box[3] if own else int(target["masks"][i].sum())
        found += [
            entry(prediction, i, number) | {"score": float(prediction["scores"][i])}
            for i in range(len(prediction["scores"]))
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = [{"id": k, "name": str(k)} for k in range(CLASSES)]
        coco.dataset = {"images": images, "annotations": truths, "categories": categories}
        coco.createIndex()
        # a detection's area is that of its box where it has one, also when masks are compared
        found = [{key: value for key, value in each.items() if key != other[kind]} for each in found]
        evaluation = COCOeval(coco, coco.loadRes(found) if found else COCO(), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = {**dict(zip(NAMES, evaluation.stats[:6], strict=True)), "mar_100": evaluation.stats[8]}
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # (T, R, K)
    each = np.array([column[column > -1].mean() if (column > -1).any() else math.nan for column in precision.T])
    return {name: float(value) for name, value in stats.items() if value != -1}, each


def entry(values: Prediction | Target, i: int, image: int) -> dict:
    x, y, right, bottom = values["boxes"][i].double().tolist()
    line = {"image_id": image, "category_id": int(values["labels"][i]), "bbox": [x, y, right - x, bottom - y]}
    if "masks" in values:
        line["segmentation"] = coco_masks.encode(np.asfortranarray(values["masks"][i].numpy().astype(np.uint8)))
    return line


def ours(predictions: list[Prediction], targets: list[Target], batch: int = 2, **options) -> dict[str, float]:
    metric = DetectionScores(CLASSES, **options)
    for start in range(0, len(targets), batch):
        metric.update(predictions[start : start + batch], targets[start : start + batch])
    return {name: float(value) for name, value in metric.compute().items()}


def defined(values: dict[str, float]) -> dict[str, float]:
    """COCO's figures among all."""
    return {name: values[name] for name in (*NAMES, "mar_100") if not math.isnan(values.get(name, math.nan))}


def without_masks(values: list) -> list:
    return [{name: value for name, value in each.items() if name != "masks"} for each in values]


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_boxes_are_those_of_pycocotools(seed: int, whole: bool) -> None:
    predictions, targets = (without_masks(part) for part in scene(seed, whole=whole))
    expected, each = pycocotools(predictions, targets, "bbox")
    found = ours(predictions, targets, classes=[str(k) for k in range(CLASSES)])
    assert defined(found) == pytest.approx(expected, abs=1e-6)
    known = {f"map/{k}": value for k, value in enumerate(each) if not math.isnan(value)}
    assert {name: value for name, value in found.items() if "/" in name} == pytest.approx(known, abs=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
@example(26)
def test_masks_are_those_of_pycocotools(seed: int) -> None:
    predictions, targets = scene(seed, images=4)
    found = ours(predictions, targets, masks=True)
    assert defined(found) == pytest.approx(pycocotools(predictions, targets, "bbox")[0], abs=1e-6)
    masks = {name.removeprefix("mask_"): value for name, value in found.items() if name.startswith("mask_")}
    assert defined(masks) == pytest.approx(pycocotools(predictions, targets, "segm")[0], abs=1e-6)


def test_the_annotations_area_decides_the_size() -> None:
    predictions, targets = scene(3)
    for target in targets:  # a polygon's area, less than its mask's and box's
        target["area"] = (target["boxes"][:, 2] - target["boxes"][:, 0]) ** 2 * 0.5
    expected, _ = pycocotools(predictions, targets, "bbox")
    assert defined(ours(predictions, targets)) == pytest.approx(expected, abs=1e-6)
    assert expected["map_small"] != pytest.approx(ours(predictions, without_masks(without_areas(targets)))["map_small"])


def without_areas(targets: list[Target]) -> list:
    return [{name: value for name, value in target.items() if name != "area"} for target in targets]


def test_of_more_than_100_detections_of_a_class_the_best_count() -> None:
    predictions, targets = (without_masks(part) for part in scene(5, images=2))
    generator = torch.Generator().manual_seed(0)
    more = 130
    boxes = torch.rand(more, 4, generator=generator) * 50
    boxes[:, 2:] += boxes[:, :2] + 1
    scores = torch.rand(more, generator=generator).sort(descending=True).values
    labels = torch.zeros(more, dtype=torch.int64)
    first = Prediction(boxes=torch.cat([boxes, predictions[0]["boxes"]]),
                       labels=torch.cat([labels, predictions[0]["labels"]]),
                       scores=torch.cat([scores, predictions[0]["scores"]]))  # fmt: skip
    expected, _ = pycocotools([first, predictions[1]], targets, "bbox")
    found = ours([first, predictions[1]], targets)
    assert defined(found) == pytest.approx(expected, abs=1e-6)
    assert found["detections"] == (more + sum(len(p["scores"]) for p in predictions)) / 2


def test_nothing_found_and_nothing_there() -> None:
    nothing = Prediction(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0))
    empty = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    found = ours([nothing], [empty], classes=["a", "b", "c", "d"])
    assert {name for name, value in found.items() if math.isnan(value)} == {"map", "map_50", "map_75", "mar_100"}
    zeros = {"precision", "recall", "f1", "detections", "highest_score"}
    assert found.keys() == {"map", "map_50", "map_75", "mar_100", *zeros}
    assert not any(found[name] for name in zeros)
    target = Target(boxes=torch.tensor([[0.0, 0, 8, 8]]), labels=torch.tensor([2]))
    assert ours([nothing], [target])["map"] == 0
    alone = Prediction(boxes=target["boxes"], labels=target["labels"], scores=torch.tensor([0.75]))
    found = ours([alone], [empty])
    assert math.isnan(found["map"])
    assert (found["precision"], found["highest_score"]) == (0, 0.75)


@pytest.mark.parametrize("batch", [1, 3, 6])
def test_batches_do_not_matter(batch: int) -> None:
    predictions, targets = scene(11)
    assert ours(predictions, targets, batch, masks=True) == ours(predictions, targets, 2, masks=True)


def test_the_order_of_the_images_does_not_matter() -> None:
    predictions, targets = scene(12)
    assert ours(predictions[::-1], targets[::-1], 4) == ours(predictions, targets, 1)


def test_a_reset_forgets_everything() -> None:
    predictions, targets = scene(13)
    metric = DetectionScores(CLASSES)
    metric.update(*scene(14))
    metric.compute()
    metric.reset()
    metric.update(predictions, targets)
    assert {name: float(value) for name, value in metric.compute().items()} == ours(predictions, targets)


# -- at one score ------------------------------------------------------------------------------------------------------


def test_scores_at_the_threshold_and_the_confusion_by_hand() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 90, 30]])
    target = Target(boxes=truth, labels=torch.tensor([0, 1, 1, 0]), crowd=torch.tensor([False, False, False, True]))
    boxes = torch.tensor([
        [0.0, 0, 10, 10],  # right
        [0.0, 0, 10, 9],  # the same object again
        [20.0, 0, 30, 10],  # a 1 called 0
        [70.0, 10, 80, 20],  # on the crowd
        [100.0, 0, 110, 10],  # nothing there
        [40.0, 0, 50, 10],  # right, with a low score
    ])  # fmt: skip
    prediction = Prediction(boxes=boxes, labels=torch.tensor([0, 0, 0, 0, 1, 1]),
                            scores=torch.tensor([0.9, 0.8, 0.7, 0.65, 0.6, 0.3]))  # fmt: skip
    metric = DetectionScores(2)
    metric.update([prediction], [target])
    values = metric.compute()
    assert metric.confusion.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    expected = {"precision": 1 / 4, "recall": 1 / 3, "f1": 2 / 7}
    assert {name: float(values[name]) for name in expected} == pytest.approx(expected)
    # F1 of the best alone is 2 / 4, of all 4 / 8: the higher of equal scores is chosen
    assert metric.best_threshold == pytest.approx(0.9)
    metric.threshold = 0.3
    metric.update([], [])
    assert float(metric.compute()["recall"]) == pytest.approx(2 / 3)
    assert metric.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_best_threshold_has_the_highest_f1(seed: int) -> None:
    predictions, targets = (without_masks(part) for part in scene(seed))
    metric = DetectionScores(CLASSES)
    metric.update(predictions, targets)
    metric.compute()
    best = metric.best_threshold

    def f1(threshold: float) -> float:
        metric.threshold = threshold
        metric.update([], [])
        return float(metric.compute()["f1"])

    scores = torch.cat([prediction["scores"] for prediction in predictions]).unique().tolist()
    assert f1(best) == pytest.approx(max(f1(score) for score in scores))


def test_curves_end_at_the_average_precision() -> None:
    predictions, targets = scene(21)
    metric = DetectionScores(CLASSES, masks=True)
    metric.update(predictions, targets)
    values = metric.compute()
    for kind, name in (("boxes", "map_50"), ("masks", "mask_map_50")):
        curve = metric.curves[kind]
        assert curve["precision"].shape == curve["recall"].shape == (CLASSES, 101)
        assert np.isnan(curve["recall"][CLASSES - 1]).all(), "a class without objects has no curve"
        known = curve["average_precision"][:-1]
        assert curve["precision"][:-1].mean(1) == pytest.approx(known)
        assert known.mean() == pytest.approx(float(values[name]), abs=1e-6)


@pytest.mark.parametrize("found", [0, 1, 2, 150])
def test_curves_can_be_drawn_however_little_is_found(found: int) -> None:
    boxes = torch.arange(150)[:, None] * 10.0 + torch.tensor([0.0, 0, 8, 8])
    labels = torch.zeros(150, dtype=torch.int64)
    metric = DetectionScores(2)
    prediction = Prediction(boxes=boxes[:found], labels=labels[:found], scores=torch.full((found,), 0.5))
    metric.update([prediction], [Target(boxes=boxes, labels=labels)])
    metric.compute()
    figure = precision_recall(metric.curves["boxes"], ["a", "b"], "Precision and recall")
    (line,) = figure.axes[0].lines
    highest = float(line.get_xdata().max())
    assert highest == pytest.approx({0: 1.0, 1: 1.0, 2: 0.01, 150: 0.66}[found]), "at most 100 of a class count"


# -- two processes -----------------------------------------------------------------------------------------------------

_PROCESS = """
import json, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[4])
from test_detection_scores import CLASSES, scene
from lightbed.draw.classes import precision_recall
from lightbed.metrics.detection import DetectionScores

rank, images = int(sys.argv[1]), int(sys.argv[2])
store = f"file://{sys.argv[3]}"
torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
predictions, targets = scene(7, images=images)
metric = DetectionScores(CLASSES, masks=True)
metric.update(predictions[rank::2], targets[rank::2]) if len(targets) > rank else None
values = {name: float(value) for name, value in metric.compute().items()}
values["best"], values["confusion"] = metric.best_threshold, metric.confusion.tolist()
print(json.dumps(values))
"""


@pytest.mark.slow
@pytest.mark.parametrize("images", [5, 1])  # with one image a process has none
def test_two_processes_have_the_values_of_one(tmp_path: Path, images: int) -> None:
    words = [str(images), str(tmp_path / "store"), str(Path(__file__).parent)]
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, str(rank), *words], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in processes]
    metric = DetectionScores(CLASSES, masks=True)
    metric.update(*scene(7, images=images))
    expected = {name: float(value) for name, value in metric.compute().items()}
    expected |= {"best": metric.best_threshold, "confusion": metric.confusion.tolist()}
    assert found == [expected, expected]
