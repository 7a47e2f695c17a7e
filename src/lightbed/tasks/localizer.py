"""Localization: class and box of the one object in an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from lightbed.errors import UserError, first_sentence, nearest
from lightbed.metrics.localization import LocalizationScores
from lightbed.models.two_heads import TwoHeads
from lightbed.tasks.base import Task
from lightbed.transforms.boxes import clip
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import Prediction, Step

LOSSES = ("label", "box")


class Localizer(Task):
    """Says what the one object in an image is, and where.

    Args:
        model: a classifier's network, which is given a second head here (see `TwoHeads`) if `preprocess` says of what
            size images are; or one that returns `(logits, boxes)`: logits (N, K), boxes (N, 4) as centre x, y, width,
            height in fractions of the image.
        num_classes: K.
        classes: their names; numbers, if not given.
        loss: weight of cross entropy, 'label', and of the squared error of the four fractions, 'box', which is the
            mean over all four and all images.
        hidden: width of the second head's hidden layer.
        common: the arguments of `Task`.

    Raises:
        UserError: the options contradict each other, or the network cannot be given a second head.
    """

    learns = ("label", "box")
    logged = ("accuracy", "precision", "recall", "f1", "iou", "accuracy_50")

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        classes: Sequence[str] | None = None,
        loss: Mapping[str, float] | None = None,
        hidden: int = 128,
        monitor: str = "val/accuracy_50",
        preprocess: Preprocess | None = None,
        **common: Any,
    ) -> None:
        names = [str(name) for name in (classes if classes is not None else range(num_classes))]
        if len(names) != num_classes:
            raise UserError(f"{len(names)} class names for num_classes={num_classes}")
        network = two_headed(model, num_classes, preprocess, hidden)
        super().__init__(network, names, monitor=monitor, preprocess=preprocess, **common)
        self.num_classes = num_classes
        self.losses = _weights(loss if loss is not None else {"label": 1.0, "box": 10.0})
        self.add_metrics()

    def make_metric(self, stage: str) -> Metric:  # noqa: ARG002 - the same in every stage
        return LocalizationScores(self.num_classes)

    def step(self, batch: Any, stage: str) -> Step:  # noqa: ARG002 - the same in every stage
        images, target = batch
        labels, truth = self._truth(target)
        logits, fractions = self.outputs(self.model(images))
        size = (images.shape[-2], images.shape[-1])
        # the error is taken in at least 32 bits: squares of small fractions are lost in 16
        error = F.mse_loss(fractions, to_fractions(truth, size))
        losses = {"label": self.losses["label"] * F.cross_entropy(logits, labels), "box": self.losses["box"] * error}
        return Step(losses, (logits.detach(), to_boxes(fractions.detach(), size)), (labels, truth))

    def metric_inputs(
        self, predictions: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Probabilities (N, K) and labels int64 (N,): further metrics are of the class."""
        return predictions[0].softmax(1), targets[0]

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Of preprocessed images (N, C, H, W): `scores` (K,), the most probable `label`, `box` xyxy in their pixels."""
        self.eval()
        logits, fractions = self.outputs(self.model(images))
        boxes = to_boxes(fractions, (images.shape[-2], images.shape[-1]))
        rows = zip(logits.softmax(1), boxes, strict=True)
        return [Prediction(label=scores.argmax(), scores=scores, box=box) for scores, box in rows]

    def _truth(self, target: Any) -> tuple[Tensor, Tensor]:
        """Labels int64 (N,) and boxes xyxy float32 (N, 4) in pixels."""
        first = target[0] if isinstance(target, list) and target else target
        held = [name for name in first if name != "index"] if isinstance(first, Mapping) else ["label"]
        if not isinstance(target, Mapping) or "label" not in held or "box" not in held:
            raise UserError(
                f"a localizer needs one object an image, its label and box, but the data has {', '.join(held)}: try "
                "data=digit_scenes, or data.objects=largest where data has boxes"
            )
        return target["label"].long(), target["box"].float()

    def outputs(self, output: Any) -> tuple[Tensor, Tensor]:
        """Logits and fractions of the network's output, in float32 at least."""
        wanted = f"a localizer's network returns (logits, boxes), (N, {self.num_classes}) and (N, 4)"
        if not isinstance(output, tuple) or len(output) != 2 or not all(isinstance(part, Tensor) for part in output):
            raise UserError(f"the model's output is a {type(output).__name__}; {wanted}")
        logits, boxes = (part.float() if part.dtype in (torch.float16, torch.bfloat16) else part for part in output)
        if logits.shape[1:] != (self.num_classes,) or boxes.shape[1:] != (4,):
            raise UserError(f"the model's outputs are {tuple(logits.shape)} and {tuple(boxes.shape)}; {wanted}")
        return logits, boxes

    def averaging(self, name: str) -> str:
        texts = {
            "accuracy": "class, all images",
            "accuracy_50": "class right and IoU over 0.5, all images",
            "iou": "mean over images",
        }
        if name in ("precision", "recall", "f1"):
            return "of the class, mean over classes"
        return "mean over images" if name.startswith("loss") else texts.get(name, "")


def two_headed(model: nn.Module, num_classes: int, preprocess: Preprocess | None, hidden: int) -> nn.Module:
    """The network as it is where it returns two things, else with a second head."""
    if preprocess is None:
        return model
    if preprocess.size is None:
        raise UserError("a localizer's images are of one size: give data.image_size=[height,width]")
    shape = (preprocess.channels, *preprocess.size)
    training = model.training
    try:
        with torch.no_grad():
            output = model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError) as error:
        size, reason = "x".join(map(str, shape)), first_sentence(error)
        raise UserError(
            f"the model cannot take images of {size} ({reason}): set data.image_size, data.channels"
        ) from error
    model.train(training)
    return model if isinstance(output, tuple) and len(output) == 2 else TwoHeads(model, num_classes, shape, hidden)


def to_fractions(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes xyxy (N, 4) in pixels of an image of `size` (height, width) -> centre x, y, width, height as fractions."""
    wide = boxes.new_tensor([size[1], size[0]])
    low, high = boxes[:, :2] / wide, boxes[:, 2:] / wide
    return torch.cat([(low + high) / 2, high - low], dim=1)


def to_boxes(fractions: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `to_fractions`, cut at the image's borders."""
    wide = fractions.new_tensor([size[1], size[0]])
    centre, half = fractions[:, :2] * wide, fractions[:, 2:] * wide / 2
    return clip(torch.cat([centre - half, centre + half], dim=1), size)


def _weights(loss: Mapping[str, float]) -> dict[str, float]:
    for name, factor in loss.items():
        if name not in LOSSES:
            raise UserError(f"task.loss.{name} is not known: {nearest(name, list(LOSSES))}")
        if factor < 0:
            raise UserError(f"task.loss.{name}={factor} must not be negative")
    weights = {name: float(loss.get(name, 1.0)) for name in LOSSES}
    if not any(weights.values()):
        raise UserError("task.loss: label and box cannot both be 0: nothing would be learnt")
    return weights
