"""Networks with a logit for each pixel: one contract for all, the papers' own sizes, ways back to a former size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightbed.errors import UserError
from lightbed.models.batch_norm import BatchNorm, bear_one_image
from lightbed.models.deconvnet import DeconvNet
from lightbed.models.fcn import FCN
from lightbed.models.resampling import bilinear, pool, transposed, unpool
from lightbed.models.segnet import SegNet
from lightbed.models.single_convolution import SingleConvolution
from lightbed.models.torchvision_segmentation import segmentation
from lightbed.models.unet import UNet, mirror

SMALL = {"channels": (4, 8, 8), "depths": (2, 2, 3)}
NETWORKS = {
    "single_convolution": lambda k, c: SingleConvolution(c, k),
    "fcn32": lambda k, c: FCN(k, c, "resnet18", stride=32, hidden=16, kernel=3),
    "fcn16": lambda k, c: FCN(k, c, "vgg11_bn", stride=16, hidden=16, kernel=3),
    "fcn8": lambda k, c: FCN(k, c, "mobilenet_v3_small", stride=8, hidden=16, kernel=3),
    "segnet": lambda k, c: SegNet(k, c, **SMALL),
    "deconvnet": lambda k, c: DeconvNet(k, c, **SMALL, hidden=16, kernel=7, padding=3),
    "unet": lambda k, c: UNet(k, c, (4, 8, 16), padded=True, batch_norm=True),
    "unet_unpadded": lambda k, c: UNet(k, c, (4, 8, 16)),
    "lraspp": lambda k, c: segmentation("lraspp_mobilenet_v3_large", k),
    "deeplabv3": lambda k, c: segmentation("deeplabv3_mobilenet_v3_large", k, aux_loss=True),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param](5, 3)


def logits(output: Tensor | dict[str, Tensor]) -> Tensor:
    return output["out"] if isinstance(output, dict) else output


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (97, 40)])
def test_logits_have_the_size_of_the_image(network: nn.Module, size: tuple[int, int]) -> None:
    network.train()
    out = logits(network(torch.randn(2, 3, *size)))
    assert out.shape == (2, 5, *size)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 31)])
def test_a_batch_of_one_image_trains(network: nn.Module, size: tuple[int, int]) -> None:
    """Also where its coarsest features are one place, or one after global pooling."""
    network.train()
    network.zero_grad()
    out = logits(network(torch.randn(1, 3, *size)))
    assert out.shape == (1, 5, *size)
    out.square().mean().backward()
    assert all(torch.isfinite(w.grad).all() for w in network.parameters() if w.grad is not None)


def test_batch_norm_is_torchs_but_for_a_single_value_per_channel() -> None:
    own, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    for features in (torch.randn(3, 4, 1, 1) + 2, torch.randn(1, 4, 5, 2)):
        assert torch.equal(own(features), theirs(features))
    assert all(torch.equal(one, other) for one, other in zip(own.buffers(), theirs.buffers(), strict=True))
    alone, before = torch.randn(1, 4, 1, 1), own.running_var.clone()
    mean, var = own.running_mean.view(1, 4, 1, 1), own.running_var.view(1, 4, 1, 1)
    torch.testing.assert_close(own(alone), (alone - mean) / (var + own.eps).sqrt())
    assert torch.equal(own.running_var, before)


def test_foreign_networks_keep_their_weights_and_names() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3, eps=0.01, momentum=0.3)))
    before, weights = dict(network.state_dict()), list(network.parameters())
    bear_one_image(network.eval())
    norm = network[1][0]
    assert isinstance(norm, BatchNorm)
    assert (norm.eps, norm.momentum, norm.training) == (0.01, 0.3, False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(one is other for one, other in zip(network.parameters(), weights, strict=True))


def test_an_image_is_judged_alike_alone_and_in_a_batch(network: nn.Module) -> None:
    network.eval()
    images = torch.randn(3, 3, 45, 51)
    with torch.no_grad():
        together, alone = logits(network(images)), logits(network(images[1:2]))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_every_weight_learns_and_twice_the_same(network: nn.Module) -> None:
    """In deterministic mode, in which some of torch's own un-pooling refuses to run."""
    network.train()
    images, truth = torch.randn(2, 3, 64, 64), torch.randint(5, (2, 64, 64))
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(1)
            network.zero_grad()
            output = network(images)
            outputs = output.values() if isinstance(output, dict) else [output]
            sum(nn.functional.cross_entropy(out, truth) for out in outputs).backward()
            gradients.append({name: weight.grad for name, weight in network.named_parameters()})
    finally:
        torch.use_deterministic_algorithms(False)
    assert [name for name, value in gradients[0].items() if value is None] == []
    assert all(torch.equal(one, other) for one, other in zip(*(g.values() for g in gradients), strict=True))


@pytest.mark.parametrize("name", ["single_convolution", "fcn8", "segnet", "deconvnet", "unet", "unet_unpadded"])
def test_grey_images(name: str) -> None:
    assert NETWORKS[name](2, 1).eval()(torch.randn(1, 1, 40, 40)).shape == (1, 2, 40, 40)


def convolutions(sizes: list[tuple[int, int, int]], *, bias: bool = True) -> int:
    """Parameters of convolutions (in, out, kernel side)."""
    return sum(i * o * k * k + (o if bias else 0) for i, o, k in sizes)


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


VGG = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG_CONVOLUTIONS = list(zip([3, *VGG[:-1]], VGG, [3] * 13, strict=True))


def test_single_convolution_has_644_parameters_for_23_classes() -> None:
    assert count(SingleConvolution(3, 23)) == 644


def test_published_unet_has_31_million_parameters() -> None:
    down = [(1, 64, 3), (64, 64, 3)]
    for width in (64, 128, 256, 512):
        down += [(width, 2 * width, 3), (2 * width, 2 * width, 3)]
    up = [(w, w // 2, k) for w in (1024, 512, 256, 128) for k in (2, 3)] + [(w, w, 3) for w in (512, 256, 128, 64)]
    assert count(UNet(2, 1)) == convolutions([*down, *up, (64, 2, 1)]) == 31_030_658


def test_published_segnet_has_29_million_parameters() -> None:
    mirrored = [(o, i, 3) for i, o, _ in VGG_CONVOLUTIONS[1:]]
    norms = 2 * (sum(VGG) + sum(i for i, _, _ in VGG_CONVOLUTIONS[1:]))
    expected = convolutions([*VGG_CONVOLUTIONS, *mirrored], bias=False) + norms + convolutions([(64, 11, 3)])
    assert count(SegNet(11)) == expected
    assert 29.4e6 < expected < 29.5e6


def test_published_deconvnet_has_252_million_parameters_and_restores_its_middle() -> None:
    with torch.device("meta"):  # a gigabyte of weights without the gigabyte
        network = DeconvNet(21)
        assert network.middle(torch.zeros(2, 512, 7, 7)).shape == (2, 4096, 1, 1)
        assert network(torch.zeros(2, 3, 224, 224)).shape == (2, 21, 224, 224)
    mirrored = [(o, i, 3) for i, o, _ in VGG_CONVOLUTIONS[1:]]
    middle = [(512, 4096, 7), (4096, 4096, 1), (4096, 512, 7)]
    assert sum(w.numel() for w in network.parameters() if w.ndim == 4) == sum(
        i * o * k * k for i, o, k in [*VGG_CONVOLUTIONS, *mirrored, (64, 64, 3), *middle, (64, 21, 1)]
    )
    assert round(count(network) / 1e6) == 252


def test_published_fcn_is_vgg16_with_its_linear_layers_as_convolutions() -> None:
    with torch.device("meta"):
        network = FCN(21, stride=8)
    head = [(512, 4096, 7), (4096, 4096, 1), (4096, 21, 1)]
    skips = [(512, 21, 1), (512, 21, 1)]
    doubling = 2 * 21 * 21 * 4 * 4
    assert count(network) == convolutions([*VGG_CONVOLUTIONS, *head, *skips]) + doubling


def test_unpadded_unet_labels_388_of_572_pixels() -> None:
    network = UNet(2, 1, (2, 4, 8, 16, 32)).eval()
    assert network.needed(388) == 572
    features = torch.randn(1, 1, 572, 572)
    sizes = []
    network.head.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    network(features[..., :388, :388])
    assert sizes == [388]


def test_unpadded_unet_sees_nothing_but_the_image_in_its_middle() -> None:
    """Far from the borders the labels do not depend on how the borders are extended."""
    network = UNet(2, 1, (2, 4)).eval()
    image = torch.randn(1, 1, 60, 60)
    torch.testing.assert_close(network(image)[..., 20:40, 20:40], network(image[..., 6:54, 6:54])[..., 14:34, 14:34])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_mirrored_borders_are_numpys_reflection(height: int, width: int, more_h: int, more_w: int) -> None:
    import numpy as np

    image = torch.arange(height * width).reshape(1, 1, height, width).float()
    ours = mirror(image, (height + more_h, width + more_w))[0, 0].numpy()
    pads = [(more // 2, more - more // 2) for more in (more_h, more_w)]
    np.testing.assert_array_equal(ours, np.pad(image[0, 0].numpy(), pads, mode="reflect"))


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_a_transposed_convolution_restores_its_convolutions_size(
    size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: int, dilation: int
) -> None:
    seen = [dilation * (side - 1) + 1 for side in kernel]
    if any(have + 2 * padding < need for have, need in zip(size, seen, strict=True)):
        return  # the kernel does not fit into the image: there is no convolution
    conv = nn.Conv2d(2, 3, kernel, stride=stride, padding=padding, dilation=dilation)
    images = torch.randn(1, 2, *size)
    assert transposed(conv)(conv(images), output_size=size).shape == images.shape


@given(st.integers(1, 13), st.integers(1, 13))
@settings(max_examples=40, deadline=None)
def test_unpooling_is_torchs_own(height: int, width: int) -> None:
    images = torch.randn(2, 3, height, width)
    values, places = pool(images)
    expected = nn.functional.max_unpool2d(values, places, 2, output_size=(height, width))
    assert torch.equal(unpool(values, places, images.shape[-2:]), expected)


def test_bilinear_doubling_is_interpolation() -> None:
    layer = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1, bias=False)
    bilinear(layer.weight)
    images = torch.randn(1, 2, 6, 7)
    expected = nn.functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    # at the border the transposed convolution sees zeros where interpolation repeats the last pixel
    torch.testing.assert_close(layer(images)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


@pytest.mark.parametrize(
    "backbone", ["vgg11", "resnet18", "densenet121", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf", "alexnet"]
)
def test_fcn_takes_any_backbone_with_features(backbone: str) -> None:
    assert FCN(3, 3, backbone, hidden=8, kernel=1).eval()(torch.zeros(1, 3, 70, 90)).shape == (1, 3, 70, 90)


def test_faults_are_told() -> None:
    with pytest.raises(UserError, match="has no features at 1/8, 1/16, 1/32"):
        FCN(3, 3, "vit_b_32")
    with pytest.raises(UserError, match=r"model\.backbone=resnet19"):
        FCN(3, 3, "resnet19")
    with pytest.raises(UserError, match=r"model\.stride=4 must be one of 8, 16, 32"):
        FCN(3, stride=4)
    with pytest.raises(UserError, match="did you mean deeplabv3_resnet50"):
        segmentation("deeplab_resnet50", 3)
    with pytest.raises(UserError, match=r"data\.channels=3"):
        segmentation("lraspp_mobilenet_v3_large", 3, in_channels=1)
    with pytest.raises(UserError, match="no auxiliary head"):
        segmentation("lraspp_mobilenet_v3_large", 3, aux_loss=True)
