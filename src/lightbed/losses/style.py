"""What neural style compares: Gram matrices, features, and how rough an image is."""

from collections.abc import Mapping

import torch
from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """How channels of features (N, C, H, W) occur together, (N, C, C): mean over all places of their products."""
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[-1]


def apart(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum over parts of the squared distance of what is found and wanted, over the square of the wanted.

    Gatys et al. divide by the number of channels and places, which fits the one network that they use; by this division
    parts of any network count alike.
    """
    parts = [
        weight * (found[name] - wanted[name]).square().sum() / wanted[name].square().sum().clamp(min=1e-12)
        for name, weight in weights.items()
    ]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def roughness(images: Tensor) -> Tensor:
    """Total variation of images (N, C, H, W): mean square of the differences of neighbours, down and to the right."""
    return images.diff(dim=-2).square().mean() + images.diff(dim=-1).square().mean()
