"""SVMs with hard negatives and ridge regression, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from lightbed.proposals.svm import OneVersusRest, ridge


def rows(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


def test_of_later_images_only_hard_negatives_are_taken_and_easy_ones_let_go() -> None:
    svms = OneVersusRest([rows(2.0, 3.0)], 1.0)
    svms.show(rows(0.0, -1.0, -9.0), np.ones((3, 1), bool))
    assert np.concatenate(svms.negatives[0]).ravel().tolist() == [0.0, -1.0, -9.0], "at first all of them"
    svms.fit(0)
    scores = rows(0.0, -1.0, -9.0) @ svms.weights[0] + svms.biases[0]
    kept = np.concatenate(svms.negatives[0]).ravel().tolist()
    assert kept == [x for x, score in zip([0.0, -1.0, -9.0], scores, strict=True) if score >= -1.2]
    assert -9.0 not in kept
    svms.weights, svms.biases = np.array([[1.0]]), np.array([0.0])  # a score is the feature itself
    svms.show(rows(-1.5, -0.5, 0.7), np.array([[True], [True], [False]]))
    assert svms.negatives[0][-1].ravel().tolist() == [-0.5], "over the margin, and a negative at all"


def test_a_class_is_fitted_again_when_so_many_new_negatives_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightbed.proposals.svm._NEW", 4)
    svms = OneVersusRest([rows(2.0), rows(5.0)], 1.0)
    first = np.array([[True, True], [True, False], [True, False]])
    svms.show(rows(0.0, 0.1, 0.2), first)
    assert not svms.fitted.any()
    svms.show(rows(0.3), np.array([[True, True]]))
    assert svms.fitted.tolist() == [True, False], "four of the first class, two of the second"
    assert svms.new == [0, 2]


def test_images_passing_by_give_the_svm_of_all_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightbed.proposals.svm._NEW", 50)
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(1.5, 1, (60, 3)), rng.normal(-1, 1, (400, 3))
    svms = OneVersusRest([positives], 0.1)
    for part in range(8):
        svms.show(negatives[50 * part : 50 * part + 50], np.ones((50, 1), bool))
    svms.finish()
    labels = np.repeat([1, 0], [60, 400])
    whole = LinearSVC(C=0.1, dual=False, class_weight={1: 2.0}, intercept_scaling=10.0)
    whole.fit(np.concatenate([positives, negatives]), labels)
    np.testing.assert_allclose(svms.weights[0], whole.coef_[0], rtol=0.1, atol=0.02)
    assert svms.biases[0] == pytest.approx(whole.intercept_[0], abs=0.05)
    assert sum(map(len, svms.negatives[0])) < 400


def test_each_class_has_its_own_svm_and_one_without_objects_finds_none() -> None:
    svms = OneVersusRest([np.array([[4.0, 0.0]]), np.array([[0.0, 4.0]]), np.zeros((0, 2))], 1.0)
    svms.show(np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]]), np.ones((3, 3), bool))
    svms.finish()
    margins = np.array([[4.0, 0.0], [0.0, 4.0]]) @ svms.weights.T + svms.biases
    assert margins[:, :2].argmax(1).tolist() == [0, 1]
    assert (margins[:, 2] == -1).all()
    factor, shift = svms.probabilities()[2]
    assert (factor * margins[:, 2] + shift < -100).all(), "the logit of a probability of nothing"


def test_an_svm_whose_negatives_have_all_become_easy_stays_as_it_is() -> None:
    svms = OneVersusRest([rows(2.0, 3.0)], 1.0)
    svms.show(rows(0.0, -1.0), np.ones((2, 1), bool))
    svms.fit(0)
    weights, bias = svms.weights.copy(), svms.biases.copy()
    svms.negatives[0] = [rows()]
    svms.finish()
    assert (svms.weights == weights).all()
    assert (svms.biases == bias).all()


def test_probabilities_keep_the_order_of_margins_and_are_right_for_objects() -> None:
    rng = np.random.default_rng(0)
    svms = OneVersusRest([rng.normal(2, 1, (50, 2))], 0.1)
    svms.show(rng.normal(-1, 1, (200, 2)), np.ones((200, 1), bool))
    svms.finish()
    (factor, shift) = svms.probabilities()[0]
    assert factor > 0
    margins = svms.positives[0] @ svms.weights[0] + svms.biases[0]
    assert np.median(1 / (1 + np.exp(-(factor * margins + shift)))) > 0.8
    before = OneVersusRest([rows(1.0), rows(2.0)], 0.1)
    assert before.probabilities().tolist() == [[1, 0], [1, 0]], "without a negative margins are logits"


def test_ridge_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(3, 1, (40, 5)), rng.normal(0, 1, (40, 4))
    reference = Ridge(alpha=2.5).fit(features, targets)
    found = ridge(features, targets, 2.5)
    np.testing.assert_allclose(found[:-1], reference.coef_.T, rtol=1e-6)
    np.testing.assert_allclose(found[-1], reference.intercept_, rtol=1e-6)
    assert not ridge(features[:0], targets[:0], 1.0).any()
