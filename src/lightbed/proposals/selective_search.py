"""Selective search: boxes around regions of an image, searched for once an image and kept."""

import contextlib
import hashlib
import inspect
import json
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from lightbed.chance import permutation
from lightbed.errors import UserError, nearest, one_of
from lightbed.proposals import grouping
from lightbed.runs.log import say

_FORMAT = 1


class Found(NamedTuple):
    """The proposals of an image, and how long it took to search for them."""

    boxes: np.ndarray  # float32 (n, 4), xyxy in the image's pixels
    seconds: float


class SelectiveSearch(nn.Module):
    """Proposals by selective search (Uijlings, van de Sande, Gevers, Smeulders 2013), without anything learnt.

    It looks at the image as it was before `Preprocess` normalised it. OpenCV ranks its boxes with C's random numbers,
    so their order is not used: they are sorted, and where there are more than `most`, a choice by a key stays, the same
    in every run. After a call, `seconds` says how long the search took for its images, also where it was done earlier
    and the boxes only read.

    Args:
        mean: that was taken off pixels in 0..1, per channel; see `Preprocess`.
        std: that they were divided by.
        engine: 'opencv'; 'own', slower, for small images; None: OpenCV's where it is installed.
        mode: of OpenCV's, 'fast' or 'quality', which takes more colour spaces and scales and many times as long.
        width: that images are scaled to for the search, larger or smaller; None: their own.
        scale: of the first segmentation: the larger, the larger are its regions.
        sigma: in pixels, of the Gaussian that smooths the image before it.
        least: side in pixels that a box must have to be kept.
        most: boxes of an image.
        cache_dir: where what was found is kept beside a hash of the image and of these settings; None: nowhere.

    Raises:
        UserError: OpenCV is asked for and not installed, or a value is out of its range.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        engine: str | None = None,
        mode: str = "fast",
        width: int | None = None,
        scale: float = 150,
        sigma: float = 0.8,
        least: float = 4,
        most: int = 2000,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self.engine = chosen_engine(engine)
        one_of(mode, ("fast", "quality"), "model.proposals.mode")
        # OpenCV's search never ends with a scale below 1
        for name, value, low in (("most", most, 1), ("scale", scale, 1), ("sigma", sigma, 0), ("least", least, 0)):
            if not value >= low:
                raise UserError(f"model.proposals.{name}={value} must be at least {low}")
        if width is not None and width < 1:
            raise UserError(f"model.proposals.width={width} must be at least 1, or null")
        self.mode, self.width, self.scale, self.sigma, self.least, self.most = mode, width, scale, sigma, least, most
        self.folder = Path(cache_dir).expanduser() / "proposals" if cache_dir else None
        settings = [_FORMAT, self.engine, mode, width, scale, sigma, least, most]
        self.settings = json.dumps(settings).encode()
        self.seconds = 0.0

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Normalised images (C, h, w) -> boxes float32 (n, 4) of each, xyxy in its pixels, in a fixed order."""
        found = [self.recall(self.pixels(image)) for image in images]
        self.seconds = sum(one.seconds for one in found)
        return [torch.from_numpy(one.boxes).to(image.device) for one, image in zip(found, images, strict=True)]

    def pixels(self, image: Tensor) -> np.ndarray:
        """A normalised image (C, h, w) -> uint8 (h, w, 3), RGB: of more channels the first 3, of 2 the first."""
        whole = (image.detach().cpu().float() * self.std + self.mean).mul(255).round().clamp(0, 255).to(torch.uint8)
        seen = whole[:3] if len(whole) >= 3 else whole[:1].expand(3, -1, -1)
        return np.ascontiguousarray(seen.permute(1, 2, 0).numpy())

    def recall(self, image: np.ndarray) -> Found:
        """The proposals of an image uint8 (h, w, 3): those that are kept, else new ones, which are then kept."""
        digest = hashlib.sha256(self.settings + str(image.shape).encode() + image.tobytes()).hexdigest()
        file = None if self.folder is None else self.folder / digest[:2] / f"{digest[2:34]}.npz"
        if file is not None and (kept := _read(file)) is not None:
            return kept
        start = time.perf_counter()
        boxes = self.search(image)
        found = Found(boxes, time.perf_counter() - start)
        if file is not None:
            _write(file, found)
        return found

    def search(self, image: np.ndarray) -> np.ndarray:
        """The proposals of an image uint8 (h, w, 3), RGB, float32 (n, 4)."""
        height, width = image.shape[:2]
        factor = (self.width or width) / width
        if factor != 1:
            size = [max(1, round(height * factor)), max(1, round(width * factor))]
            scaled = F.resize(torch.from_numpy(image).permute(2, 0, 1), size, antialias=True)
            image = np.ascontiguousarray(scaled.permute(1, 2, 0).numpy())
        boxes = self._opencv(image) if self.engine == "opencv" else grouping.search(image, self.scale, self.sigma)
        own = boxes.astype(np.float64) * ([width / image.shape[1], height / image.shape[0]] * 2)
        own = np.unique(own[(own[:, 2:] - own[:, :2] >= self.least).all(1)], axis=0)
        if len(own) > self.most:
            own = own[permutation(len(own), "proposals")[: self.most].sort().values.numpy()]
        if not len(own):  # a plain image: all of it
            own = np.array([[0, 0, width, height]])
        found: np.ndarray = own.astype(np.float32)
        return found

    def _opencv(self, image: np.ndarray) -> np.ndarray:
        from cv2 import ximgproc

        searcher = ximgproc.segmentation.createSelectiveSearchSegmentation()
        searcher.setBaseImage(np.ascontiguousarray(image[..., ::-1]))  # BGR
        switch: Any = searcher.switchToSelectiveSearchFast
        if self.mode == "quality":
            switch = searcher.switchToSelectiveSearchQuality
        switch(int(self.scale), int(self.scale), float(self.sigma))
        boxes = np.asarray(searcher.process(), np.int64)  # xywh
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def make_search(mean: Sequence[float], std: Sequence[float], options: Mapping[str, Any] | None) -> SelectiveSearch:
    """A `SelectiveSearch` of a model's options.

    Raises:
        UserError: one of them is none of its arguments.
    """
    known = [name for name in inspect.signature(SelectiveSearch).parameters if name not in ("mean", "std")]
    if unknown := [name for name in options or {} if name not in known]:
        raise UserError(f"model.proposals.{unknown[0]} is not known: {nearest(unknown[0], known)}")
    return SelectiveSearch(mean, std, **(options or {}))


def chosen_engine(engine: str | None) -> str:
    """'opencv' or 'own'; for None what there is.

    Raises:
        UserError: OpenCV is asked for and not installed.
    """
    if engine is not None and one_of(engine, ("opencv", "own"), "model.proposals.engine") == "own":
        return engine
    try:
        from cv2 import ximgproc  # noqa: F401
    except ImportError as error:
        if engine is None:
            say("selective search of our own, which is slow: pip install 'lightbed[rcnn]' brings OpenCV's")
            return "own"
        raise UserError(
            "model.proposals.engine=opencv needs OpenCV's contributed modules: pip install 'lightbed[rcnn]', or "
            "model.proposals.engine=own, which is slow"
        ) from error
    return "opencv"


def recall(proposals: Sequence[Tensor], boxes: Sequence[Tensor], iou: float = 0.5) -> tuple[int, int]:
    """How many of the true boxes a proposal of their image covers at this IoU or more, and how many there are."""
    from torchvision.ops import box_iou

    pairs = list(zip(proposals, boxes, strict=True))
    covered = sum(int((box_iou(true, found).amax(1) >= iou).sum()) for found, true in pairs if len(found) and len(true))
    return covered, sum(len(true) for _, true in pairs)


def _read(file: Path) -> Found | None:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return Found(content["boxes"], float(content["seconds"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged by somebody's hand
        return None


def _write(file: Path, found: Found) -> None:
    """Keep it, written whole or not at all; where that cannot be, it is searched for again."""
    beside = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(beside, boxes=found.boxes, seconds=np.float64(found.seconds))
        beside.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
