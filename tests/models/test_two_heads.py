"""A second head on classifiers' networks: where they are cut, what the heads give, and what stays of the weights."""

import pytest
import torch
from torch import Tensor, nn

from lightbed.errors import UserError
from lightbed.models.cnn import CNN
from lightbed.models.dnn import DNN
from lightbed.models.fashion import FashionCNN
from lightbed.models.two_heads import TwoHeads
from lightbed.models.zoo import classifier

SIDES = {"vit_b_32": 32, "googlenet": 64}
REAL = ["mobilenet_v3_small", "squeezenet1_1"]
SLOW = [
    "resnet18",
    "shufflenet_v2_x0_5",
    "alexnet",
    "vit_b_32",
    "swin_t",
    "googlenet",
    "densenet121",
    "vgg11_bn",
    "convnext_tiny",
    "efficientnet_b0",
]


def check(network: nn.Module, side: int, channels: int = 3) -> TwoHeads:
    torch.manual_seed(0)
    two = TwoHeads(network, 5, (channels, side, side), hidden=16)
    images = torch.rand(3, channels, side, side)
    logits, boxes = two.train()(images)
    assert logits.shape == (3, 5)
    assert boxes.shape == (3, 4)
    assert bool(((boxes >= 0) & (boxes <= 1)).all())
    (logits.square().sum() + boxes.square().sum()).backward()
    assert all(p.grad is not None for p in two.parameters()), "each weight is used"
    assert [name for name, _ in two.named_children()] == ["trunk", "label", "box"]
    return two.eval()


@pytest.mark.parametrize("name", REAL)
def test_any_classifier_of_torchvision(name: str) -> None:
    check(classifier(name, 5, 3, [64, 64]), 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_more_of_them(name: str) -> None:
    side = SIDES.get(name, 64)
    check(classifier(name, 5, 3, [side, side]), side)


@pytest.mark.parametrize("kind", [CNN, FashionCNN])
def test_the_class_is_what_the_network_says_by_itself(kind: type[nn.Module]) -> None:
    network = kind(1, 5).eval()
    images = torch.rand(2, 1, 16, 16)
    expected = network(images)
    two = TwoHeads(network, 5, (1, 16, 16)).eval()
    logits, _ = two(images)
    assert torch.equal(logits, expected)
    names = {name.removeprefix("trunk.") for name in two.state_dict() if name.startswith("trunk.")}
    assert names <= set(network.state_dict()), "weights of a classifier are found by their names"


def test_the_box_sees_where_things_are() -> None:
    two = TwoHeads(CNN(1, 3, channels=[4, 8]), 3, (1, 32, 32))
    first, *_, linear, _, last, _ = two.box
    assert isinstance(first, nn.Conv2d)
    assert linear.in_features == 8 * 8 * 8  # 8 channels at 16x16, pooled to 8x8
    assert last.out_features == 4


def test_networks_without_places_are_read_off_their_vector() -> None:
    two = check(DNN(64, 5, [32, 16]), 8, 1)
    assert isinstance(two.box[0], nn.Linear)
    assert two.box[0].in_features == 16


class Winding(nn.Module):
    """Its way depends on the values, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        values = images.flatten(1)
        if float(values.sum()) > 0:
            values = values + 1
        return self.linear(values)


def test_what_cannot_be_followed_is_told() -> None:
    with pytest.raises(UserError, match=r"torch\.fx cannot follow the model on images of 1x2x2"):
        TwoHeads(Winding(), 2, (1, 2, 2))
