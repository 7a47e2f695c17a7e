"""Every file of conf/model keeps the contract of a classifier's network."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from torch import Tensor, nn

from lightbed.build import fill_auto, make

CONF = Path(__file__).parents[2] / "conf" / "model"
BASES = ("torchvision", "custom")  # they name no network of their own
# those that bring another task, and those that build on them, are held to its contract by the tests of their own
OTHERS = {
    path.stem
    for path in CONF.glob("*.yaml")
    if re.search(r"override /task|\[(\w*_rcnn|retinanet|fcos), ", path.read_text())
}
MODELS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in {*BASES, *OTHERS})
SIDES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 56, "horse_cnn": 300}
# computed with real numbers by default
LIGHT = {
    *("alexnet", "cnn", "dnn", "efficientnet_b0", "fashion_cnn", "googlenet", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "timm"),
}
# one of each large family; the rest of them take minutes
FAMILIES = {
    *("convnext_tiny", "densenet121", "efficientnet_v2_s", "inception_v3", "maxvit_t", "regnet_x_400mf", "resnet50"),
    *("resnext50_32x4d", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2"),
}
BUILT_BY_NUMBERS = ("regnet",)  # torchvision computes their widths with tensors, which the meta device cannot


def node(name: str) -> dict[str, Any]:
    """The model's config as Hydra composes it."""
    found: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    for base in found.pop("defaults", []):
        found = {**node(base), **found} if base != "_self_" else found
    return found


def build(name: str, channels: int, device: str = "cpu") -> tuple[nn.Module, Tensor]:
    """The network for 3 classes, and two images for it."""
    side = SIDES.get(name, 64)
    facts = {"num_classes": 3, "in_channels": channels, "image_size": [side, side], "in_features": channels * side**2}
    torch.manual_seed(0)
    with torch.device("cpu" if name.startswith(BUILT_BY_NUMBERS) else device):
        net = make(fill_auto(node(name), facts, "model"), "model")
    return net.to(device), torch.rand(2, channels, side, side, device=device)


def main_output(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def check_shapes(name: str, channels: int, device: str) -> tuple[nn.Module, Tensor]:
    net, images = build(name, channels, device)
    output = net.train()(images)
    logits = main_output(output)
    assert logits.shape == (2, 3)
    assert logits.dtype == torch.float32
    total = sum(part.sum() for part in ([output] if isinstance(output, Tensor) else output) if part is not None)
    total.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters() if p.requires_grad)
    return net, images


def check_numbers(name: str, channels: int) -> None:
    net, images = check_shapes(name, channels, "cpu")
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    net.eval()
    with torch.no_grad():
        logits = net(images)
        assert isinstance(logits, Tensor), "in evaluation there are logits alone"
        assert logits.isfinite().all()
        assert torch.equal(logits, net(images)), "evaluation is deterministic"
        again, _ = build(name, channels)
        again.load_state_dict(net.state_dict())
        assert torch.equal(again.eval()(images), logits), "the state dict is the whole network"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_shapes_of_large_networks(name: str) -> None:
    check_shapes(name, 1, "meta")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(LIGHT & set(MODELS)))
def test_contract(name: str, channels: int) -> None:
    check_numbers(name, channels)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - LIGHT - FAMILIES))
def test_shapes_of_all_others(name: str) -> None:
    check_shapes(name, 3, "meta")


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(set(MODELS) - LIGHT - {"regnet_y_128gf", "vit_h_14"}))  # 2.5 GB of weights each
def test_contract_of_large_networks(name: str, channels: int) -> None:
    check_numbers(name, channels)


def test_every_network_of_torchvision_has_a_file() -> None:
    assert set(torchvision.models.list_models(module=torchvision.models)) <= set(MODELS)


@pytest.mark.parametrize("name", [*MODELS, *BASES])
def test_files_describe_themselves_in_their_first_line(name: str) -> None:
    first = (CONF / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) <= 120
    assert set(node(name)) >= {"_target_"}
