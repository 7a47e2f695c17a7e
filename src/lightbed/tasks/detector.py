"""Detection: boxes around any number of objects, and instance masks where the network gives them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import Metric

from lightbed.errors import UserError
from lightbed.metrics.coco_ap import SUMMARY
from lightbed.metrics.detection import DetectionScores
from lightbed.tasks.base import Task
from lightbed.tasks.judging import deciders, losses_and_detections
from lightbed.types import Prediction, Step, Target

_NEEDED = ("boxes", "labels")


class Detector(Task):
    """Finds objects: class, box, score and, with a network such as Mask R-CNN, mask.

    A batch is a list of images (C, h, w), which may differ in size, and a list of targets. In training there are losses
    alone; in validation and test, losses and predictions come from one pass, see `judging.losses_and_detections`.

    Args:
        model: network of torchvision's convention: in training `model(images, targets)` gives losses by name, in
            evaluation `model(images)` gives boxes, labels, scores and masks (n, 1, h, w), the best first. Its labels
            begin at 1, with 0 for background, and so it is made for K + 1 classes; all others begin at 0. It may have
            `settle(batches)`, see `Detector.settle`.
        num_classes: K.
        classes: their names; numbers, if not given.
        mask_threshold: probability from which a pixel belongs to an object's mask.
        common: the arguments of `Task`; `compile` compiles the backbone alone, for what follows it has no fixed shapes.

    Raises:
        UserError: the options contradict each other.
    """

    threshold: Tensor
    settled_at = -1  # the step after which the network was settled
    learns = (*_NEEDED, "masks")
    logged = (
        *(f"{kind}{name}" for kind in ("", "mask_") for name in SUMMARY),
        *("precision", "recall", "f1", "detections", "highest_score"),
    )
    pictured = "truth on the left, prediction on the right"
    pictured_at_once = 12

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        classes: Sequence[str] | None = None,
        mask_threshold: float = 0.5,
        monitor: str = "val/map",
        **common: Any,
    ) -> None:
        names = [str(name) for name in (classes if classes is not None else range(num_classes))]
        super().__init__(model, names, monitor=monitor, **common)
        if len(names) != num_classes:
            raise UserError(f"{len(names)} class names for num_classes={num_classes}")
        if not 0 < mask_threshold < 1:
            raise UserError(f"task.mask_threshold={mask_threshold} must lie between 0 and 1")
        self.num_classes, self.mask_threshold = num_classes, mask_threshold
        self.masks = any(getattr(part, "mask_predictor", None) is not None for part in model.modules())
        # the score with the highest F1 on the validation split; it belongs to the weights and is saved with them
        self.register_buffer("threshold", torch.tensor(0.5))
        self.add_metrics()

    def make_metric(self, stage: str) -> Metric:
        return DetectionScores(self.num_classes, masks=self.masks, classes=self.classes if stage == "test" else None)

    def forward(self, images: Any) -> Any:
        """What the network finds in preprocessed images, a list or (N, C, H, W)."""
        return self.model(list(images))

    def step(self, batch: Any, stage: str) -> Step:
        images, targets = self._checked(batch)
        objects = [self.objects(target) for target in targets]
        if stage == "train":
            return Step(_by_name(self.model(images, objects)), None, None)
        losses, found = losses_and_detections(self.model, images, objects)
        return Step(_by_name(losses), [self.prediction(one) for one in found], targets)

    def _checked(self, batch: Any) -> tuple[list[Tensor], list[Target]]:
        images, targets = batch
        first = targets[0] if isinstance(targets, list) else targets
        held = [name for name in first if name not in ("index", "path")] if isinstance(first, Mapping) else ["label"]
        missing = [name for name in (*_NEEDED, *(["masks"] if self.masks else [])) if name not in held]
        if missing or not isinstance(images, list):
            what = "a detector needs" if missing != ["masks"] else "the network predicts masks and needs"
            hint = "data=digit_scenes, or " + (
                "model=faster_rcnn" if missing == ["masks"] else "data=auto for your own"
            )
            raise UserError(f"{what} {', '.join(missing)}, but the data has {', '.join(held)}: try {hint}")
        return images, targets

    def objects(self, target: Target) -> dict[str, Tensor]:
        """What the network learns from: no crowds, no boxes without area; labels from 1 on."""
        boxes = target["boxes"]
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        if "crowd" in target:
            kept &= ~target["crowd"]
        found = {"boxes": boxes, "labels": target["labels"] + 1, **({"masks": target["masks"]} if self.masks else {})}
        return found if kept.all() else {name: values[kept] for name, values in found.items()}

    def prediction(self, found: Mapping[str, Tensor]) -> Prediction:
        """What the network found in an image, with labels from 0 on, without what it calls background, masks bool."""
        kept = found["labels"] > 0
        found = found if kept.all() else {name: values[kept] for name, values in found.items()}
        seen = Prediction(boxes=found["boxes"].float(), labels=found["labels"] - 1, scores=found["scores"].float())
        if self.masks:
            seen["masks"] = found["masks"][:, 0] >= self.mask_threshold
        if "score_map" in found:
            seen["score_map"] = found["score_map"]
        return seen

    @torch.no_grad()
    def predict(self, images: Any) -> list[Prediction]:
        """Of preprocessed images, a list or (N, C, H, W): boxes xyxy in their pixels, labels, scores, masks (n, h, w).

        The best come first; what scores `threshold` or more is what the network is sure enough of.
        """
        self.eval()
        return [self.prediction(one) for one in self.model(list(images))]

    # -- stages --------------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        if self.compiled:
            getattr(self.model, "backbone", self.model).compile()

    def _rest_frozen(self) -> None:
        super()._rest_frozen()
        for part in deciders(self.model):  # a frozen part still has losses, whose gradient others need
            part.training = True

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.settle()

    def settle(self) -> None:
        """Let a network with `settle(batches)` fit what is not trained by steps, on the training images as they are.

        Where `trainer.limit_train_batches` makes epochs short, these are as few batches.

        It is called before each validation of a fit, and at the ends of epochs that would have one, in evaluation mode.
        `batches()` gives, as often as it is called, lists of preprocessed images and of targets as they come in
        training.
        """
        model: Any = self.model
        if not hasattr(model, "settle"):
            return
        self.eval()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        loader: Any = self.trainer.train_dataloader
        if hasattr(data, "eval_loader"):
            loader = data.eval_loader("train", whole=True)

        limited = self.trainer.limit_train_batches not in (None, 1.0)
        most = int(self.trainer.num_training_batches) if limited else None

        def batches() -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
            for batch in islice(loader, most):
                moved = self.transfer_batch_to_device(batch, self.device, 0)
                augment, self.augment = self.augment, None
                try:
                    images, targets = self._checked(self.on_after_batch_transfer(moved, 0))
                finally:
                    self.augment = augment
                yield images, [self.objects(target) for target in targets]

        model.settle(batches)
        self.settled_at = self.global_step

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        every = self.trainer.check_val_every_n_epoch
        if every and (self.current_epoch + 1) % every == 0 and self.settled_at != self.global_step:
            modes = [(part, part.training) for part in self.modules()]
            self.settle()
            for part, mode in modes:
                part.training = mode

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.metric("val").threshold = float(self.threshold)
        # a validation that stands in place of a test tells of each class, too
        self.metric("val").classes = self.classes if self.trainer.state.fn == TrainerFn.VALIDATING else None

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.trainer.state.fn == TrainerFn.FITTING:
            metric: Any = self.metric("val")
            self.threshold.fill_(metric.best_threshold)

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.metric("test").threshold = float(self.threshold)

    def averaging(self, name: str) -> str:
        name = name.removeprefix("mask_")
        ious = {"map_50": "IoU 0.5", "map_75": "IoU 0.75"}.get(name, "IoU 0.5 to 0.95")
        sizes = {"map_small": "below 32x32 pixels", "map_medium": "32x32 to 96x96", "map_large": "over 96x96"}
        if name.startswith("map/"):
            return ious
        if name in sizes:
            return f"mean over classes, {ious}, objects {sizes[name]}"
        if name.startswith(("map", "mar")):
            return f"mean over classes, {ious}"
        if name in ("precision", "recall", "f1"):
            return f"all boxes, IoU 0.5, score from {float(self.threshold):.2f}"
        if name.startswith("seconds"):
            return "seconds an image"
        others = {"highest_score": "of all images", "proposal_recall": "of all objects"}
        others |= dict.fromkeys(("detections", "proposals"), "mean over images")
        return others.get(name, "mean over batches' images" if name.startswith("loss") else "")


def _by_name(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses without the `loss_` of their names, which the log puts before them."""
    return {name.removeprefix("loss_"): value for name, value in losses.items()}
