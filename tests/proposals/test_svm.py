"""SVMs with hard negatives and ridge regression, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from lightbed.proposals.svm import OneVersusRest, ridge


def rows(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


def test_of_later_images_only_hard_negatives_are_taken_and_easy_ones_let_go() -> None:
    svms = OneVersusRest(1, 1.0)
    all_negative = np.ones((3, 1), bool)
    svms.add([rows(2.0, 3.0)], rows(0.0, -1.0, -9.0), all_negative)
    assert np.concatenate(svms.negatives[0]).ravel().tolist() == [0.0, -1.0, -9.0], "at first all of them"
    svms.fit()
    scores = rows(0.0, -1.0, -9.0) @ svms.weights[0] + svms.biases[0]
    kept = np.concatenate(svms.negatives[0]).ravel().tolist()
    assert kept == [x for x, score in zip([0.0, -1.0, -9.0], scores, strict=True) if score >= -1.2]
    assert -9.0 not in kept
    svms.weights, svms.biases = np.array([[1.0]]), np.array([0.0])  # a score is the feature itself
    svms.add([rows(2.5)], rows(-1.5, -0.5, 0.7), np.array([[True], [True], [False]]))
    assert svms.negatives[0][-1].ravel().tolist() == [-0.5], "over the margin, and a negative at all"


def test_images_passing_by_give_the_svm_of_all_images_at_once() -> None:
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(1.5, 1, (60, 3)), rng.normal(-1, 1, (400, 3))
    svms = OneVersusRest(1, 0.1)
    for part in range(4):
        others = negatives[100 * part : 100 * part + 100]
        svms.add([positives[15 * part : 15 * part + 15]], others, np.ones((100, 1), bool))
        svms.fit()
    labels = np.repeat([1, 0], [60, 400])
    whole = LinearSVC(C=0.1, dual=False, class_weight={1: 2.0}, intercept_scaling=10.0)
    whole.fit(np.concatenate([positives, negatives]), labels)
    np.testing.assert_allclose(svms.weights[0], whole.coef_[0], rtol=0.1, atol=0.02)
    assert svms.biases[0] == pytest.approx(whole.intercept_[0], abs=0.05)
    assert sum(map(len, svms.negatives[0])) < 400


def test_each_class_has_its_own_svm_and_one_without_objects_finds_none() -> None:
    svms = OneVersusRest(3, 1.0)
    features = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
    svms.add([np.array([[4.0, 0.0]]), np.array([[0.0, 4.0]]), np.zeros((0, 2))], features, np.ones((3, 3), bool))
    svms.fit()
    margins = np.array([[4.0, 0.0], [0.0, 4.0]]) @ svms.weights.T + svms.biases
    assert margins[:, :2].argmax(1).tolist() == [0, 1]
    assert (margins[:, 2] == -1).all()


def test_probabilities_keep_the_order_of_margins_and_are_right_for_objects() -> None:
    rng = np.random.default_rng(0)
    svms = OneVersusRest(1, 0.1)
    svms.add([rng.normal(2, 1, (50, 2))], rng.normal(-1, 1, (200, 2)), np.ones((200, 1), bool))
    svms.fit()
    (factor, shift) = svms.probabilities()[0]
    assert factor > 0
    margins = np.concatenate(svms.positives[0]) @ svms.weights[0] + svms.biases[0]
    assert np.median(1 / (1 + np.exp(-(factor * margins + shift)))) > 0.8
    assert OneVersusRest(2, 0.1).probabilities().tolist() == [[1, 0], [1, 0]], "before any fit margins are logits"


def test_ridge_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(3, 1, (40, 5)), rng.normal(0, 1, (40, 4))
    reference = Ridge(alpha=2.5).fit(features, targets)
    found = ridge(features, targets, 2.5)
    np.testing.assert_allclose(found[:-1], reference.coef_.T, rtol=1e-6)
    np.testing.assert_allclose(found[-1], reference.intercept_, rtol=1e-6)
    assert not ridge(features[:0], targets[:0], 1.0).any()
