"""The table of layers."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from lightbed.callbacks.layers import Layers, layer_table, size_line
from lightbed.errors import UserError
from lightbed.models.cnn import CNN
from lightbed.models.rcnn import FasterRCNN
from lightbed.tasks import Classifier, Detector


def printed(network: nn.Module, shape: tuple[int, ...], depth: int = 2) -> list[str]:
    task = Classifier(network, 10)
    task.example_input_array = torch.zeros(1, *shape)
    output = io.StringIO()
    Console(file=output, width=80).print(layer_table(task, depth))
    return output.getvalue().rstrip().splitlines()


def test_a_single_convolution_has_its_644_parameters() -> None:
    lines = printed(nn.Sequential(nn.Conv2d(3, 23, 3, padding=1), nn.ReLU()), (3, 600, 400))
    assert lines[0].split() == ["layer", "type", "parameters", "in", "out"]
    assert [line.split() for line in lines[2:]] == [
        ["model", "Sequential", "644", "3x600x400", "23x600x400"],
        ["0", "Conv2d", "644", "3x600x400", "23x600x400"],
        ["1", "ReLU", "-", "23x600x400", "23x600x400"],
    ]


def test_only_the_network_is_listed() -> None:
    network = CNN(1, 10)
    lines = printed(network, (1, 8, 8))
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows if not row[0].isdigit()] == ["model", "features", "head"]
    assert rows[0][2] == f"{sum(p.numel() for p in network.parameters()):,}"
    assert len(rows) == 1 + sum(1 + len(part) for part in (network.features, network.head))
    short = [line.split()[0] for line in printed(network, (1, 8, 8), 1)[2:]]
    assert short == ["model", "features", "head"]


def test_wide_networks_stay_within_80_columns() -> None:
    from torchvision.models import resnet50

    lines = printed(resnet50(num_classes=10), (3, 64, 64), 3)
    assert max(map(len, lines)) <= 80
    assert any("23,528,522" in line for line in lines), "thousands have separators"
    assert not any("…" in line for line in lines)


def test_the_line_below_counts_what_is_trainable() -> None:
    network = nn.Sequential(nn.Linear(9, 100), nn.BatchNorm1d(100), nn.Linear(100, 10))
    network[0].requires_grad_(False)
    # 1000 + 200 + 1010 parameters, 200 + 1 buffers; a counter of batches has 8 bytes
    assert size_line(network) == "2,210 parameters, 1,210 of them trainable, 0.0 MB"
    assert size_line(nn.Linear(1000, 1000)) == "1,001,000 parameters, 1,001,000 of them trainable, 4.0 MB"


def test_a_detectors_shapes_are_those_of_images_features_and_boxes() -> None:
    network = FasterRCNN(3, backbone="mobilenet_v3_small", levels=[1, 2], anchor_sizes=[[12], [24], [48]])
    task = Detector(network, 3)
    task.example_input_array = torch.zeros(1, 3, 64, 80)
    output = io.StringIO()
    Console(file=output, width=100).print(layer_table(task, 1))
    rows = {line.split()[0]: line.split(maxsplit=3)[3].strip() for line in output.getvalue().splitlines()[2:]}
    assert " ".join(rows["model"].split()) == "3x64x80 boxes"
    assert " ".join(rows["transform"].split()) == "3x64x80 3x64x96"
    assert " ".join(rows["backbone"].split()) == "3x64x96 256x16x24, ..."
    assert " ".join(rows["rpn"].split()) == "3x64x96, ... 4"
    assert not any(hooks for hooks in (part._forward_hooks for part in network.modules()))


def test_a_negative_depth_is_refused() -> None:
    with pytest.raises(UserError, match=r"callbacks\.layers\.max_depth=-1"):
        Layers(-1)
