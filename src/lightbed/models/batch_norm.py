"""Batch norm for batches of one image."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """torch's batch norm, but a single value per channel is normalised in training as in evaluation.

    One image whose features are one place, as after global pooling or on a pyramid's coarsest level, has no variance:
    torch refuses it in training. Here it is normalised with the running statistics, which it leaves as they are.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, H, W) -> the same size."""
        if not self.training or features.numel() > features.shape[1]:
            return super().forward(features)
        return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def bear_one_image(network: nn.Module) -> None:
    """Exchange every batch norm in somebody else's network for `BatchNorm`; weights and their names stay."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d and child.track_running_stats:
                own = BatchNorm(child.num_features, child.eps, child.momentum, child.affine)
                own.weight, own.bias = child.weight, child.bias
                own.running_mean, own.running_var = child.running_mean, child.running_var
                own.num_batches_tracked = child.num_batches_tracked
                setattr(parent, name, own.train(child.training))
