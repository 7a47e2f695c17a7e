"""The metrics against plain loops, scikit-learn and torchmetrics, over random data."""

from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

from lightbed.errors import UserError
from lightbed.metrics import ConfusionScores, LossMean, MultilabelScores, PrecisionRecall
from lightbed.metrics.classification import confusion, per_class_scores, scores
from lightbed.metrics.curves import histogram

NAMES = ("precision", "recall", "f1")


@st.composite
def labelled(draw: Any) -> tuple[int, Tensor, Tensor]:
    """Number of classes, logits (N, K) and truth (N,); often with classes that never occur."""
    classes, count = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    present = draw(st.integers(1, classes))
    logits = torch.randn(count, classes, generator=generator)
    logits[:, present:] -= 100 * draw(st.booleans())
    return classes, logits, torch.randint(0, present, (count,), generator=generator)


def by_sklearn(predicted: Tensor, truth: Tensor, average: str) -> dict[str, float]:
    found = sklearn.metrics.precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
    return dict(zip(NAMES, found, strict=False))


@settings(max_examples=60, deadline=None)
@given(labelled(), st.sampled_from(["macro", "micro", "weighted"]))
def test_scores_equal_scikit_learns(data: tuple[int, Tensor, Tensor], average: str) -> None:
    classes, logits, truth = data
    metric = ConfusionScores(classes, average)
    metric.update(logits, truth)
    found = metric.compute()
    predicted = logits.argmax(1)
    expected = {"accuracy": (predicted == truth).double().mean(), **by_sklearn(predicted, truth, average)}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, abs=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(labelled(), st.sampled_from(["macro", "micro", "weighted"]))
def test_scores_equal_torchmetrics(data: tuple[int, Tensor, Tensor], average: str) -> None:
    classes, logits, truth = data
    found = scores(confusion(logits.argmax(1), truth, classes), average)
    for name, function in (
        ("precision", reference.multiclass_precision),
        ("recall", reference.multiclass_recall),
        ("f1", reference.multiclass_f1_score),
    ):
        expected = function(logits, truth, classes, average=average)
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(labelled())
def test_confusion_and_scores_of_each_class_by_a_plain_loop(data: tuple[int, Tensor, Tensor]) -> None:
    classes, logits, truth = data
    predicted = logits.argmax(1)
    matrix = confusion(predicted, truth, classes)
    counted = [[0] * classes for _ in range(classes)]
    for is_, said in zip(truth.tolist(), predicted.tolist(), strict=True):
        counted[is_][said] += 1
    assert matrix.tolist() == counted
    precision, recall, f1 = per_class_scores(matrix)
    for k in range(classes):
        true, called, real = counted[k][k], sum(row[k] for row in counted), sum(counted[k])
        assert precision[k].item() == pytest.approx(true / called if called else 0)
        assert recall[k].item() == pytest.approx(true / real if real else 0)
        assert f1[k].item() == pytest.approx(2 * true / (called + real) if called + real else 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3, width=32), st.integers(0, 1)), min_size=1, max_size=30))
def test_one_output_for_two_classes(pairs: list[tuple[float, int]]) -> None:
    logits, truth = torch.tensor([p[0] for p in pairs])[:, None], torch.tensor([p[1] for p in pairs])
    metric = ConfusionScores(2, "binary")
    metric.update(logits, truth)
    found = metric.compute()
    predicted = (logits[:, 0] > 0).long()
    expected = sklearn.metrics.precision_recall_fscore_support(
        truth, predicted, average="binary", pos_label=1, labels=[0, 1], zero_division=0
    )
    assert [found[name].item() for name in NAMES] == pytest.approx([float(v) for v in expected[:3]], abs=1e-6)
    assert found["accuracy"].item() == pytest.approx((predicted == truth).double().mean().item())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**31), st.sampled_from(["macro", "micro"]))
def test_multilabel_scores_equal_scikit_learns_and_torchmetrics(
    classes: int, count: int, seed: int, average: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    truth = (torch.rand(count, classes, generator=generator) < 0.3).float()
    metric = MultilabelScores(classes, average)
    metric.update(logits, truth)
    found = {name: value.item() for name, value in metric.compute().items()}
    called = logits > 0
    if classes > 1:  # of one column scikit-learn makes a binary problem, and torchmetrics an error
        expected = by_sklearn(called.long(), truth.long(), average)
        assert {name: found[name] for name in NAMES} == pytest.approx({k: float(expected[k]) for k in NAMES}, abs=1e-6)
    assert found["exact_match"] == pytest.approx(np.mean((called == truth.bool()).all(1).numpy()), abs=1e-6)
    assert found["accuracy"] == pytest.approx((called == truth.bool()).double().mean().item(), abs=1e-6)
    if classes > 1:
        expected_f1 = reference.multilabel_f1_score(logits.sigmoid(), truth.long(), classes, average=average)
        assert found["f1"] == pytest.approx(expected_f1.item(), abs=1e-6)


def test_precision_recall_curve_by_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(50, 3, generator=generator)
    truth = torch.rand(50, 3, generator=generator) < 0.4
    metric = PrecisionRecall(3, bins=11)
    metric.update(values, truth)
    found = metric.compute()
    for k in range(3):
        for i in range(11):
            called = (values[:, k] * 10).floor() >= i
            hits = (called & truth[:, k]).sum().item()
            assert found["precision"][k, i].item() == pytest.approx(hits / called.sum().item() if called.any() else 1)
            assert found["recall"][k, i].item() == pytest.approx(hits / truth[:, k].sum().item())


def test_average_precision_approaches_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.rand(3000, 4, generator=generator) < torch.tensor([0.5, 0.1, 0.02, 0.0])
    values = (torch.randn(3000, 4, generator=generator) + 1.5 * truth).sigmoid()
    metric = PrecisionRecall(4)
    metric.update(values, truth)
    found = metric.compute()["average_precision"]
    for k in range(3):
        expected = sklearn.metrics.average_precision_score(truth[:, k], values[:, k])
        assert found[k].item() == pytest.approx(expected, abs=5e-3)
    assert found[3].isnan(), "a class that never occurs has no recall"


def test_scores_at_the_ends_stay_inside_the_histogram() -> None:
    counts = histogram(torch.tensor([[0.0], [1.0], [0.5]]), torch.tensor([[True], [True], [False]]), bins=3)
    assert counts.tolist() == [[[0, 1, 0]], [[1, 0, 1]]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=60), st.integers(1, 20))
def test_mean_loss_weighs_images_and_not_batches(values: list[float], size: int) -> None:
    metric = LossMean()
    images = torch.tensor(values)
    for part in images.split(size):
        metric.update({"loss": part.mean(), "loss_box": part.abs().mean()}, len(part))
    found = metric.compute()
    assert found["loss"].item() == pytest.approx(float(np.mean(values)), abs=1e-4)
    assert found["loss_box"].item() == pytest.approx(float(np.mean(np.abs(values))), abs=1e-4)


def test_mean_loss_of_many_batches_does_not_drift() -> None:
    metric = LossMean()
    value = torch.tensor(0.1)
    for _ in range(20_000):
        metric.update({"loss": value}, 1)
    assert metric.compute()["loss"].item() == pytest.approx(value.item(), rel=1e-7)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric LossMean:UserWarning")  # it says what is tested
def test_an_epoch_of_which_nothing_is_left_has_no_mean_loss() -> None:
    metric = LossMean()
    metric.update({"loss": torch.tensor(1.0), "loss_box": torch.tensor(2.0)}, 3)
    metric.reset()
    found = metric.compute()
    assert list(found) == ["loss", "loss_box"]
    assert all(value.isnan() for value in found.values())


def test_a_diverged_loss_stays_visible() -> None:
    metric = LossMean()
    for value in (1.0, float("nan"), 1.0):
        metric.update({"loss": torch.tensor(value)}, 4)
    assert metric.compute()["loss"].isnan()


def batches(size: int) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(5)
    logits, truth = torch.randn(37, 3, generator=generator), torch.randint(0, 3, (37,), generator=generator)
    return list(zip(logits.split(size), truth.split(size), strict=True))


def update(name: str, metric: Metric, logits: Tensor, truth: Tensor) -> None:
    hot = torch.nn.functional.one_hot(truth, 3)
    if name == "losses":
        metric.update({"loss": (logits.mean(1) * truth).mean()}, len(truth))
    elif name == "multilabel":
        metric.update(logits, hot)
    elif name == "curve":
        metric.update(logits.softmax(1), hot.bool())
    else:
        metric.update(logits, truth)


METRICS = {
    "scores": lambda: ConfusionScores(3),
    "multilabel": lambda: MultilabelScores(3),
    "curve": lambda: PrecisionRecall(3),
    "losses": LossMean,
}


@pytest.mark.parametrize("name", METRICS)
def test_values_do_not_depend_on_the_batch_size(name: str) -> None:
    found = []
    for size in (1, 8, 37):
        metric = METRICS[name]()
        for logits, truth in batches(size):
            update(name, metric, logits, truth)
        found.append(metric.compute())
    for other in found[1:]:
        for key, value in found[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", METRICS)
def test_states_of_two_processes_sum_to_the_whole(name: str) -> None:
    whole, parts = METRICS[name](), (METRICS[name](), METRICS[name]())
    for i, (logits, truth) in enumerate(batches(5)):
        update(name, whole, logits, truth)
        update(name, parts[i % 2], logits, truth)
    assert set(parts[0]._reductions.values()) == {torchmetrics_sum(parts[0])}, "every state is summed over processes"
    for state in parts[0]._defaults:
        setattr(parts[0], state, getattr(parts[0], state) + getattr(parts[1], state))
    parts[0]._computed = None
    for key, value in whole.compute().items():
        torch.testing.assert_close(parts[0].compute()[key], value, rtol=1e-6, atol=1e-7)


def torchmetrics_sum(metric: Metric) -> Any:
    from torchmetrics.utilities.data import dim_zero_sum

    return dim_zero_sum


@pytest.mark.parametrize("name", METRICS)
def test_states_survive_a_checkpoint_in_the_middle_of_an_epoch(name: str) -> None:
    whole, first, second = METRICS[name](), METRICS[name](), METRICS[name]()
    first.persistent(True)
    second.persistent(True)
    for i, (logits, truth) in enumerate(batches(5)):
        update(name, whole, logits, truth)
        if i < 4:
            update(name, first, logits, truth)
        else:
            if i == 4:
                second.load_state_dict(first.state_dict())
            update(name, second, logits, truth)
    for key, value in whole.compute().items():
        assert torch.equal(second.compute()[key], value)


def test_states_are_not_in_ordinary_checkpoints() -> None:
    assert all(not METRICS[name]().state_dict() for name in METRICS)


def test_averages_are_checked() -> None:
    with pytest.raises(UserError, match=r"task\.average=macor is not known: did you mean macro"):
        ConfusionScores(3, "macor")
    with pytest.raises(UserError, match=r"task\.average=weighted"):
        MultilabelScores(3, "weighted")
