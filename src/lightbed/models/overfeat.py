"""OverFeat: a classifier of patches slid over an image in one pass, a box from every window, boxes merged by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from lightbed.errors import UserError
from lightbed.metrics.coco_ap import box_ious
from lightbed.models.pyramid import Sizes, at_most_100

_MERGED = 1000  # windows of a class and image whose boxes are merged, the best: an untrained network likes all of them
_HARD = 3  # windows of background that are learnt, for each window with an object


def convolutional(layers: nn.Sequential, shape: tuple[int, int, int]) -> nn.Sequential:
    """A patch classifier's last layers as convolutions, with the same weights.

    A `Linear` on the flattened features of a window is a convolution whose kernel is as large as those features; one on
    its outputs is a convolution 1x1. On the features of a larger image the layers then give a map (N, K, R, C), each
    place of which is what the classifier says of the window there.

    Args:
        layers: `Flatten`, `Linear` and what has no weights (ReLU, Dropout), in any order that fits together.
        shape: (C, h, w) of a window's features.

    Raises:
        UserError: there is a layer of another kind.
    """
    made: list[nn.Module] = []
    channels, height, width = shape
    for layer in layers:
        if isinstance(layer, nn.Flatten):
            continue
        if not isinstance(layer, nn.Linear):
            if next(layer.parameters(), None) is not None:
                raise UserError(f"a {type(layer).__name__} among a patch classifier's last layers cannot be slid")
            made.append(layer)
            continue
        conv = nn.Conv2d(channels, layer.out_features, (height, width), bias=layer.bias is not None)
        with torch.no_grad():
            conv.weight.copy_(layer.weight.view_as(conv.weight))
            if conv.bias is not None:
                conv.bias.copy_(layer.bias)
        made.append(conv)
        channels, height, width = layer.out_features, 1, 1
    return nn.Sequential(*made)


def merge(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Windows' boxes of one class merged greedily (Sermanet et al. 2013, section 4.3): nothing is suppressed.

    The two boxes that match best become their mean, until none match: they differ by the distance of their centres over
    their mean side, plus 1 - IoU. The paper adds distance and area of intersection, in units that it does not say, and
    takes a plain mean; here each box counts as much as the scores that have gone into it. A merged box has the sum s of
    its windows' scores, told as 1 - exp(-s), so that boxes on which many windows agree come first.

    Args:
        boxes: float64 (n, 4), xyxy.
        scores: float64 (n,), probabilities.
        threshold: two boxes that differ by less are merged; at 0 none are.

    Returns:
        Boxes (m, 4) and scores (m,) in 0..1, the best first.
    """
    boxes, weights = boxes.astype(np.float64), scores.astype(np.float64)
    alive = np.ones(len(boxes), bool)
    differ = _differences(boxes, boxes)
    np.fill_diagonal(differ, np.inf)
    nearest = differ.argmin(1) if len(boxes) else np.zeros(0, np.int64)
    least = np.take_along_axis(differ, nearest[:, None], 1)[:, 0]
    while alive.sum() > 1:
        first = int(least.argmin())
        second = int(nearest[first])
        if least[first] >= threshold:
            break
        pair = [first, second]
        boxes[first] = np.average(boxes[pair], axis=0, weights=weights[pair])
        weights[first] = weights[pair].sum()
        alive[second] = False
        # only what concerns the two has changed: else hundreds of windows would take seconds
        own = np.where(alive, _differences(boxes[first : first + 1], boxes)[0], np.inf)
        own[first] = np.inf
        differ[first], differ[:, first], differ[second], differ[:, second] = own, own, np.inf, np.inf
        stale = np.isin(nearest, pair) | (own <= least)
        stale[pair] = True
        nearest[stale] = differ[stale].argmin(1)
        least[stale] = np.take_along_axis(differ[stale], nearest[stale][:, None], 1)[:, 0]
    boxes, weights = boxes[alive], weights[alive]
    order = np.argsort(-weights, kind="stable")
    return boxes[order], 1 - np.exp(-weights[order])


def _differences(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much boxes (n, 4) differ from others (m, 4): (n, m)."""
    centres, sides = zip(*(((boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).mean(1))
                           for boxes in (some, others)), strict=True)  # fmt: skip
    apart = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2)
    side = (sides[0][:, None] + sides[1][None]) / 2
    ious = box_ious(some, others, np.zeros(len(others), bool))
    return np.asarray(apart / np.maximum(side, 1e-9) + 1 - ious)


class OverFeat(nn.Module):
    """A detector after OverFeat (Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun 2013, arXiv:1312.6229).

    A small classifier of square patches, without padding in any layer: two convolutions 3x3 a stage, halved between
    stages, then two `Linear` layers, which are convolutions here (see `convolutional`). At every window of the image it
    gives K + 1 class scores, background first, and four corrections: the box's edges from the window's upper left
    corner, in window sides. Differences from the paper: classes and boxes are learnt together and on all windows of an
    image at once, boxes are of any class, and the image is seen at one scale.

    It is torchvision's kind of detector: in training it takes images and targets, whose labels begin at 1, and gives
    losses by name; in evaluation boxes, labels and scores, and `score_map` float32 (H, W), the best class's probability
    around each pixel.

    Args:
        num_classes: K, without background.
        in_channels: C of the images.
        channels: of each stage.
        grid: side of a window's features before the linear layers; with 3 stages a window has 4 * grid + 28 pixels.
        hidden: width of the first linear layer.
        margin: pixels around the image, repeated from its border, so that windows are centred on what lies there.
        reach: an object belongs to the windows whose centres are so many steps from its own; up to twice as far away
            a window is neither object nor background.
        box_weight: of the boxes' squared error in the loss.
        score_thresh: least probability of a window that gives a box; of each class the 1000 best do.
        merge_thresh: see `merge`.
        detections_per_img: the best ones, at most 100; 1 is localization.

    Raises:
        UserError: the arguments contradict each other, or an image is smaller than a window.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        channels: Sequence[int] = (16, 32, 64),
        grid: int = 1,
        hidden: int = 128,
        margin: int = 8,
        reach: float = 1.0,
        box_weight: float = 5.0,
        score_thresh: float = 0.3,
        merge_thresh: float = 0.8,
        detections_per_img: int = 100,
    ) -> None:
        super().__init__()
        at_most_100(detections_per_img, "detections_per_img")
        if reach < 0.5 or margin < 0 or grid < 1:
            raise UserError(f"model.reach={reach}, margin={margin}, grid={grid}: at least 0.5, 0 and 1 are needed")
        self.num_classes, self.margin, self.reach, self.box_weight = num_classes, margin, reach, box_weight
        self.score_thresh, self.merge_thresh, self.most = score_thresh, merge_thresh, detections_per_img
        self.transform = Sizes(None, size_divisible=1)
        self.backbone = patch_features(in_channels, channels)
        self.stride = 2 ** (len(channels) - 1)
        self.window = grid
        for i in range(len(channels)):
            self.window = (self.window * 2 if i else self.window) + 4
        last = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * grid**2, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes + 1 + 4),
        )
        self.head = convolutional(last, (channels[-1], grid, grid))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Images (C, h, w) -> losses in training, else a dict of boxes, labels, scores and score map for each."""
        batch, _ = self.transform(images, None)
        logits, corrections = self.maps(batch.tensors)
        if self.training:
            return self._losses(logits, corrections, targets or [])
        return self._detections(batch, logits.softmax(1), corrections)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) -> class scores (N, K + 1, R, C) and box corrections (N, 4, R, C) of all windows."""
        padded = F.pad(images, [self.margin] * 4, mode="replicate") if self.margin else images
        if min(padded.shape[-2:]) < self.window:
            size = "x".join(str(side) for side in images.shape[-2:])
            raise UserError(f"an image of {size} is smaller than a window of {self.window} pixels: set data.image_size")
        found = self.head(self.backbone(padded))
        return found[:, : self.num_classes + 1], found[:, self.num_classes + 1 :]

    def corners(self, rows: int, columns: int, device: torch.device | None = None) -> Tensor:
        """Upper left corners (x, y) of the windows in pixels of the image, float32 (R, C, 2)."""
        y = torch.arange(rows, device=device, dtype=torch.float32) * self.stride - self.margin
        x = torch.arange(columns, device=device, dtype=torch.float32) * self.stride - self.margin
        return torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=2)

    # -- training ------------------------------------------------------------------------------------------------------

    def assign(self, boxes: Tensor, labels: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """What the windows show: labels int64 (R, C), 0 background, -1 neither; and the object of each, int64 (R, C).

        The window nearest to an object is always its own: centres beyond the outermost windows count as theirs.
        """
        centres = self.corners(rows, columns, boxes.device) + self.window / 2
        if not len(boxes):
            none = torch.zeros(rows, columns, dtype=torch.int64, device=boxes.device)
            return none, none
        objects = torch.minimum(torch.maximum((boxes[:, :2] + boxes[:, 2:]) / 2, centres[0, 0]), centres[-1, -1])
        steps = (objects[:, None, None] - centres).abs().amax(3) / self.stride  # (n, R, C)
        nearest, which = steps.min(0)
        shown = torch.where(nearest <= self.reach, labels[which], torch.where(nearest <= 2 * self.reach, -1, 0))
        return shown, which

    def _losses(self, logits: Tensor, corrections: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        rows, columns = logits.shape[-2:]
        corners = self.corners(rows, columns, logits.device).repeat(1, 1, 2)
        labels, errors = [], []
        for found, target in zip(corrections, targets, strict=True):
            shown, which = self.assign(target["boxes"], target["labels"], rows, columns)
            labels.append(shown)
            if len(target["boxes"]):
                wanted = (target["boxes"][which] - corners) / self.window  # (R, C, 4)
                errors.append((found.permute(1, 2, 0) - wanted).square().mean(2)[shown > 0])
        truth = torch.stack(labels)  # (N, R, C)
        each = F.cross_entropy(logits, truth.clamp(min=0), reduction="none")
        objects, background = each[truth > 0], each[truth == 0]
        hard = background.sort(descending=True).values[: _HARD * max(len(objects), len(targets))]
        chosen = torch.cat([objects, hard])
        boxes = torch.cat(errors) if errors else chosen.new_zeros(0)
        return {
            "loss_classifier": chosen.sum() / max(len(chosen), 1),
            "loss_box": self.box_weight * boxes.sum() / max(len(boxes), 1),
        }

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _detections(self, batch: ImageList, scores: Tensor, corrections: Tensor) -> list[dict[str, Tensor]]:
        rows, columns = scores.shape[-2:]
        corners = self.corners(rows, columns, scores.device).repeat(1, 1, 2).permute(2, 0, 1)
        boxes = corrections * self.window + corners  # (N, 4, R, C)
        found = []
        for score, box, size in zip(scores[:, 1:], boxes, batch.image_sizes, strict=True):
            one = self._merged(
                score.detach().flatten(1).double().cpu().numpy(), box.detach().flatten(1).T.double().cpu().numpy(), size
            )
            one = {name: value.to(scores.device) for name, value in one.items()}
            found.append({**one, "score_map": self._score_map(score.amax(0), size)})
        return found

    def _merged(self, scores: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> dict[str, Tensor]:
        """Boxes, labels and scores of one image, from scores (K, windows) and boxes (windows, 4)."""
        limits = np.array([size[1], size[0], size[1], size[0]])
        boxes = np.clip(boxes, 0, limits)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        parts = []
        for label, row in enumerate(scores, 1):
            chosen = np.flatnonzero((row >= self.score_thresh) & inside)
            chosen = chosen[np.argsort(-row[chosen], kind="stable")[:_MERGED]]
            merged, sums = merge(boxes[chosen], row[chosen], self.merge_thresh)
            parts += [(score, label, box) for box, score in zip(merged, sums, strict=True)]
        best = sorted(parts, key=lambda part: -part[0])[: self.most]
        return {
            "boxes": torch.tensor(np.array([box for _, _, box in best]).reshape(-1, 4), dtype=torch.float32),
            "labels": torch.tensor([label for _, label, _ in best], dtype=torch.int64),
            "scores": torch.tensor([score for score, _, _ in best], dtype=torch.float32),
        }

    def _score_map(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores of windows (R, C) at the places of their centres, float32 (H, W): each pixel has the nearest one's."""
        first = self.window / 2 - self.margin
        places = [
            ((torch.arange(side, device=scores.device) + 0.5 - first) / self.stride).round().long().clamp(0, count - 1)
            for side, count in zip(size, scores.shape, strict=True)
        ]
        return scores[places[0][:, None], places[1]].float()


def patch_features(in_channels: int, channels: Sequence[int]) -> nn.Sequential:
    """Two convolutions 3x3 a stage with batch norm and ReLU, halved between stages, no padding anywhere."""
    layers: list[nn.Module] = []
    width = in_channels
    for i, size in enumerate(channels):
        layers += [nn.MaxPool2d(2)] if i else []
        for inside in (width, size):
            layers += [nn.Conv2d(inside, size, 3, bias=False), nn.BatchNorm2d(size), nn.ReLU(inplace=True)]
        width = size
    return nn.Sequential(*layers)


def windows(images: Tensor, side: int, stride: int) -> Tensor:
    """All windows (N, R, C, channels, side, side) of images (N, channels, H, W), cut out one by one."""
    rows, columns = ((length - side) // stride + 1 for length in images.shape[-2:])
    cut = [
        images[:, :, y : y + side, x : x + side]
        for y in range(0, rows * stride, stride)
        for x in range(0, columns * stride, stride)
    ]
    return torch.stack(cut, dim=1).view(len(images), rows, columns, images.shape[1], side, side)
