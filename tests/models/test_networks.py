"""The author's DNN and the small CNN: parameters counted by hand, initial weights, sizes."""

import math

import pytest
import torch
from torch import nn

from lightbed.models.cnn import CNN
from lightbed.models.dnn import DNN


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_dnn_has_the_authors_parameters() -> None:
    by_hand = (784 * 256 + 256) + 2 * 256 + (256 * 64 + 64) + 2 * 64 + (64 * 10 + 10)
    assert count(DNN(784, 10)) == by_hand == 218_698


def test_dnn_layers_stand_in_the_authors_order() -> None:
    kinds = [type(layer).__name__ for layer in DNN(784, 10)]
    assert kinds == ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_dnn_weights_are_xavier_normal() -> None:
    torch.manual_seed(0)
    weight = DNN(784, 10)[1].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (784 + 256)), rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert weight.abs().max() > 3 * weight.std(), "normal, not uniform"


def test_cnn_parameters_counted_by_hand() -> None:
    def pair(inside: int, outside: int) -> int:  # two convolutions without bias, each with a batch norm
        return 9 * inside * outside + 2 * outside + 9 * outside * outside + 2 * outside

    by_hand = pair(1, 32) + pair(32, 64) + pair(64, 128) + 128 * 10 + 10
    assert count(CNN(1, 10)) == by_hand == 288_170


@pytest.mark.parametrize("side", [4, 5, 8, 28, 33])
def test_cnn_takes_any_size_from_two_to_the_stages(side: int) -> None:
    assert CNN(3, 7)(torch.rand(2, 3, side, side + 1)).shape == (2, 7)
