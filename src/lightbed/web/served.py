"""A trained network that answers: loaded once, asked for one image at a time."""

import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lightbed import build
from lightbed.commands import detections
from lightbed.draw.panel import as_pixels
from lightbed.errors import UserError
from lightbed.runs.device import accelerator
from lightbed.tasks.base import Task
from lightbed.tasks.segmenter import Segmenter
from lightbed.transforms.boxes import clip
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import Prediction

KINDS = {
    "classification": "Classification",
    "localization": "Localization",
    "detection": "Detection",
    "instances": "Instance segmentation",
    "pixels": "Semantic segmentation",
}
"""What can be shown of predictions, in the order of the page's tabs."""

_MASKED = 2e6  # pixels of an instance's mask at most; the page shows fewer, and torchvision's networks see fewer
_BLANK = 64  # side of the image that a network is tried on where it takes any size


class Answer(NamedTuple):
    """What a network says of an image, in the image's own pixels, and how long it took.

    Masks of instances are smaller than a large image: a hundred of its size would not fit in memory.
    """

    prediction: Prediction
    seconds: float


class Served:
    """A task on its device, ready to be asked.

    It is asked once at the start, about a blank image: that tells a network that cannot run before anybody waits for
    it, and what its predictions hold, from which follows what can be shown of them.

    Args:
        name: how requests call it.
        title: how the page calls it.
        task: with its weights.
        config: of the command: `device`, `precision`, `tile`, `overlap`.
        precision: where the command's config has none.

    Raises:
        UserError: the device, the precision or the tiles are wrong, or the network fails.
    """

    def __init__(self, name: str, title: str, task: Task, config: Mapping[str, Any], precision: str) -> None:
        self.name, self.title, self.classes = name, title, task.classes
        self.preprocess = task.preprocess or Preprocess()
        self.tile, self.overlap = config["tile"], config["overlap"]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*srun.*command is available.*")
            self.fabric: Fabric = build.make(
                {"_target_": "lightning.fabric.Fabric", **accelerator(config["device"])},
                "precision",
                precision=config["precision"] or precision,
            )
        self.segments = isinstance(task, Segmenter)
        self.model: Any = self.fabric.setup_module(task.eval())
        self.model.mark_forward_method("predict")
        if self.segments:
            self.model.mark_forward_method("segment")
        self._lock = threading.Lock()
        self.kinds: list[str] = []
        height, width = self.preprocess.size or (_BLANK, _BLANK)
        self.kinds = kinds(self.ask(torch.full((3, height, width), 127, dtype=torch.uint8)).prediction)

    def ask(self, image: Tensor) -> Answer:
        """What the network sees in an image uint8 (3, h, w) of any size; the seconds are those of the network alone.

        Raises:
            UserError: it fails on this image.
        """
        own = image if self.preprocess.channels == 3 else grey(image)
        try:
            with self._lock:
                return self._segmented(own) if self.segments else self._predicted(own)
        except UserError:
            raise
        except Exception as error:  # a network may fail on an odd image in any way; the next image is another matter
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            size = f"{image.shape[2]} x {image.shape[1]} pixels"
            raise UserError(f"{self.name} fails on this image of {size}: {type(error).__name__}: {reason}") from error

    def _segmented(self, image: Tensor) -> Answer:
        start = self._now()
        seen = self.model.segment(image, self.tile, self.overlap)
        return Answer(seen, self._now() - start)

    def _predicted(self, image: Tensor) -> Answer:
        size = part = (image.shape[-2], image.shape[-1])
        if "instances" in self.kinds:
            part = at_most(size, _MASKED)
            if part != size and self.preprocess.size is None:
                image = F.resize(image, list(part), antialias=True)
        fitted = self.preprocess(self.fabric.to_device(self.preprocess.fit(image)))
        start = self._now()
        seen: Prediction = self.model.predict(fitted[None])[0]
        seconds = self._now() - start
        if not seen["scores"].isfinite().all():
            raise UserError(
                f"{self.name} gives this image scores that are no finite numbers: has its training diverged?"
            )
        if "boxes" in seen:
            found = detections.at_own_size(seen, self.preprocess, part)
            found["boxes"] = found["boxes"] * torch.tensor([size[1] / part[1], size[0] / part[0]] * 2)
            return Answer(found, seconds)
        if "box" in seen:
            box = clip(self.preprocess.unfit_boxes(seen["box"][None], size), size)[0]
            return Answer(Prediction(label=seen["label"].cpu(), scores=seen["scores"].cpu(), box=box.cpu()), seconds)
        return Answer(Prediction(label=seen["label"].cpu(), scores=seen["scores"].cpu()), seconds)

    def _now(self) -> float:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)
        return time.perf_counter()


def kinds(prediction: Prediction) -> list[str]:
    """What can be shown of a prediction, see `KINDS`.

    Instance masks are also shown as plain boxes, and as pixels in the colours of their classes.
    """
    if "mask" in prediction:
        return ["pixels"]
    if "boxes" in prediction:
        return ["detection", "instances", "pixels"] if "masks" in prediction else ["detection"]
    return ["localization"] if "box" in prediction else ["classification"]


def at_most(size: tuple[int, int], pixels: float) -> tuple[int, int]:
    """A (height, width) of about the same shape with no more pixels than these, save for a line of them."""
    factor = min(1.0, (pixels / (size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def grey(image: Tensor) -> Tensor:
    """An image uint8 (3, h, w) as (1, h, w), converted as files are (ITU-R 601)."""
    return torch.from_numpy(np.array(Image.fromarray(as_pixels(image)).convert("L")))[None]
