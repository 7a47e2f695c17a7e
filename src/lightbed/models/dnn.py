"""A deep network of Linear layers."""

from collections.abc import Sequence

from torch import Tensor, nn


class DNN(nn.Sequential):
    """Linear, batch norm and ReLU for each hidden width, then a Linear to the logits.

    Weights of every Linear are Xavier-normal (Glorot, Bengio 2010), biases as torch leaves them. With 784 inputs,
    hidden widths 256 and 64 and 10 classes it has 218,698 parameters.

    Args:
        in_features: C * H * W of the images.
        num_classes: number of logits.
        hidden: width of each hidden layer.
    """

    def __init__(self, in_features: int, num_classes: int, hidden: Sequence[int] = (256, 64)) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        width = in_features
        for size in hidden:
            layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.ReLU()]
            width = size
        super().__init__(*layers, nn.Linear(width, num_classes))
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        return super().forward(images)  # type: ignore[no-any-return, no-untyped-call]
