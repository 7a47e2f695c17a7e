"""Classification: one class an image, one of two by a single output, or any number of labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import Metric

from lightbed.errors import UserError, one_of
from lightbed.metrics.classification import ConfusionScores, MultilabelScores
from lightbed.metrics.curves import PrecisionRecall
from lightbed.tasks.base import Task
from lightbed.types import Prediction, Step

KINDS = ("multiclass", "binary", "multilabel")


class Classifier(Task):
    """Classifies whole images.

    Args:
        model: network with logits (N, K); (N, 1) for `kind='binary'`. A named tuple or dict with auxiliary logits
            (Inception, GoogLeNet) is understood: their cross entropy is added with weight `aux_weight`.
        num_classes: K, the number of classes.
        classes: their names; numbers, if not given.
        kind: 'multiclass' (softmax, cross entropy), 'binary' (two classes, ONE output with a sigmoid, binary cross
            entropy), 'multilabel' (a sigmoid each; targets float (N, K)).
        label_smoothing: share of the truth spread over all classes, 0..1.
        class_weights: weight of each class in the loss; None for equal ones.
        aux_weight: weight of auxiliary outputs' losses in training.
        average: of precision, recall and F1, see `metrics.classification.scores`; 'auto': of class 1 for 'binary',
            else the mean over classes.
        common: the arguments of `Task`.

    Raises:
        UserError: the options contradict each other.
    """

    class_weights: Tensor | None
    learns = ("label",)
    logged = ("accuracy", "precision", "recall", "f1", "exact_match")

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        classes: Sequence[str] | None = None,
        kind: str = "multiclass",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        aux_weight: float = 0.3,
        average: str = "auto",
        monitor: str = "val/accuracy",
        **common: Any,
    ) -> None:
        names = [str(name) for name in (classes if classes is not None else range(num_classes))]
        super().__init__(model, names, monitor=monitor, **common)
        if len(names) != num_classes:
            raise UserError(f"{len(names)} class names for num_classes={num_classes}")
        self.kind = one_of(kind, KINDS, "task.kind")
        if kind == "binary" and num_classes != 2:
            raise UserError(f"task.kind=binary is for two classes, but the data has {num_classes}: use multiclass")
        if class_weights is not None and len(class_weights) != num_classes:
            raise UserError(f"task.class_weights has {len(class_weights)} values for {num_classes} classes")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"task.label_smoothing={label_smoothing} must lie in 0..1 (1 excluded)")
        self.num_classes, self.label_smoothing, self.aux_weight = num_classes, label_smoothing, aux_weight
        self.average = ("binary" if kind == "binary" else "macro") if average == "auto" else average
        if average == "binary" and num_classes != 2:
            raise UserError(f"task.average=binary is of class 1 of two, but there are {num_classes} classes")
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.curve = PrecisionRecall(num_classes)
        self.final = False  # whether a validation stands on its own, in place of a test
        self.add_metrics()

    def make_metric(self, stage: str) -> Metric:  # noqa: ARG002 - the same in every stage
        if self.kind == "multilabel":
            return MultilabelScores(self.num_classes, self.average)
        return ConfusionScores(self.num_classes, self.average)

    def step(self, batch: Any, stage: str) -> Step:
        images, target = batch
        labels = self._labels(target, images)
        logits, auxiliary = outputs_of(self.model(images))
        expected = (len(images), 1 if self.kind == "binary" else self.num_classes)
        if logits.shape != expected:
            raise UserError(f"the model's logits have shape {tuple(logits.shape)}, but {self.kind} needs {expected}")
        losses = {"loss": self.loss(logits, labels)}
        if auxiliary:
            extra = torch.stack([self.loss(aux, labels) for aux in auxiliary]).sum()
            losses = {"main": losses["loss"], "aux": self.aux_weight * extra}
        predictions = logits.detach()
        if stage == "test" or (stage == "val" and self.final):
            truth = labels > 0.5 if self.kind == "multilabel" else F.one_hot(labels, self.num_classes).bool()
            self.curve.update(self.scores(predictions), truth)
        weights = self.class_weights if self.kind == "multiclass" else None
        return Step(losses, predictions, labels, None if weights is None else weights[labels].sum())

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the batch of logits (N, K) or (N, 1) and labels int64 (N,), multi-label float (N, K).

        Multi-class weights are normalised by their sum over the batch, as in `torch.nn.CrossEntropyLoss`; those of
        the sigmoid losses are not, as in `torch.nn.BCEWithLogitsLoss`.
        """
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        if self.kind == "multiclass":
            return F.cross_entropy(logits, labels, weights, label_smoothing=self.label_smoothing)
        truth = labels.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.kind == "binary":
            return F.binary_cross_entropy_with_logits(logits[:, 0], truth, None if weights is None else weights[labels])
        return F.binary_cross_entropy_with_logits(logits, truth, weights)

    def _labels(self, target: Any, images: Tensor) -> Tensor:
        """Labels int64 (N,) or, multi-label, float (N, K) of a target dict or of a plain tensor."""
        first = target[0] if isinstance(target, list) else target  # of images that differ in size
        if isinstance(first, Mapping) and (first is not target or "label" not in first):
            found = ", ".join(key for key in first if key not in ("index", "path"))
            raise UserError(
                f"a classifier needs the label of an image, the data has its {found}: choose another network, such as "
                "model=faster_rcnn for boxes or model=unet for masks"
            )
        labels: Tensor = target["label"] if isinstance(target, Mapping) else target
        shape = (len(images), self.num_classes) if self.kind == "multilabel" else (len(images),)
        if labels.shape != shape:
            raise UserError(f"labels have shape {tuple(labels.shape)}, but {self.kind} targets are {shape}")
        return labels if self.kind == "multilabel" else labels.long()

    def metric_inputs(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (N, K), for 'binary' those of class 1 (N,), and int64 targets (N,) or (N, K)."""
        scores = self.scores(predictions)
        return scores[:, 1] if self.kind == "binary" else scores, targets.long()

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities float32 (N, K) of logits; one logit of a 'binary' network gives both classes' probabilities."""
        if self.kind == "multiclass":
            return logits.float().softmax(1)
        scores = logits.float().sigmoid()
        return scores if self.kind == "multilabel" else torch.cat([1 - scores, scores], dim=1)

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Of preprocessed images (N, C, H, W): `scores` (K,) and the most probable `label`; multi-label bool (K,)."""
        self.eval()
        scores = self.scores(outputs_of(self.model(images))[0])
        if self.kind == "multilabel":
            return [Prediction(label=row > 0.5, scores=row) for row in scores]
        return [Prediction(label=row.argmax(), scores=row) for row in scores]

    def averaging(self, name: str) -> str:
        if name in ("precision", "recall", "f1"):
            texts = {"macro": "mean over classes", "micro": "all images together", "weighted": "by images a class"}
            return texts.get(self.average, f"of class '{self.classes[1]}'" if len(self.classes) > 1 else "")
        if name == "accuracy":
            return "all pairs of image and label" if self.kind == "multilabel" else "all images"
        return "mean over images" if name.startswith("loss") else ""

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.curve.reset()

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.final = self.trainer.state.fn == TrainerFn.VALIDATING
        self.curve.reset()


def outputs_of(output: Any) -> tuple[Tensor, list[Tensor]]:
    """Main logits and the auxiliary ones, of a tensor, a tuple or a dict with `out` and `aux`; at least in float32."""
    if isinstance(output, Mapping) and "out" in output:
        output = (output["out"], *(value for name, value in output.items() if name.startswith("aux")))
    if isinstance(output, Tensor):
        output = (output,)
    if not isinstance(output, tuple):
        named = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise UserError(
            f"the model's output is a {type(output).__name__}{named}; a classifier's network returns logits (N, K), "
            "alone, first in a tuple, or as `out` in a dict"
        )
    main, *auxiliary = [_full(logits) for logits in output if logits is not None]
    return main, auxiliary


def _full(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
