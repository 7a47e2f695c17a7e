"""Losses over pixels: cross entropy, focal and Dice, all with void pixels left out.

Logits are (N, K, H, W), truth is int64 (N, H, W) with 255 for void. Where every pixel is void the loss is 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

VOID = 255


def cross_entropy(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy, the mean over pixels weighted by their true class's weight, as in `torch.nn.functional`."""
    return _mean(_surprise(logits, truth), truth, weights)


def focal(logits: Tensor, truth: Tensor, weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin, Goyal, Girshick, He, Dollar 2017, arXiv:1708.02002): cross entropy times (1 - p)^gamma.

    p is the true class's probability, so that pixels which are right already weigh little; `gamma` 0 is cross entropy.
    """
    surprise = _surprise(logits, truth)
    # exp(-surprise) of a void pixel is 1, whose power has no gradient for gamma < 1; the clamp gives it a harmless one
    missing = (1 - torch.exp(-surprise)).clamp(min=1e-6)
    return _mean(missing**gamma * surprise, truth, weights)


def dice(logits: Tensor, truth: Tensor, weights: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """Soft Dice loss: 1 - (2 sum p y + smooth) / (sum p + sum y + smooth), the mean over classes in the batch's truth.

    p is a class's probability and y its truth, 0 or 1; the sums run over all pixels of the batch that are not void
    (Milletari, Navab, Ahmadi 2016, arXiv:1606.04797, without their squares).
    """
    classes = logits.shape[1]
    valid = truth != VOID
    probabilities = logits.float().softmax(1) * valid[:, None]
    # one more class takes the void pixels, and is cut off
    labels = torch.where(valid, truth, classes)
    onehot = F.one_hot(labels, classes + 1)[..., :classes].movedim(-1, 1).to(probabilities.dtype)
    both = (probabilities * onehot).sum((0, 2, 3))  # (K,)
    there = onehot.sum((0, 2, 3))
    score = (2 * both + smooth) / (probabilities.sum((0, 2, 3)) + there + smooth)
    share = (there > 0).to(score.dtype) * (1 if weights is None else weights)
    return ((1 - score) * share).sum() / share.sum().clamp(min=1e-12)


LOSSES = {"cross_entropy": cross_entropy, "focal": focal, "dice": dice}


def _surprise(logits: Tensor, truth: Tensor) -> Tensor:
    """-log p of each pixel's true class, float32 (N * H * W,), 0 where void."""
    options = {"ignore_index": VOID, "reduction": "none"}
    if not logits.is_cuda:
        return F.cross_entropy(logits.float(), truth, **options).flatten()  # type: ignore[arg-type]
    # torch's own loss on (N, K, H, W) has no deterministic form on a GPU, but that on rows has
    rows = F.log_softmax(logits.float(), 1).permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
    return F.nll_loss(rows, truth.flatten(), **options)  # type: ignore[arg-type]


def total_weight(truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """What cross entropy and focal loss divide by, 0-d: pixels that are not void, by the weight of their class."""
    if weights is None:
        return (truth != VOID).sum()
    return torch.where(truth != VOID, weights[torch.where(truth != VOID, truth, 0)], 0.0).sum()


def _mean(losses: Tensor, truth: Tensor, weights: Tensor | None) -> Tensor:
    labels = truth.flatten()
    valid = labels != VOID
    if weights is None:
        return losses.sum() / valid.sum().clamp(min=1)
    share = torch.where(valid, weights[torch.where(valid, labels, 0)], 0.0)
    return (losses * share).sum() / share.sum().clamp(min=1e-12)


def frequency_weights(pixels: Tensor, images: Tensor, kind: str) -> Tensor:
    """Weight of each class from how often it occurs, float32 (K,); 0 for a class that never does.

    - 'balanced': all pixels / (K * the class's pixels), as scikit-learn has it.
    - 'inverse': 1 / share of the class's pixels, scaled so that the weights of the K classes have mean 1.
    - 'median': median frequency balancing (Eigen, Fergus 2015, arXiv:1411.4734): a class's frequency is its pixels /
      the pixels of the images that it is in, its weight the median of all frequencies / its own.

    Args:
        pixels: int64 (K,), pixels of each class.
        images: int64 (K,), pixels (without void) of the images in which the class is.
        kind: as above.
    """
    there = pixels > 0
    counts = pixels.double().clamp(min=1)
    if kind == "median":
        frequency = counts / images.double().clamp(min=1)
        # torch's own median is the lower of the middle two
        weights = frequency[there].quantile(0.5) / frequency
    else:
        weights = pixels.sum() / (len(pixels) * counts)
        if kind == "inverse":
            weights = weights / weights[there].mean()
    return torch.where(there, weights, 0.0).float()
