"""Neural style: an image optimised to have the content of one image and the style of another."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightbed.errors import UserError, one_of
from lightbed.losses.style import apart, gram, roughness
from lightbed.metrics.mean import LossMean
from lightbed.models.style import StyleImage
from lightbed.tasks.base import Task
from lightbed.types import Prediction, Step

LOSSES = ("style", "content", "variation")


class NeuralStyle(Task):
    """Moves the pixels of an image (Gatys, Ecker, Bethge 2016, "Image Style Transfer Using CNNs").

    The losses are the distance of Gram matrices from those of the style image, of features from those of the content
    image, and the image's roughness. A batch is the content image, uint8 (N, C, H, W), and a target whose `style` is
    the style image; all its samples are the same, and the first is looked at. Pixels are kept within black and white.

    Args:
        model: the image and the network that looks at it.
        num_classes: of no meaning.
        classes: likewise.
        loss: weight of each of the losses `style`, `content`, `variation`.
        begin: 'content': the image begins as the content image, or 'noise'.
        common: the arguments of `Task`.

    Raises:
        UserError: the options contradict each other.
    """

    learns = ("style",)
    pictured = "content and style on the left, what became of them on the right"

    def __init__(
        self,
        model: StyleImage,
        num_classes: int = 1,  # noqa: ARG002 - every task is told
        *,
        classes: Sequence[str] | None = None,
        loss: Mapping[str, float] | None = None,
        begin: str = "content",
        monitor: str = "train/loss",
        **common: Any,
    ) -> None:
        super().__init__(model, list(classes or ["image"]), monitor=monitor, **common)
        self.begin = one_of(begin, ("content", "noise"), "task.begin")
        self.weights = {name: float((loss or {}).get(name, 1.0)) for name in LOSSES}
        if unknown := [name for name in loss or {} if name not in LOSSES]:
            raise UserError(f"task.loss.{unknown[0]} is not known: there is {', '.join(LOSSES)}")
        if not isinstance(model, StyleImage):
            raise UserError(f"neural style needs model=style, not a {type(model).__name__}")
        self.wanted: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        self.add_metrics()

    @property
    def image_model(self) -> StyleImage:
        """The network's own type."""
        return self.model  # type: ignore[return-value]

    def make_metric(self, stage: str) -> Metric:  # noqa: ARG002 - the losses are all that there is
        return LossMean()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.wanted = None

    def on_test_start(self) -> None:
        self.wanted = None

    def step(self, batch: Any, stage: str) -> Step:
        content, target = batch
        if not isinstance(target, Mapping) or "style" not in target:
            raise UserError("neural style needs a content and a style image: try data=style_pair")
        if self.wanted is None or stage != "train":
            self.wanted = self._wanted(content[:1], target["style"][:1])
        model = self.image_model
        with torch.no_grad():
            if not model.begun and stage == "train":
                if self.begin == "content":
                    model.image.copy_(content[:1])
                model.begun.fill_(True)
            low, high = self._bounds(model.image)
            model.image.copy_(torch.minimum(torch.maximum(model.image, low), high))
        return Step(self.losses(model.image), None, None)

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """The losses of a normalised image (1, C, H, W), weighted."""
        grams, features = self.wanted or ({}, {})
        model = self.image_model
        found = model(image)
        own = {name: gram(found[name]) for name in model.style}
        values = (apart(own, grams, model.style), apart(found, features, model.content), roughness(image))
        named = zip(LOSSES, values, strict=True)
        return {name: self.weights[name] * value.to(image) for name, value in named}

    @torch.no_grad()
    def _wanted(self, content: Tensor, style: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gram matrices of the style image and features of the content image, by the names of their parts."""
        model = self.image_model
        pixels = style if self.preprocess is None else self.preprocess(style)
        of_style, of_content = model(pixels), model(content)
        return {k: gram(of_style[k]) for k in model.style}, {k: of_content[k].clone() for k in model.content}

    def _bounds(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised values of black and white, (1, C, 1, 1)."""
        ends = [image.new_full((1, image.shape[1], 1, 1), value) for value in (0.0, 255.0)]
        return (ends[0], ends[1]) if self.preprocess is None else (self.preprocess(ends[0]), self.preprocess(ends[1]))

    def stylised(self) -> Tensor:
        """The image as it is now, uint8 (C, H, W)."""
        image = self.image_model.image.detach()[0]
        return image.to(torch.uint8) if self.preprocess is None else self.preprocess.undo(image)

    def predict(self, images: Any) -> list[Prediction]:
        """The one image that it has, whatever is looked at."""
        return [Prediction(image=self.stylised()) for _ in images]
