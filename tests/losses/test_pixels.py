"""Losses over pixels against plain loops, and against torch where torch has them."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightbed.losses.pixels import LOSSES, VOID, cross_entropy, dice, focal, frequency_weights


def batch(seed: int, void: float = 0.3, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, truth with void, and weights."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 3, 5, generator=generator) * 3
    truth = torch.randint(classes, (2, 3, 5), generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < void] = VOID
    truth[0, 0, 0] = 0  # never void altogether
    return logits, truth, torch.rand(classes, generator=generator) + 0.1


def pixels(logits: Tensor, truth: Tensor) -> list[tuple[list[float], int]]:
    """Probabilities and label of each pixel that is not void."""
    found = []
    for n, y, x in torch.cartesian_prod(*(torch.arange(s) for s in truth.shape)).tolist():
        if (label := int(truth[n, y, x])) != VOID:
            raw = [math.exp(v) for v in logits[n, :, y, x].double().tolist()]
            found.append(([v / sum(raw) for v in raw], label))
    return found


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_cross_entropy_is_torchs(seed: int, weighted: bool) -> None:
    logits, truth, weights = batch(seed)
    chosen = weights if weighted else None
    expected = F.cross_entropy(logits, truth, chosen, ignore_index=VOID)
    torch.testing.assert_close(cross_entropy(logits, truth, chosen), expected)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
@settings(max_examples=30, deadline=None)
def test_focal_is_its_formula(seed: int, gamma: float) -> None:
    logits, truth, weights = batch(seed)
    total = share = 0.0
    for probabilities, label in pixels(logits, truth):
        p, w = probabilities[label], float(weights[label])
        total += -w * (1 - p) ** gamma * math.log(p)
        share += w
    assert float(focal(logits, truth, weights, gamma)) == pytest.approx(total / share, rel=1e-4, abs=1e-5)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_dice_is_its_formula(seed: int) -> None:
    logits, truth, _ = batch(seed)
    scores = []
    for k in range(4):
        both = sum(p[k] for p, label in pixels(logits, truth) if label == k)
        predicted = sum(p[k] for p, _ in pixels(logits, truth))
        there = sum(label == k for _, label in pixels(logits, truth))
        if there:
            scores.append((2 * both + 1) / (predicted + there + 1))
    assert float(dice(logits, truth)) == pytest.approx(1 - sum(scores) / len(scores), rel=1e-5)


def test_hand_values() -> None:
    """Two pixels with p = 0.8 and 0.5 of their true classes 0 and 1, weights 1 and 3, and a void one."""
    logits = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.9, 0.1]]).log().T.reshape(1, 2, 1, 3)
    truth, weights = torch.tensor([[[0, 1, VOID]]]), torch.tensor([1.0, 3.0])
    plain, weighted = [-math.log(0.8), -math.log(0.5)], -math.log(0.8) - 3 * math.log(0.5)
    assert float(cross_entropy(logits, truth)) == pytest.approx(sum(plain) / 2)
    assert float(cross_entropy(logits, truth, weights)) == pytest.approx(weighted / 4)
    assert float(focal(logits, truth)) == pytest.approx((0.2**2 * plain[0] + 0.5**2 * plain[1]) / 2)
    missed = [1 - (2 * 0.8 + 1) / (1.3 + 1 + 1), 1 - (2 * 0.5 + 1) / (0.7 + 1 + 1)]
    assert float(dice(logits, truth)) == pytest.approx(sum(missed) / 2)
    assert float(dice(logits, truth, weights)) == pytest.approx((missed[0] + 3 * missed[1]) / 4)


@pytest.mark.parametrize("name", LOSSES)
def test_void_has_no_influence(name: str) -> None:
    logits, truth, weights = batch(1)
    logits.requires_grad_()
    loss = LOSSES[name](logits, truth, weights)
    loss.backward()
    gradient = logits.grad.movedim(1, -1)
    assert float(gradient[truth == VOID].abs().max()) == 0
    assert float(gradient[truth != VOID].abs().min()) > 0
    changed = torch.where((truth == VOID)[:, None], 100.0, logits.detach())
    torch.testing.assert_close(LOSSES[name](changed, truth, weights), loss.detach())


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_but_void_is_a_loss_of_zero(name: str) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((1, 4, 4), VOID))
    loss.backward()
    assert loss.item() == 0
    assert float(logits.grad.abs().max()) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_and_confident_is_nearly_no_loss(name: str) -> None:
    truth = torch.randint(3, (2, 6, 6))
    assert float(LOSSES[name](F.one_hot(truth, 3).movedim(-1, 1) * 30.0, truth)) < 1e-4


def test_class_weights_by_frequency() -> None:
    pixels, images = torch.tensor([60, 30, 10, 0]), torch.tensor([100, 50, 50, 0])
    balanced = frequency_weights(pixels, images, "balanced")
    torch.testing.assert_close(balanced, torch.tensor([100 / 240, 100 / 120, 100 / 40, 0]))
    inverse = frequency_weights(pixels, images, "inverse")
    assert float(inverse.sum()) == pytest.approx(3)
    assert float(inverse[1] / inverse[0]) == pytest.approx(2)
    # frequencies 0.6, 0.6, 0.2; the median is 0.6
    torch.testing.assert_close(frequency_weights(pixels, images, "median"), torch.tensor([1.0, 1.0, 3.0, 0.0]))
