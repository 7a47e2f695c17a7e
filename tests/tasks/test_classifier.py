"""The classifier: losses by formula, kinds of targets, weights, further metrics, wrong use."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MultilabelAUROC,
)

from lightbed.errors import UserError
from lightbed.tasks import Classifier

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3], [-1.0, 3.0, 1.0], [0.0, 0.0, 4.0]])
LABELS = torch.tensor([0, 2, 1, 2])


class Given(nn.Module):
    """Returns what it was given, whatever the images."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> Any:
        return self.output


def loss_of(output: Any, labels: Any, classes: int = 3, stage: str = "train", **options: Any) -> float:
    task = Classifier(Given(output), classes, **options)
    step = task.step((torch.zeros(len(LABELS), 1, 4, 4), labels), stage)
    return sum(step.losses.values()).item()


def test_multiclass_loss_by_hand() -> None:
    expected = 0.0
    for row, label in zip(LOGITS.double(), LABELS, strict=True):
        expected += (row.exp().sum().log() - row[label]).item() / 4
    assert loss_of(LOGITS, {"label": LABELS}) == pytest.approx(expected)


def test_label_smoothing_spreads_the_truth() -> None:
    truth = F.one_hot(LABELS, 3) * 0.9 + 0.1 / 3
    expected = -(truth * LOGITS.log_softmax(1)).sum(1).mean().item()
    assert loss_of(LOGITS, LABELS, label_smoothing=0.1) == pytest.approx(expected)


def test_class_weights_as_in_torch() -> None:
    weights = [1.0, 2.0, 0.5]
    terms = -LOGITS.log_softmax(1)[range(4), LABELS] * torch.tensor(weights)[LABELS]
    expected = terms.sum() / torch.tensor(weights)[LABELS].sum()
    assert loss_of(LOGITS, LABELS, class_weights=weights) == pytest.approx(expected.item())


def test_one_output_for_two_classes() -> None:
    logits, labels = LOGITS[:, :1], LABELS.clamp(max=1)
    p = logits[:, 0].sigmoid()
    terms = -(labels * p.log() + (1 - labels) * (1 - p).log())
    assert loss_of(logits, labels, 2, kind="binary") == pytest.approx(terms.mean().item())
    weighted = terms * torch.tensor([3.0, 0.25])[labels]
    found = loss_of(logits, labels, 2, kind="binary", class_weights=[3.0, 0.25])
    assert found == pytest.approx(weighted.mean().item())
    smooth = labels * 0.8 + 0.1
    expected = -(smooth * p.log() + (1 - smooth) * (1 - p).log()).mean().item()
    assert loss_of(logits, labels, 2, kind="binary", label_smoothing=0.2) == pytest.approx(expected)


def test_multilabel_loss() -> None:
    truth = (LOGITS > 0.3).float()
    expected = F.binary_cross_entropy_with_logits(LOGITS, truth, torch.tensor([1.0, 2.0, 3.0])).item()
    found = loss_of(LOGITS, truth, kind="multilabel", class_weights=[1, 2, 3])
    assert found == pytest.approx(expected)


class Outputs(NamedTuple):
    logits: Tensor
    aux: Tensor | None


def test_auxiliary_outputs_are_added_with_their_weight() -> None:
    aux = LOGITS.flip(0)
    main, extra = F.cross_entropy(LOGITS, LABELS).item(), F.cross_entropy(aux, LABELS).item()
    for output in (Outputs(LOGITS, aux), {"out": LOGITS, "aux": aux}):
        assert loss_of(output, LABELS, aux_weight=0.25) == pytest.approx(main + 0.25 * extra)
    assert loss_of(Outputs(LOGITS, None), LABELS) == pytest.approx(main)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_and_predictions_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    task = Classifier(Given(LOGITS.to(dtype)), 3)
    step = task.step((torch.zeros(4, 1, 4, 4), LABELS), "train")
    assert step.losses["loss"].dtype == step.predictions.dtype == torch.float32
    assert step.losses["loss"].item() == pytest.approx(F.cross_entropy(LOGITS.to(dtype).float(), LABELS).item())


@pytest.mark.parametrize("labels", [LABELS, LABELS.int(), LABELS.to(torch.uint8), {"label": LABELS}])
def test_labels_of_any_whole_kind(labels: Any) -> None:
    assert loss_of(LOGITS, labels) == pytest.approx(F.cross_entropy(LOGITS, LABELS).item())


def test_predictions_of_each_kind() -> None:
    images = torch.zeros(4, 1, 4, 4)
    found = Classifier(Given(LOGITS), 3).predict(images)
    assert [int(p["label"]) for p in found] == LOGITS.argmax(1).tolist()
    torch.testing.assert_close(torch.stack([p["scores"] for p in found]), LOGITS.softmax(1))
    found = Classifier(Given(LOGITS[:, :1]), 2, kind="binary").predict(images)
    assert [int(p["label"]) for p in found] == (LOGITS[:, 0] > 0).long().tolist()
    torch.testing.assert_close(found[0]["scores"], torch.tensor([1 - 0.8807971, 0.8807971]))
    found = Classifier(Given(LOGITS), 3, kind="multilabel").predict(images)
    assert torch.stack([p["label"] for p in found]).equal(LOGITS > 0)


@pytest.mark.parametrize(
    ("options", "output", "labels", "metric", "expected"),
    [
        ({}, LOGITS, LABELS, MulticlassAccuracy(3, top_k=2, average="micro"), 0.75),
        ({}, LOGITS, LABELS, MulticlassCalibrationError(3), None),
        ({"kind": "binary", "num_classes": 2}, LOGITS[:, :1], torch.tensor([1, 0, 0, 1]), BinaryAUROC(), 0.75),
        ({"kind": "multilabel"}, LOGITS, (LOGITS > 0.3).float(), MultilabelAUROC(3), 1.0),
    ],
)
def test_further_metrics_get_probabilities(
    options: dict[str, Any], output: Tensor, labels: Tensor, metric: Any, expected: float | None
) -> None:
    task = Classifier(Given(output), **{"num_classes": 3, "metrics": {"extra": metric}, **options})
    step = task.step((torch.zeros(4, 1, 4, 4), labels), "val")
    values, targets = task.metric_inputs(step.predictions, step.targets)
    assert values.min() >= 0
    assert values.max() <= 1
    if task.kind == "multiclass":
        torch.testing.assert_close(values.sum(1), torch.ones(4))
    metric.update(values, targets)
    if expected is not None:
        assert metric.compute().item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "multi"}, "task.kind=multi is not known: did you mean multilabel or multiclass"),
        ({"kind": "binary"}, "task.kind=binary is for two classes, but the data has 3"),
        ({"average": "binary"}, "task.average=binary is of class 1 of two, but there are 3 classes"),
        ({"average": "mean"}, "task.average=mean is not known"),
        ({"class_weights": [1, 2]}, "task.class_weights has 2 values for 3 classes"),
        ({"label_smoothing": 1.0}, "task.label_smoothing=1.0 must lie in 0..1"),
        ({"classes": ["a", "b"]}, "2 class names for num_classes=3"),
        ({"interval": "batch"}, "scheduler.interval=batch is not known"),
    ],
)
def test_contradictions_are_told_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(Given(LOGITS), 3, **options)


@pytest.mark.parametrize(
    ("output", "labels", "options", "message"),
    [
        (LOGITS[:, :2], LABELS, {}, r"logits have shape \(4, 2\), but multiclass needs \(4, 3\)"),
        (LOGITS, LABELS[:, None], {}, r"labels have shape \(4, 1\), but multiclass targets are \(4,\)"),
        (LOGITS, LABELS, {"kind": "multilabel"}, r"labels have shape \(4,\), but multilabel targets are \(4, 3\)"),
        ([LOGITS], LABELS, {}, "the model's output is a list"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(output: Any, labels: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        loss_of(output, labels, **options)


def test_averages_are_named() -> None:
    task = Classifier(Given(LOGITS), 3)
    assert [task.averaging(name) for name in ("accuracy", "f1", "loss", "top5")] == [
        *("all images", "mean over classes", "mean over images", "")
    ]
    binary = Classifier(Given(LOGITS), 2, kind="binary", classes=["horse", "human"])
    assert binary.averaging("precision") == "of class 'human'"


def test_metrics_that_cannot_be_logged_are_refused() -> None:
    from lightbed.metrics.further import check_further

    with pytest.raises(UserError, match=r"task\.metrics\.matrix is of shape \(3, 3\), not one number"):
        check_further({"matrix": MulticlassConfusionMatrix(3).confmat}, {})
    with pytest.raises(UserError, match=r"accuracy is the task's own metric"):
        check_further({"accuracy": torch.tensor(1.0)}, {"accuracy": torch.tensor(1.0)})


def test_targets_of_another_task_are_told() -> None:
    with pytest.raises(UserError, match="a classifier needs the label of an image, the data has its boxes, mask"):
        loss_of(LOGITS, {"boxes": None, "mask": None, "index": LABELS})
