"""Semantic segmentation: a class for each pixel."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision.transforms.v2 import functional as F

from lightbed.errors import UserError, nearest
from lightbed.losses.pixels import LOSSES, total_weight
from lightbed.metrics.segmentation import SegmentationScores
from lightbed.tasks.base import Task
from lightbed.tasks.tiling import Plan, Size, enlarged, tiled
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import Prediction, Step

MUCH_LARGER = 16
"""An image with more times the pixels than those trained on is taken to show more, not to show the same larger."""

_TILE = 512  # pixels, of a network that was trained on images of no one size


class Segmenter(Task):
    """Labels every pixel.

    Args:
        model: network with logits (N, K, H, W) of the images' size, or torchvision's dict with `out` and `aux`.
        num_classes: K, at most 255: the value 255 in a mask is void, left out of losses and metrics.
        classes: their names; numbers, if not given.
        loss: one of 'cross_entropy', 'dice' and 'focal', or the weight of each by name; those of weight 0 are not
            computed.
        focal_gamma: exponent of the focal loss.
        class_weights: weight of each class in all losses; None for equal ones.
        aux_weight: weight of the auxiliary output's loss in training.
        common: the arguments of `Task`.

    Raises:
        UserError: the options contradict each other.
    """

    class_weights: Tensor | None
    learns = ("mask",)
    logged = ("pixel_accuracy", "accuracy", "iou", "precision", "recall", "f1")
    pictured = "from left: image, truth, prediction, errors in red"
    pictured_at_once = 12

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        classes: Sequence[str] | None = None,
        loss: str | Mapping[str, float] = "cross_entropy",
        focal_gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
        aux_weight: float = 0.4,
        monitor: str = "val/iou",
        **common: Any,
    ) -> None:
        names = [str(name) for name in (classes if classes is not None else range(num_classes))]
        super().__init__(model, names, monitor=monitor, **common)
        if len(names) != num_classes:
            raise UserError(f"{len(names)} class names for num_classes={num_classes}")
        if num_classes > 255:
            raise UserError(f"{num_classes} classes: a mask holds up to 255, and 255 itself is void")
        if class_weights is not None and len(class_weights) != num_classes:
            raise UserError(f"task.class_weights has {len(class_weights)} values for {num_classes} classes")
        self.losses = _chosen({loss: 1.0} if isinstance(loss, str) else loss)
        if focal_gamma < 0:
            raise UserError(f"task.focal_gamma={focal_gamma} must not be negative")
        self.num_classes, self.focal_gamma, self.aux_weight = num_classes, focal_gamma, aux_weight
        self.largest: Size | None = None  # own (height, width) of the largest image of the data, where it is known
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.add_metrics()

    def make_metric(self, stage: str) -> Metric:
        return SegmentationScores(self.num_classes, self.classes if stage == "test" else None)

    def step(self, batch: Any, stage: str) -> Step:
        images, target = batch
        truth = self._masks(target)
        output = self.model(images)
        logits = self._logits(output, truth)
        losses = self.loss(logits, truth)
        if isinstance(output, Mapping) and "aux" in output and self.training:
            losses["aux"] = self.aux_weight * torch.stack(list(self.loss(output["aux"], truth).values())).sum()
        divided = stage == "train" and self.share is not None and "dice" not in self.losses  # Dice is no mean
        return Step(losses, logits.detach(), truth, total_weight(truth, self.class_weights) if divided else None)

    def _masks(self, target: Any) -> Tensor:
        """Masks int64 (N, H, W) of a target dict or of a plain tensor; uint8 until here, an eighth of the memory."""
        first = target[0] if isinstance(target, list) else target  # of images that differ in size
        if isinstance(first, Mapping):
            if first is not target or "mask" not in target:
                held = ", ".join(name for name in first if name not in ("index", "path"))
                raise UserError(
                    f"a segmenter needs masks, but the data has {held}: try data=digit_scenes, or mask_folder"
                )
            target = target["mask"]
        return target.long()  # type: ignore[no-any-return]

    def metric_inputs(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (N, K, H, W) and truth int64 (N, H, W) with 255 for void."""
        return predictions.float().softmax(1), targets

    def loss(self, logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Each loss times its weight, of logits (N, K, H, W) and truth int64 (N, H, W)."""
        weights = self.class_weights
        options = {"focal": {"gamma": self.focal_gamma}}
        return {
            name: factor * LOSSES[name](logits, truth, weights, **options.get(name, {}))
            for name, factor in self.losses.items()
        }

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Of preprocessed images (N, C, H, W): `mask` uint8 (H, W), the most probable class of each pixel."""
        self.eval()
        return [Prediction(mask=mask) for mask in self.masks_of(self.model(images))]

    def masks_of(self, output: Any) -> Tensor:
        """The most probable class of each pixel, uint8 (N, H, W), of what the network gives."""
        return self._logits(output).max(1).indices.to(torch.uint8)

    @torch.no_grad()
    def segment(self, image: Tensor, tile: int | str | None = "auto", overlap: int | str = "auto") -> Prediction:
        """What the network sees in one image uint8 (C, h, w) of any size: `mask` uint8 (h, w), at the image's own size.

        Args:
            image: as it is in its file.
            tile: see `plan`.
            overlap: see `tiling.tiled`; of tiles whose size is 'auto' at most half of it.

        Raises:
            UserError: tile and overlap do not fit together.
        """
        self.eval()
        if overlap != "auto" and not (isinstance(overlap, int) and overlap >= 0):
            raise UserError(f"overlap={overlap} must be auto or a number of pixels, at least 0")
        own = (image.shape[-2], image.shape[-1])
        plan = self.plan(own, tile)
        if plan.tile == own:
            return Prediction(mask=self._labels(image, plan))
        if tile == "auto" and isinstance(overlap, int):
            overlap = min(overlap, min(plan.tile) // 2)
        return Prediction(mask=tiled(lambda part: self._labels(part, plan), image, plan.tile, overlap))

    def plan(self, own: Size, tile: int | str | None = "auto") -> Plan:
        """How an image of size `own` is labelled.

        - None: in one piece, scaled as in training.
        - A number: in tiles of that side in the image's own pixels, at the scale that the largest image of the data was
          trained at; at their own where that is not known.
        - 'auto': as None, unless the image has more than `MUCH_LARGER` times the pixels of the largest of the data.
          Scaled down as a whole it would show its objects much smaller than any that were learnt, so it is labelled at
          that image's scale, in tiles that are as large as the network's input. Tiles of `_TILE` where the network has
          no input size.

        Raises:
            UserError: tile is none of these.
        """
        preprocess, same = self.preprocess or Preprocess(), (1.0, 1.0)
        if isinstance(tile, int) and tile > 0:
            return Plan((tile, tile), preprocess.factors(self.largest) if self.largest else same)
        if tile not in ("auto", None):
            raise UserError(f"tile={tile} must be auto, null or a number of pixels")
        size = preprocess.size
        if size is None or tile is None:
            return Plan((_TILE, _TILE) if tile == "auto" else own, preprocess.factors(own))
        larger = self.largest is not None and math.prod(own) > MUCH_LARGER * math.prod(self.largest)
        factors = preprocess.factors(self.largest if larger and self.largest else own)
        # with resize=crop also a thin image that is not large itself: its shorter side is brought to the network's
        if math.prod(own) * math.prod(factors) <= MUCH_LARGER * math.prod(size):
            return Plan(own, factors)
        height, width = (max(1, round(side / factor)) for side, factor in zip(size, factors, strict=True))
        return Plan((height, width), factors)

    def _labels(self, image: Tensor, plan: Plan) -> Tensor:
        """The mask uint8 (h, w), on the CPU, of an image uint8 (C, h, w) or a tile of one."""
        preprocess, own = self.preprocess or Preprocess(), (image.shape[-2], image.shape[-1])
        scaled: Tensor = F.resize(image, list(plan.seen(own)), antialias=True)
        logits = self._logits(self.model(preprocess(scaled[None].to(self.device))))
        return enlarged(logits[0].float(), own)

    def card(self) -> dict[str, Any]:
        return {**super().card(), "largest": list(self.largest) if self.largest else None}

    def _logits(self, output: Any, truth: Tensor | None = None) -> Tensor:
        logits = output["out"] if isinstance(output, Mapping) and "out" in output else output
        wanted = f"a segmenter's network returns logits (N, {self.num_classes}, H, W)"
        if not isinstance(logits, Tensor):
            raise UserError(f"the model's output is a {type(logits).__name__}; {wanted}")
        shape = tuple(logits.shape)
        if logits.ndim != 4 or shape[1] != self.num_classes:
            raise UserError(f"the model's output is {shape}; {wanted}")
        if truth is not None and shape[2:] != truth.shape[1:]:
            raise UserError(f"the model's output is {shape}, but the masks are {tuple(truth.shape)}; {wanted}")
        return logits

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        # a validation that stands in place of a test tells of each class, too
        alone = self.trainer.state.fn == TrainerFn.VALIDATING
        self.metric("val").classes = self.classes if alone else None

    def averaging(self, name: str) -> str:
        texts = {
            "pixel_accuracy": "mean over images",
            "accuracy": "all pixels",
            "iou": "mean over classes, all pixels",
            "precision": "mean over classes, all pixels",
            "recall": "mean over classes, all pixels",
            "f1": "mean over classes, all pixels",
        }
        if "/" in name:
            return "all pixels of the class"
        return "mean over batches' images" if name.startswith("loss") else texts.get(name, "")


def _chosen(loss: Mapping[str, float]) -> dict[str, float]:
    """The losses whose weight is not 0."""
    for name, factor in loss.items():
        if name not in LOSSES:
            raise UserError(f"task.loss.{name} is not known: {nearest(name, list(LOSSES))}")
        if factor < 0:
            raise UserError(f"task.loss.{name}={factor} must not be negative")
    chosen = {name: float(factor) for name, factor in loss.items() if factor}
    if not chosen:
        raise UserError(f"task.loss has no loss with a weight over 0: give one of {', '.join(LOSSES)}")
    return chosen
