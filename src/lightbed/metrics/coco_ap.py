"""COCO's average precision of boxes and masks in plain numpy, equal to pycocotools (T.-Y. Lin et al., arXiv 1405.0312).

pycocotools compares one image, class, threshold and range of areas after another. Here an image's detections are
matched at all thresholds and ranges at once, as soon as they are known, so that only the verdicts are kept: masks are
forgotten with their batch.
"""

import math
from collections.abc import Mapping

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)  # float64: a float32 threshold decides some cases otherwise
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # pixels: all, small, medium, large
MOST = 100  # detections of one class in one image
WRONG, RIGHT, IGNORED = 0, 1, 2
NOTHING, CROWD = -1, -2  # what a detection shows that shows no object

# -- overlap -----------------------------------------------------------------------------------------------------------


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas float64 (n,) of boxes xyxy (n, 4)."""
    areas: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def box_ious(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union float64 (n, m) of boxes xyxy float64 (n, 4) and (m, 4).

    Over the detection's own area where the truth is a crowd, bool (m,).
    """
    sides = np.minimum(found[:, None, 2:], truth[None, :, 2:]) - np.maximum(found[:, None, :2], truth[None, :, :2])
    both = np.where((sides > 0).all(2), sides.prod(2), 0.0)  # (n, m)
    return _over_union(both, box_areas(found), box_areas(truth), crowd)


def packed(masks: np.ndarray) -> np.ndarray:
    """Masks bool (n, H, W) with 64 pixels in each uint64 (n, ceil(H * W / 64))."""
    bits = np.packbits(masks.reshape(len(masks), math.prod(masks.shape[1:])), axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def mask_areas(bits: np.ndarray) -> np.ndarray:
    """Pixels float64 (n,) of packed masks."""
    areas: np.ndarray = np.bitwise_count(bits).sum(1, dtype=np.float64)
    return areas


def mask_ious(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Intersection over union float64 (n, m) of packed masks; 0 for those that are not among `pairs`, bool (n, m)."""
    both = np.zeros(pairs.shape)
    for j in np.flatnonzero(pairs.any(0)):
        rows = np.flatnonzero(pairs[:, j])
        there = np.flatnonzero(truth[j])  # the words in which the object has pixels
        both[rows, j] = mask_areas(found[rows[:, None], there] & truth[j, there])
    return _over_union(both, mask_areas(found), mask_areas(truth), crowd)


def _over_union(both: np.ndarray, found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    union = np.where(crowd, found[:, None], found[:, None] + truth - both)
    ious: np.ndarray = np.divide(both, union, out=np.zeros_like(both), where=both > 0)
    return ious


# -- one image ---------------------------------------------------------------------------------------------------------


def out_of_range(areas: np.ndarray) -> np.ndarray:
    """Whether areas (n,) lie outside of each of `AREAS`, bool (n, 4)."""
    low, high = np.array(AREAS).T
    out: np.ndarray = (areas[:, None] < low) | (areas[:, None] > high)
    return out


def judge(ious: np.ndarray, labels: np.ndarray, crowd: np.ndarray, ignored: np.ndarray, out: np.ndarray) -> np.ndarray:
    """WRONG, RIGHT or IGNORED for each detection of an image, range of areas and threshold: uint8 (n, 4, 10).

    The best detection takes the truth that it overlaps most. One that takes an ignored truth is ignored, and so is one
    of an area out of range that takes nothing; any number of detections may lie on a crowd.

    Args:
        ious: (n, m), detections from the best to the last; 0 where the classes differ.
        labels: class of each detection (n,).
        crowd: which truths are crowds, bool (m,).
        ignored: which truths do not count, in each range of areas: bool (m, 4); crowds never do.
        out: whether each detection is out of range, bool (n, 4).
    """
    found = np.where(out[:, :, None], IGNORED, WRONG).astype(np.uint8).repeat(len(IOUS), axis=2)
    # among equals pycocotools takes the last, argmax the first
    ious, crowd, ignored = ious[:, ::-1], crowd[::-1], ignored[::-1].T[:, None, :]  # (n, m), (m,), (4, 1, m)
    least = np.minimum(IOUS, 1 - 1e-10)[:, None]
    free = np.ones((len(AREAS), len(IOUS), len(crowd)), bool)
    near = np.flatnonzero((ious >= IOUS[0]).any(1))  # the rest takes nothing
    for rows in rounds(labels[near]):
        chosen = near[rows]  # one of each class, so that no two want the same truth
        overlap = ious[chosen][:, None, None, :]
        allowed = (overlap >= least) & (free | crowd)  # (d, 4, 10, m)
        # a truth that counts comes before any that does not
        worth = np.where(allowed, overlap - 2.0 * ignored, -9.0)
        taken = worth.argmax(3)
        d, a, t = np.nonzero(allowed.any(3))
        m = taken[d, a, t]
        found[chosen[d], a, t] = np.where(ignored[a, 0, m], IGNORED, RIGHT)
        free[a, t, m] = False
    return found


def rounds(labels: np.ndarray) -> list[np.ndarray]:
    """Positions in `labels`: the first of each class, then the second of each, and so on."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])  # where each class begins
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - starts
    return [np.flatnonzero(rank == r) for r in range(rank.max(initial=-1) + 1)]


def shown(ious: np.ndarray, labels: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """The class of the object that each detection shows, whatever it calls it: int64 (n,); else NOTHING or CROWD.

    From the best detection on, each takes an object not yet taken that it overlaps by 0.5 at least: one of its own
    class if it can, else the one it overlaps most. What the better ones take does not depend on those after them.

    Args:
        ious: (n, m) of all classes, detections from the best to the last.
        labels: class of each detection (n,).
        truth: class of each truth (m,).
        crowd: which truths are crowds, bool (m,).
    """
    found = np.full(len(labels), NOTHING)
    own = labels[:, None] == truth  # (n, m)
    near = ious >= IOUS[0]
    found[(near & own & crowd).any(1)] = CROWD
    near &= ~crowd
    worth = ious + 2.0 * own
    for i in np.flatnonzero(near.any(1)):
        if near[i].any():
            j = int(np.where(near[i], worth[i], -1.0).argmax())
            found[i] = truth[j]
            near[:, j] = False
    return found


# -- all images --------------------------------------------------------------------------------------------------------


def average_precision(labels: np.ndarray, verdicts: np.ndarray, truths: np.ndarray) -> dict[str, np.ndarray]:
    """Average precision and recall of each class, range of areas and threshold; NaN where there is no truth.

    Args:
        labels: class of each detection (n,), from the best to the last of all images.
        verdicts: of `judge`, uint8 (n, 4, 10).
        truths: number of truths that count, of each class and range of areas: int64 (K, 4).

    Returns:
        `precision` and `recall` float64 (K, 4, 10), and `curve` float64 (K, 101): precision at IoU 0.5 that is reached
        at each of `RECALLS` or beyond.
    """
    shape = (len(truths), len(AREAS), len(IOUS))
    precision, recall, curve = np.full(shape, np.nan), np.full(shape, np.nan), np.full((shape[0], 101), np.nan)
    for k in np.flatnonzero(truths[:, 0]):
        own = verdicts[labels == k]  # (d, 4, 10)
        right, wrong = (own == RIGHT).cumsum(0), (own == WRONG).cumsum(0)
        for a in np.flatnonzero(truths[k]):
            reached = right[:, a] / truths[k, a]  # (d, 10)
            # as pycocotools has it: the smallest float64 keeps 0 / 0 away
            exact = right[:, a] / (right[:, a] + wrong[:, a] + np.spacing(1))
            best = np.maximum.accumulate(exact[::-1])[::-1]  # of this recall or a higher one
            points = np.stack([_at_recalls(best[:, t], reached[:, t]) for t in range(len(IOUS))])
            precision[k, a], recall[k, a] = points.mean(1), reached[-1] if len(own) else 0.0
            if a == 0:
                curve[k] = points[0]
    return {"precision": precision, "recall": recall, "curve": curve}


def _at_recalls(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Precision at each of `RECALLS`, 0 where it is never reached."""
    place = np.searchsorted(recall, RECALLS, side="left")
    return np.append(precision, 0.0)[place]


SUMMARY = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")


def summary(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """COCO's figures of `average_precision`, over the classes that have truth: NaN where none has.

    `map` is the mean over IoU 0.5 to 0.95, `map_50` and `map_75` at one IoU, `map_small`, `map_medium`, `map_large` by
    the truth's area, `mar_100` the mean recall.
    """
    precision, recall = values["precision"], values["recall"]
    parts = {
        "map": precision[:, 0],
        "map_50": precision[:, 0, 0],
        "map_75": precision[:, 0, 5],
        "map_small": precision[:, 1],
        "map_medium": precision[:, 2],
        "map_large": precision[:, 3],
        "mar_100": recall[:, 0],
    }
    return {name: _mean(part) for name, part in parts.items()}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def best_f1(scores: np.ndarray, verdicts: np.ndarray, truths: int) -> float | None:
    """The score from which on calling detections gives the highest F1, the highest of equals; None where none is right.

    Args:
        scores: from the best to the last of all images (n,).
        verdicts: at one IoU, uint8 (n,).
        truths: number of truths.
    """
    right, wrong = (verdicts == RIGHT).cumsum(), (verdicts == WRONG).cumsum()
    last = np.append(scores[1:] != scores[:-1], True) if len(scores) else np.zeros(0, bool)  # of detections alike
    f1 = np.where(last, 2 * right / np.maximum(right + wrong + truths, 1), 0.0)
    return float(scores[f1.argmax()]) if f1.any() else None
