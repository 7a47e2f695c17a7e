"""A network shared out among processes says what it said before, whatever it is made of; here one has all shares."""

from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.swin_transformer import SwinTransformer

from lightbed.models.unet import UNet
from lightbed.tasks.sharding import is_sharded, shard, whole

NETWORKS = {
    "residual": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3), 100_000),
    "attention": (lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3), 1000),
    "windows": (lambda: SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2], num_classes=3), 500),
    "skips": (lambda: UNet(3, 3, channels=[4, 8], padded=True), 300),
}


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*returned a view tensor")  # which only harms networks that write into it
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("alone")
def test_a_shared_network_is_the_same_function(name: str) -> None:
    torch.manual_seed(0)
    make, least = NETWORKS[name]
    network, images = make().eval(), torch.rand(2, 3, 32, 32)
    before = network(images)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    shard(network, init_device_mesh("cpu", (1,)), least)
    assert is_sharded(network)
    alone = sum(hasattr(part, "unshard") for part in network.modules()) - 1
    assert (alone > 0) == (name != "skips")  # its parts are all containers
    shard(network, init_device_mesh("cpu", (1,)), least)  # a second time changes nothing
    torch.testing.assert_close(network(images), before, rtol=0, atol=0)
    network(images).sum().backward()
    found = whole(network.state_dict())
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_a_network_of_one_process_is_not_shared() -> None:
    network = nn.Linear(2, 2)
    assert not is_sharded(network)
