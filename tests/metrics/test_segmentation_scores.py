"""Scores of a segmenter against plain loops and torchmetrics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from lightbed.metrics.segmentation import VOID, SegmentationScores, class_iou, pixel_confusion


def maps(seed: int, count: int = 4, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Predictions, half of them right, and truth with void; class 4 never occurs."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes - 1, (count, 6, 7), generator=generator)
    guess = torch.randint(classes - 1, truth.shape, generator=generator)
    predicted = torch.where(torch.rand(truth.shape, generator=generator) < 0.5, truth, guess)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = VOID
    return predicted, truth


def by_hand(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Every score by a plain loop over pixels."""
    cells: dict[tuple[int, int], int] = {}
    accuracies = []
    for guesses, labels in zip(predicted.tolist(), truth.tolist(), strict=True):
        right = seen = 0
        for row, true_row in zip(guesses, labels, strict=True):
            for guess, label in zip(row, true_row, strict=True):
                if label == VOID:
                    continue
                cells[label, guess] = cells.get((label, guess), 0) + 1
                right, seen = right + (guess == label), seen + 1
        if seen:
            accuracies.append(right / seen)
    values = {"pixel_accuracy": sum(accuracies) / len(accuracies)}
    names = {k for cell in cells for k in cell}
    values["accuracy"] = sum(n for (t, p), n in cells.items() if t == p) / sum(cells.values())
    for k in names:
        both = cells.get((k, k), 0)
        there = sum(n for (t, _), n in cells.items() if t == k)
        called = sum(n for (_, p), n in cells.items() if p == k)
        values[f"iou/{k}"] = both / (there + called - both)
        values[f"precision/{k}"] = both / called if called else 0.0
        values[f"recall/{k}"] = both / there if there else 0.0
    for name in ("iou", "precision", "recall"):
        values[name] = sum(values[f"{name}/{k}"] for k in names) / len(names)
    return values


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_scores_are_those_of_a_plain_loop(seed: int) -> None:
    predicted, truth = maps(seed)
    metric = SegmentationScores(5, [str(k) for k in range(5)])
    metric.update(predicted, truth)
    found = {name: float(value) for name, value in metric.compute().items() if name != "f1"}
    assert found == pytest.approx(by_hand(predicted, truth), abs=1e-6)


def test_scores_do_not_depend_on_the_batches() -> None:
    predicted, truth = maps(3, count=7)
    whole, parts = SegmentationScores(5), SegmentationScores(5)
    whole.update(predicted, truth)
    for some in torch.arange(7).split(3):
        parts.update(predicted[some], truth[some])
    assert whole.compute() == parts.compute()


def test_mean_over_images_is_not_the_share_of_all_pixels() -> None:
    """An image that is mostly void counts as much as any other in pixel_accuracy, as its author defines it."""
    truth = torch.full((2, 10, 10), VOID)
    truth[0] = 1
    truth[1, 0, 0] = 0
    metric = SegmentationScores(2)
    metric.update(torch.ones_like(truth), truth)
    values = metric.compute()
    assert float(values["pixel_accuracy"]) == 0.5
    assert float(values["accuracy"]) == pytest.approx(100 / 101)


def test_mean_iou_is_torchmetrics_jaccard_index() -> None:
    predicted, truth = maps(5)
    theirs = MulticlassJaccardIndex(4, average="none", ignore_index=VOID)(predicted, truth)
    torch.testing.assert_close(class_iou(pixel_confusion(predicted, truth, 4)).float(), theirs)


def test_logits_are_taken_by_their_highest_class() -> None:
    predicted, truth = maps(6)
    by_logits, by_class = SegmentationScores(5), SegmentationScores(5)
    by_logits.update(torch.nn.functional.one_hot(predicted, 5).movedim(-1, 1) - 0.5, truth)
    by_class.update(predicted, truth)
    assert by_logits.compute() == by_class.compute()


def test_images_that_are_all_void_do_not_count() -> None:
    metric = SegmentationScores(3, ["a", "b", "c"])
    metric.update(torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), VOID))
    assert {name: float(value) for name, value in metric.compute().items()} == dict.fromkeys(
        ("pixel_accuracy", "accuracy", "precision", "recall", "f1", "iou"), 0.0
    )
