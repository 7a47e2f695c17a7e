"""What R-CNN fits after its network: linear SVMs with hard negatives, and ridge regression of boxes."""

from collections.abc import Sequence

import numpy as np

HARD, EASY = -1.0, -1.2  # a negative over the first is taken in; one that falls below the second is let go
_NEW = 2000  # negatives of a class between two fits of its SVM
_POSITIVE_WEIGHT, _BIAS = 2.0, 10.0  # of R-CNN's own code: positives are few, and the bias is hardly regularised
_NEVER = -1e4  # the logit of a probability of 0


class OneVersusRest:
    """A linear SVM a class, fitted while images pass by: of their many negatives only the hard ones are kept.

    As in R-CNN's own code: all objects are known before. The first images' negatives are all taken; after the first
    fit only what the SVM so far scores over -1, the margin. Each time 2,000 new ones have come the SVM is fitted again,
    and negatives that have become easy are let go. The images pass once: the paper saw no gain from a second time.
    Where we differ: the loss is the squared hinge, whose solver needs no random numbers, and not the hinge.

    Args:
        positives: of each class, features (m, D) of its objects.
        cost: C of the SVM, more than 0.
    """

    def __init__(self, positives: Sequence[np.ndarray], cost: float) -> None:
        self.cost, self.positives = cost, positives
        count, size = len(positives), positives[0].shape[1]
        self.negatives: list[list[np.ndarray]] = [[np.zeros((0, size), positives[0].dtype)] for _ in range(count)]
        self.new = [0] * count
        self.weights, self.biases = np.zeros((count, size)), np.zeros(count)
        self.fitted = np.zeros(count, bool)

    def show(self, features: np.ndarray, negative: np.ndarray) -> None:
        """Take in an image.

        Args:
            features: (n, D) of the image's proposals.
            negative: bool (n, K), which of them are negatives of which class.
        """
        hard = negative & (~self.fitted | (features @ self.weights.T + self.biases > HARD))
        for k, own in enumerate(self.negatives):
            if not len(self.positives[k]):
                continue  # nothing will be fitted
            own.append(features[hard[:, k]])
            self.new[k] += len(own[-1])
            if self.new[k] >= _NEW:
                self.fit(k)

    def finish(self) -> None:
        """Fit all SVMs to what is kept; a class without objects gets one that finds none."""
        for k in range(len(self.positives)):
            self.fit(k)

    def fit(self, k: int) -> None:
        """Fit the SVM of a class to its objects and the negatives that are kept, and let go the easy ones."""
        from sklearn.svm import LinearSVC  # half a second that other models need not pay

        positives, negatives = self.positives[k], np.concatenate(self.negatives[k])
        self.new[k] = 0
        if not len(positives) or not len(negatives):
            if not self.fitted[k]:
                self.biases[k] = -HARD if len(positives) else HARD
            return
        svm = LinearSVC(
            C=self.cost, dual=False, class_weight={1: _POSITIVE_WEIGHT}, intercept_scaling=_BIAS, max_iter=10_000
        )
        svm.fit(np.concatenate([positives, negatives]), np.repeat([1, 0], [len(positives), len(negatives)]))
        self.weights[k], self.biases[k], self.fitted[k] = svm.coef_[0], float(svm.intercept_[0]), True
        self.negatives[k] = [negatives[negatives @ self.weights[k] + self.biases[k] >= EASY]]

    def probabilities(self) -> np.ndarray:
        """Of each class, factor and shift (K, 2) that make a margin the logit of a probability (Platt 1999).

        They are fitted to the objects and the hard negatives, so the probability is a cautious one. The paper compares
        detections of one class by their margins alone; here all classes' are ranked together and shown.
        """
        from sklearn.linear_model import LogisticRegression

        found = np.tile([1.0, 0.0], (len(self.positives), 1))
        for k, weight in enumerate(self.weights):
            positives, negatives = self.positives[k], np.concatenate(self.negatives[k])
            if not len(positives):
                found[k] = 0.0, _NEVER
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
