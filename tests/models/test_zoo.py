"""Torchvision's networks by name: parameters as published, channels, sizes, arguments, trained weights."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from lightbed.errors import UserError
from lightbed.models import zoo

# papers' and torchvision's own figures at 1000 classes
GOLDEN = {
    "alexnet": 61_100_840,
    "convnext_tiny": 28_589_128,
    "densenet121": 7_978_856,
    "efficientnet_b0": 5_288_548,
    "inception_v3": 27_161_264,
    "mobilenet_v2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "squeezenet1_0": 1_248_424,
    "swin_t": 28_288_354,
    "vgg16": 138_357_544,
    "vit_b_16": 86_567_656,
}
# what the published figures count
BESIDE = {"googlenet": {"aux_logits": False}, "vit_h_14": {"image_size": 518}}
LARGE = re.compile(r"regnet_._(?!.00mf|1_6gf)")


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def check_count(name: str) -> None:
    # torchvision computes these widths with tensors, which the meta device cannot; elsewhere it saves the initialising
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        net = zoo.classifier(name, 1000, kwargs=BESIDE.get(name))
    assert count(net) == torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert count(net) == GOLDEN.get(name, count(net))


@pytest.mark.parametrize("name", [name for name in zoo.names() if not LARGE.search(name)])
def test_parameters_as_published(name: str) -> None:
    check_count(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.names() if LARGE.search(name)])
def test_parameters_of_large_regnets_as_published(name: str) -> None:
    check_count(name)


def test_a_grey_image_gives_what_three_equal_channels_give() -> None:
    torch.manual_seed(0)
    colours = zoo.classifier("resnet18", 5).eval()
    torch.manual_seed(0)
    grey = zoo.classifier("resnet18", 5, in_channels=1).eval()
    images = torch.rand(2, 1, 40, 40)
    torch.testing.assert_close(grey(images), colours(images.expand(2, 3, 40, 40)), rtol=1e-4, atol=1e-5)


def test_more_channels_keep_the_scale() -> None:
    torch.manual_seed(0)
    colours = zoo.classifier("alexnet", 5)
    torch.manual_seed(0)
    six = zoo.classifier("alexnet", 5, in_channels=6)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(six.eval()(torch.cat([images, images], 1)), colours.eval()(images))
    assert six.features[0].in_channels == 6


@pytest.mark.parametrize(
    ("name", "size", "proposed"),
    [
        ("alexnet", (32, 32), 63),
        ("squeezenet1_1", (9, 14), 17),
        ("vit_b_16", (28, 28), 32),
        ("vit_b_16", (32, 64), 64),
        ("vit_h_14", (224, 100), 224),
        ("maxvit_t", (64, 64), 224),
        ("maxvit_t", (300, 300), 448),
    ],
)
def test_the_proposed_size_works(name: str, size: tuple[int, int], proposed: int) -> None:
    with pytest.raises(UserError, match=f"model.name={name}.*set data.image_size={proposed}") as caught:
        zoo.classifier(name, 3, 1, size)
    assert "\n" not in str(caught.value)
    if name in ("alexnet", "squeezenet1_1"):  # that a multiple of a patch fits is plain
        zoo.classifier(name, 3, 1, (proposed, proposed))


def test_inception_takes_75_pixels_without_its_auxiliary_output() -> None:
    with pytest.raises(UserError, match=r"data\.image_size=299 or more; without auxiliary outputs"):
        zoo.classifier("inception_v3", 3, 3, (224, 224))
    net = zoo.classifier("inception_v3", 3, 3, (75, 75), kwargs={"aux_logits": False})
    assert net(torch.rand(2, 3, 75, 75)).shape == (2, 3)


def test_checking_the_size_draws_no_chance_and_changes_nothing() -> None:
    torch.manual_seed(3)
    unchecked, drawn = zoo.classifier("efficientnet_b0", 3), torch.rand(1)
    torch.manual_seed(3)
    checked, after = zoo.classifier("efficientnet_b0", 3, 3, (64, 64)), torch.rand(1)
    assert torch.equal(drawn, after)
    states = zip(unchecked.state_dict().values(), checked.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in states)


def test_further_arguments_reach_the_constructor() -> None:
    assert zoo.classifier("efficientnet_b0", 3, kwargs={"dropout": 0.75}).classifier[0].p == 0.75
    assert zoo.classifier("vit_b_32", 3, 3, (64, 64), kwargs={"dropout": 0.25}).encoder.dropout.p == 0.25
    norm = zoo.classifier("resnet18", 3, kwargs={"norm_layer": nn.InstanceNorm2d})
    assert not any(isinstance(module, nn.BatchNorm2d) for module in norm.modules())


def test_typos_are_answered_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match="did you mean resnet18"):
        zoo.classifier("resnet81", 3)
    with pytest.raises(UserError, match=r"model\.kwargs\.dropuot.*did you mean dropout"):
        zoo.classifier("efficientnet_b0", 3, kwargs={"dropuot": 0.1})
    with pytest.raises(UserError, match="IMAGENET1K_V2"):
        zoo.classifier("resnet50", 3, weights="IMAGENET1K_V3")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of files, without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def published(hub: Path, name: str, weights: str = "DEFAULT") -> tuple[nn.Module, Path]:
    """A network at 1000 classes whose weights lie where torchvision's download would."""
    torch.manual_seed(1)
    net = torchvision.models.get_model(name)
    kinds = torchvision.models.get_model_weights(name)
    path = hub / getattr(kinds, weights).url.rpartition("/")[2]
    torch.save(net.state_dict(), path)
    return net.eval(), path


@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_trained_weights_are_loaded_and_only_the_head_is_new(hub: Path, name: str) -> None:
    source, _ = published(hub, name)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(zoo.classifier(name, 1000, weights="DEFAULT").eval()(images), source(images))
    net = zoo.classifier(name, 3, weights="IMAGENET1K_V1")
    assert net(images).shape == (2, 3)
    trained, loaded = source.state_dict(), zoo.classifier(name, 3, weights="IMAGENET1K_V1").state_dict()
    new = [key for key, value in loaded.items() if value.shape != trained[key].shape]
    assert len(new) == 2, "weight and bias of the last layer"
    assert all(torch.equal(loaded[key], trained[key]) for key in loaded if key not in new)


def test_trained_weights_on_grey_images(hub: Path) -> None:
    source, _ = published(hub, "squeezenet1_1")
    images = torch.rand(2, 1, 64, 64)
    grey = zoo.classifier("squeezenet1_1", 1000, in_channels=1, weights="DEFAULT").eval()
    torch.testing.assert_close(grey(images), source(images.expand(2, 3, 64, 64)), rtol=1e-4, atol=1e-4)


def test_old_names_of_densenets_files_are_understood(hub: Path) -> None:
    source, path = published(hub, "densenet121")
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in key else key: value
        for key, value in source.state_dict().items()
    }
    assert any(".norm.1." in key for key in old)
    torch.save(old, path)
    net = zoo.classifier("densenet121", 1000, weights="DEFAULT")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in net.state_dict().items())


def test_auxiliary_outputs_may_be_left_out_of_the_weights(hub: Path) -> None:
    torch.manual_seed(1)
    with_aux = torchvision.models.googlenet(init_weights=False)
    torch.save(with_aux.state_dict(), hub / "googlenet-1378be20.pth")
    net = zoo.classifier("googlenet", 1000, weights="DEFAULT", kwargs={"aux_logits": False})
    assert all(torch.equal(value, with_aux.state_dict()[key]) for key, value in net.state_dict().items())
    assert not net.transform_input, "pixels are normalised by the data"
    assert len(zoo.classifier("googlenet", 3, weights="DEFAULT")(torch.rand(2, 3, 64, 64))) == 3


def test_a_transformers_places_are_interpolated(tmp_path: Path) -> None:
    torch.manual_seed(1)
    narrow = {"hidden_dim": 48, "num_heads": 3, "mlp_dim": 96, "num_layers": 1, "patch_size": 32}
    source = torchvision.models.VisionTransformer(image_size=64, num_classes=7, **narrow)
    from lightbed.models.weights import load_weights

    torch.save(source.state_dict(), tmp_path / "vit.pth")
    net = torchvision.models.VisionTransformer(image_size=96, num_classes=7, **narrow)
    load_weights(net, "vit_b_32", str(tmp_path / "vit.pth"), 7)
    old, new = source.encoder.pos_embedding, net.encoder.pos_embedding
    assert new.shape == (1, 10, 48)
    for one, other in ((0, 0), (1, 1), (2, 3), (3, 7), (4, 9)):  # the class token, then the grids' corners
        torch.testing.assert_close(new[0, other], old[0, one])


def test_weights_from_files_and_checkpoints(tmp_path: Path) -> None:
    source = torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    inside = {f"model.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": {**inside, "class_weights": torch.ones(4)}, "epoch": 3}, tmp_path / "run.ckpt")
    images = torch.rand(2, 3, 48, 48)
    for file in ("plain.pth", "run.ckpt"):
        net = zoo.classifier("shufflenet_v2_x0_5", 4, weights=str(tmp_path / file)).eval()
        assert torch.equal(net(images), source(images))
    assert zoo.classifier("shufflenet_v2_x0_5", 9, weights=str(tmp_path / "run.ckpt"))(images).shape == (2, 9)


def test_unreachable_weights_say_where_to_put_the_file(hub: Path) -> None:
    with pytest.raises(UserError) as caught:
        zoo.classifier("resnet18", 3, weights="DEFAULT")
    message = str(caught.value)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth cannot be reached" in message
    assert f"put that file at {hub / 'resnet18-f37072fd.pth'}" in message
    assert "\n" not in message


def test_wrong_weights_are_told_apart(hub: Path, tmp_path: Path) -> None:
    _, path = published(hub, "squeezenet1_1")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is damaged.*delete it"):
        zoo.classifier("squeezenet1_1", 3, weights="DEFAULT")
    with pytest.raises(UserError, match="does not exist"):
        zoo.classifier("resnet18", 3, weights=str(tmp_path / "none.pth"))
    torch.save(torchvision.models.squeezenet1_0().state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"another network's|does not fit"):
        zoo.classifier("resnet18", 3, weights=str(tmp_path / "other.pth"))
    torch.save({"a": 1}, tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="holds no weights"):
        zoo.classifier("resnet18", 3, weights=str(tmp_path / "nothing.pth"))
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(UserError, match="does not fit"):
        zoo.classifier("shufflenet_v2_x1_0", 3, weights=str(tmp_path / "narrow.pth"))
