"""What R-CNN fits after its network: linear SVMs with hard negatives, and ridge regression of boxes."""

from collections.abc import Sequence

import numpy as np

HARD, EASY = -1.0, -1.2  # a negative over the first is taken in; one that falls below the second is let go
_POSITIVE_WEIGHT, _BIAS = 2.0, 10.0  # of R-CNN's own code: positives are few, and the bias is hardly regularised


class OneVersusRest:
    """A linear SVM a class, fitted while images pass by: of their many negatives only the hard ones are kept.

    As in Felzenszwalb et al. 2010: the first images' negatives are all taken; of those of later images only what the
    SVMs so far score over -1, the margin. After each fit, negatives that have become easy are let go.

    Args:
        num_classes: K.
        cost: C of the SVM.
    """

    def __init__(self, num_classes: int, cost: float) -> None:
        self.cost = cost
        self.positives: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
        self.negatives: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
        self.weights: np.ndarray | None = None  # (K, D)
        self.biases = np.zeros(num_classes)

    def add(self, positives: Sequence[np.ndarray], features: np.ndarray, negative: np.ndarray) -> None:
        """Take in an image.

        Args:
            positives: of each class, features (m, D) of its objects.
            features: (n, D) of the image's proposals.
            negative: bool (n, K), which of them are negatives of which class.
        """
        for k, own in enumerate(positives):
            self.positives[k].append(own)
            others = features[negative[:, k]]
            if self.weights is not None:
                others = others[others @ self.weights[k] + self.biases[k] > HARD]
            self.negatives[k].append(others)

    def fit(self) -> None:
        """Fit all SVMs to what is kept; a class without objects gets one that finds none."""
        from sklearn.svm import LinearSVC  # half a second that other models need not pay

        weights, biases = [], []
        for k in range(len(self.positives)):
            positives, negatives = np.concatenate(self.positives[k]), np.concatenate(self.negatives[k])
            if not len(positives) or not len(negatives):
                weights.append(np.zeros(positives.shape[1]))
                biases.append(HARD if not len(positives) else -HARD)
                continue
            labels = np.repeat([1, 0], [len(positives), len(negatives)])
            # the primal problem, whose solver draws no random numbers
            svm = LinearSVC(
                C=self.cost, dual=False, class_weight={1: _POSITIVE_WEIGHT}, intercept_scaling=_BIAS, max_iter=10_000
            )
            svm.fit(np.concatenate([positives, negatives]), labels)
            weights.append(svm.coef_[0])
            biases.append(float(svm.intercept_[0]))
            scores = negatives @ weights[-1] + biases[-1]
            self.positives[k], self.negatives[k] = [positives], [negatives[scores >= EASY]]
        self.weights, self.biases = np.stack(weights), np.array(biases)

    def probabilities(self) -> np.ndarray:
        """Of each class, factor and shift (K, 2) that make a margin the logit of a probability (Platt 1999).

        They are fitted to the objects and the hard negatives, so the probability is a cautious one.
        """
        from sklearn.linear_model import LogisticRegression

        found = np.tile([1.0, 0.0], (len(self.positives), 1))
        if self.weights is None:
            return found
        for k, weight in enumerate(self.weights):
            positives, negatives = np.concatenate(self.positives[k]), np.concatenate(self.negatives[k])
            if not len(positives) or not len(negatives):
                continue
            margins = np.concatenate([positives, negatives]) @ weight + self.biases[k]
            labels = np.repeat([1, 0], [len(positives), len(negatives)])
            model = LogisticRegression(max_iter=1000).fit(margins[:, None], labels)
            if model.coef_[0, 0] > 0:  # else the SVM tells nothing, and its order stays
                found[k] = model.coef_[0, 0], model.intercept_[0]
        return found


def ridge(features: np.ndarray, targets: np.ndarray, strength: float) -> np.ndarray:
    """Weights (D + 1, m), the last row the bias, that minimise squared error + `strength` times their squares.

    The bias is not shrunk. Without any row all weights are 0.

    Args:
        features: (n, D).
        targets: (n, m).
        strength: more than 0.
    """
    size = features.shape[1]
    if not len(features):
        return np.zeros((size + 1, targets.shape[1]))
    features, targets = features.astype(np.float64), targets.astype(np.float64)
    middle, offset = features.mean(0), targets.mean(0)
    centred = features - middle
    weights = np.linalg.solve(centred.T @ centred + strength * np.eye(size), centred.T @ (targets - offset))
    return np.concatenate([weights, (offset - middle @ weights)[None]])
