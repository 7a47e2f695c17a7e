"""The author's network for Horses or Humans."""

from collections.abc import Sequence

from torch import Tensor, nn


class HorseCNN(nn.Module):
    """Blocks of convolution 3x3 without padding, ReLU and max-pool 2, then two Linear layers.

    300x300 pixels end as 7x7x64. With 3 channels and one output it has 1,704,097 parameters. Weights and biases start
    as in Keras, where the recipe comes from: Xavier-uniform (Glorot, Bengio 2010) and zero.

    Args:
        in_channels: C of the images.
        num_classes: number of logits; 1 for a binary task.
        image_size: (height, width) of the images.
        channels: of each block.
        hidden: width of the first Linear layer.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: Sequence[int],
        channels: Sequence[int] = (16, 32, 64, 64, 64),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width, (height, breadth) = in_channels, image_size
        for size in channels:
            blocks += [nn.Conv2d(width, size, 3), nn.ReLU(), nn.MaxPool2d(2)]
            width, height, breadth = size, (height - 2) // 2, (breadth - 2) // 2
        if min(height, breadth) < 1:
            least = 3 * 2 ** len(channels) - 2
            raise ValueError(f"images of {image_size} pixels vanish in {len(channels)} blocks; at least {least}")
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(width * height * breadth, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                layer.bias.data.zero_()  # type: ignore[union-attr]  # it has one

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        return self.head(self.features(images))  # type: ignore[no-any-return]
