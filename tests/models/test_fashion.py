"""The own network for Fashion-MNIST: parameters counted by hand, shapes, what the head sees."""

import pytest
import torch

from lightbed.models.fashion import FashionCNN, Residual


def test_parameters_counted_by_hand() -> None:
    def convolution(inside: int, outside: int) -> int:  # without bias, with a batch norm
        return 9 * inside * outside + 2 * outside

    ways = [(1, 32), (32, 48), (48, 48), (48, 48), (48, 96), (96, 96), (96, 96), (96, 192)]
    by_hand = sum(convolution(*way) for way in ways) + 2 * 192 * 10 + 10
    assert sum(parameter.numel() for parameter in FashionCNN(1, 10).parameters()) == by_hand == 433_994


@pytest.mark.parametrize("side", [4, 7, 28, 33])
def test_any_size_from_four_pixels(side: int) -> None:
    assert FashionCNN(3, 7, channels=(4, 6, 8, 10))(torch.rand(2, 3, side, side + 1)).shape == (2, 7)


def test_a_residual_block_without_weight_is_the_identity() -> None:
    block = Residual(4).eval()
    block.change[-2].weight.data.zero_()  # the last batch norm
    images = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(images), images, rtol=0, atol=0)


def test_the_head_sees_maximum_and_mean() -> None:
    net = FashionCNN(1, 3, channels=(4, 4, 4, 8)).eval()
    images = torch.rand(2, 1, 28, 28)
    features = net.features(images)  # (2, 8, 7, 7)
    weight, bias = net.head[-1].weight, net.head[-1].bias
    flat = features.flatten(2)
    expected = flat.max(2).values @ weight[:, :8].T + flat.sum(2) / 49 @ weight[:, 8:].T + bias
    torch.testing.assert_close(net(images), expected)
