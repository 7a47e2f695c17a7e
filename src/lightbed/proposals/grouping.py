"""Selective search in NumPy and Python: slow, for small images where OpenCV's is not installed.

A graph of the pixels is cut into regions (Felzenszwalb, Huttenlocher 2004), the most similar neighbours are joined
until one region is left, and the box around each region that ever was is a proposal (Uijlings et al. 2013). The
similarity is that of the paper: colour, texture, size, and how well two regions fill their common box. Colours are RGB,
and textures histograms of gradients in four directions, where the paper has several colour spaces and eight.
"""

import heapq
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]  # scipy ships no types

_BINS, _TEXTURES, _DIRECTIONS = 25, 10, 4  # histogram bins of a colour channel, of a direction; directions


class Regions(NamedTuple):
    """What is known of n regions; rows are appended as regions are joined."""

    sizes: list[int]  # pixels
    boxes: list[tuple[int, int, int, int]]  # xyxy, the right and lower edge outside
    histograms: list[np.ndarray]  # float64, of colour and texture, each of the two summing to 1


def search(image: np.ndarray, scale: float, sigma: float) -> np.ndarray:
    """Boxes int64 (n, 4), xyxy, of all regions of an image uint8 (H, W, 3), segmented at `scale` and twice that.

    Args:
        image: RGB.
        scale: the larger, the larger are the regions that it begins with.
        sigma: in pixels, of the Gaussian that smooths the image first.
    """
    smooth = gaussian_filter(image.astype(np.float64), (sigma, sigma, 0))
    found = [join(segment(smooth, factor * scale), image) for factor in (1, 2)]
    boxes: np.ndarray = np.unique(np.concatenate(found), axis=0)
    return boxes


def segment(image: np.ndarray, scale: float) -> np.ndarray:
    """Regions of an image (H, W, C), int64 (H, W) from 0 on, by Felzenszwalb and Huttenlocher.

    Two regions are one where the edge between them is no stronger than the strongest edge inside each, plus `scale`
    over its size. Regions of less than `scale` / 4 pixels then join their nearest neighbour.
    """
    height, width = image.shape[:2]
    numbers = np.arange(height * width).reshape(height, width)
    pairs = [
        (numbers[:, :-1], numbers[:, 1:], image[:, :-1], image[:, 1:]),
        (numbers[:-1], numbers[1:], image[:-1], image[1:]),
        (numbers[:-1, :-1], numbers[1:, 1:], image[:-1, :-1], image[1:, 1:]),
        (numbers[:-1, 1:], numbers[1:, :-1], image[:-1, 1:], image[1:, :-1]),
    ]
    weights = np.concatenate([np.sqrt(((a - b) ** 2).sum(-1)).ravel() for _, _, a, b in pairs])
    order = np.argsort(weights, kind="stable")
    firsts = np.concatenate([pair[0].ravel() for pair in pairs])[order].tolist()
    seconds = np.concatenate([pair[1].ravel() for pair in pairs])[order].tolist()
    parent, size, inside = list(range(height * width)), [1] * (height * width), [0.0] * (height * width)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for least in (0.0, scale / 4):  # the second time, small ones join without a condition
        for first, second, weight in zip(firsts, seconds, weights[order].tolist(), strict=True):
            a, b = root(first), root(second)
            if a == b:
                continue
            alike = weight <= min(inside[a] + scale / size[a], inside[b] + scale / size[b])
            if alike if not least else min(size[a], size[b]) < least:
                parent[b] = a
                size[a] += size[b]
                inside[a] = weight
    roots = np.array([root(i) for i in range(height * width)])
    return np.unique(roots, return_inverse=True)[1].reshape(height, width)


def join(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Boxes int64 (2n - 1, 4) of n regions and of all that come about as the most similar neighbours are joined.

    Args:
        labels: int64 (H, W), regions from 0 on.
        image: uint8 (H, W, 3).
    """
    regions = describe(labels, image)
    whole = labels.size
    neighbours: list[set[int]] = [set() for _ in regions.sizes]
    for a, b in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        for i, j in np.unique(np.stack([a[a != b], b[a != b]], 1), axis=0).tolist():
            neighbours[i].add(j)
            neighbours[j].add(i)
    queue = [(-similarity(regions, i, j, whole), i, j) for i, near in enumerate(neighbours) for j in near if i < j]
    heapq.heapify(queue)
    gone: set[int] = set()
    while queue:
        _, i, j = heapq.heappop(queue)
        if i in gone or j in gone:
            continue
        gone |= {i, j}
        new = _append(regions, i, j)
        neighbours.append((neighbours[i] | neighbours[j]) - gone)
        for near in neighbours[new]:
            neighbours[near].add(new)
            heapq.heappush(queue, (-similarity(regions, near, new, whole), near, new))
    return np.array(regions.boxes, np.int64)


def similarity(regions: Regions, i: int, j: int, whole: int) -> float:
    """How alike two regions of an image of `whole` pixels are, 0..4: the sum of the paper's four measures."""
    both = _around(regions.boxes[i], regions.boxes[j])
    area = (both[2] - both[0]) * (both[3] - both[1])
    sizes = regions.sizes[i] + regions.sizes[j]
    alike = float(np.minimum(regions.histograms[i], regions.histograms[j]).sum())  # colour and texture
    return alike + (1 - sizes / whole) + (1 - (area - sizes) / whole)


def describe(labels: np.ndarray, image: np.ndarray) -> Regions:
    """Size, box and histograms of each region."""
    count = int(labels.max()) + 1
    pixels = image.astype(np.float64)
    colours = _histograms(labels, np.minimum(pixels * _BINS / 256, _BINS - 1).astype(int), _BINS)
    down, right = (np.diff(pixels, axis=axis, append=pixels.take([-1], axis)) for axis in (0, 1))
    turns = [right, down, (right + down) / 2, (right - down) / 2][:_DIRECTIONS]
    edges = np.concatenate(turns, axis=-1)
    textures = _histograms(labels, np.clip((edges + 64) * _TEXTURES / 128, 0, _TEXTURES - 1).astype(int), _TEXTURES)
    rows, columns = np.indices(labels.shape)
    ends = []
    for places in (columns, rows):
        low, high = np.full(count, labels.size), np.zeros(count, int)
        np.minimum.at(low, labels, places)
        np.maximum.at(high, labels, places + 1)
        ends.append((low, high))
    boxes = np.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], 1).tolist()
    sizes = np.bincount(labels.ravel(), minlength=count).tolist()
    return Regions(sizes, [(a, b, c, d) for a, b, c, d in boxes], list(np.concatenate([colours, textures], 1)))


def _histograms(labels: np.ndarray, bins: np.ndarray, count: int) -> np.ndarray:
    """Of each region, the share of each bin in each channel of `bins` (H, W, C), (n, C * count); rows sum to 1."""
    regions, channels = int(labels.max()) + 1, bins.shape[-1]
    places = (labels[..., None] * channels + np.arange(channels)) * count + bins
    counts = np.bincount(places.ravel(), minlength=regions * channels * count).reshape(regions, -1).astype(float)
    shares: np.ndarray = counts / counts.sum(1, keepdims=True)
    return shares


def _append(regions: Regions, i: int, j: int) -> int:
    """Add what becomes of regions i and j; returns its number."""
    a, b = regions.sizes[i], regions.sizes[j]
    regions.histograms.append((a * regions.histograms[i] + b * regions.histograms[j]) / (a + b))
    regions.boxes.append(_around(regions.boxes[i], regions.boxes[j]))
    regions.sizes.append(a + b)
    return len(regions.sizes) - 1


def _around(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
