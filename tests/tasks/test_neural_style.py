"""Neural style: Gram matrices and losses by hand, what is learnt, and what an image becomes."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn
from torch.optim import Adam

from lightbed import build
from lightbed.callbacks.stylised import Stylised
from lightbed.catalogue import conf_dir
from lightbed.data.style_pair import StylePair
from lightbed.draw.panels import draw
from lightbed.errors import UserError
from lightbed.losses.style import apart, gram, roughness
from lightbed.models.cnn import CNN
from lightbed.models.dnn import DNN
from lightbed.models.single_convolution import SingleConvolution
from lightbed.models.style import StyleImage
from lightbed.models.zoo import classifier
from lightbed.tasks.neural_style import NeuralStyle
from lightbed.transforms.preprocess import Preprocess

PARTS = {"style": {"features.2": 1.0}, "content": {"features.5": 1.0}}


def task(**options: Any) -> NeuralStyle:
    torch.manual_seed(0)
    model = StyleImage(CNN(3, 1, [8, 8]), **PARTS, in_channels=3, image_size=(16, 24))
    return NeuralStyle(model, optimizer=partial(Adam, lr=0.1), preprocess=Preprocess(3, (16, 24)), **options)


def pair(**options: Any) -> StylePair:
    data = StylePair(**{"steps": 12, "batch_size": 1, "val_fraction": 0, "image_size": [16, 24], **options})
    data.setup()
    return data


def test_a_gram_matrix_tells_which_channels_occur_together() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [2.0, 5.0]]]])  # two channels, 2 x 2
    expected = torch.tensor([[1 + 4 + 9, 2 + 6], [2 + 6, 1 + 4 + 25]]) / 4
    torch.testing.assert_close(gram(features)[0], expected)
    moved = features.flatten(2)[..., torch.tensor([3, 1, 0, 2])].view(1, 2, 2, 2)
    torch.testing.assert_close(gram(moved), gram(features))  # where things are is forgotten


def test_distances_are_shares_of_what_is_wanted() -> None:
    wanted = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 0.0])}
    found = {"a": torch.tensor([3.0, 9.0]), "b": torch.tensor([1.0, 2.0])}
    assert float(apart(found, wanted, {"a": 2.0, "b": 0.5})) == pytest.approx(2 * 25 / 25 + 0.5 * 4 / 1)
    assert float(apart({}, {}, {})) == 0


def test_roughness_is_the_mean_square_of_steps_between_neighbours() -> None:
    image = torch.tensor([[[[0.0, 1.0, 3.0], [0.0, 1.0, 0.0]]]])
    assert float(roughness(image)) == pytest.approx((0 + 0 + 9) / 3 + (1 + 4 + 1 + 1) / 4)


def test_losses_are_those_of_the_pair_and_zero_where_nothing_is_left_to_change() -> None:
    made, data = task(loss={"style": 2.0, "content": 3.0, "variation": 0.0}), pair()
    content, target = data.splits["train"][0]
    batch = (made.preprocess(content[None]), {"style": target["style"][None]})
    losses = {name: loss.detach() for name, loss in made.step(batch, "train").losses.items()}
    assert torch.equal(made.model.image.detach(), batch[0]), "it begins as the content"
    assert float(losses["content"]) == pytest.approx(0, abs=1e-9)
    assert float(losses["variation"]) == 0
    of_content, of_style = (
        gram(made.model(image)["features.2"]) for image in (batch[0], made.preprocess(target["style"][None]))
    )
    expected = 2 * (of_content - of_style).square().sum() / of_style.square().sum()
    torch.testing.assert_close(losses["style"], expected)
    same = (batch[0], {"style": content[None]})
    made.wanted = None
    assert float(made.step(same, "train").losses["style"].detach()) == pytest.approx(0, abs=1e-9)


def test_a_fit_changes_the_image_alone_and_comes_nearer_to_the_style(tmp_path: Path) -> None:
    made, data = task(), pair()
    weights = {name: value.clone() for name, value in made.model.network.state_dict().items()}
    assert [name for name, p in made.model.named_parameters() if p.requires_grad] == ["image"]
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[Stylised(2)],
        enable_model_summary=False,
        limit_val_batches=0,
        **settings,
    )
    trainer.fit(made, datamodule=data)
    assert all(torch.equal(value, weights[name]) for name, value in made.model.network.state_dict().items())
    content, target = data.splits["train"][0]
    before, after = task(), made
    batch = (made.preprocess(content[None]), {"style": target["style"][None]})
    with torch.no_grad():
        found, begun = (one.step(batch, stage).losses["style"] for one, stage in ((after, "test"), (before, "train")))
    assert float(found) < 0.5 * float(begun)
    found = made.stylised()
    assert found.dtype == torch.uint8
    assert not torch.equal(found, content)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["stylised.png", "stylised_00024.png"]
    (prediction,) = made.predict(batch[0])
    panel = draw(content, prediction, target, ["image"])
    assert panel.image.shape[0] == 16
    assert (panel.image[:, -24:] == found.permute(1, 2, 0).numpy()).all()


def test_noise_is_another_beginning_and_pixels_stay_in_range() -> None:
    made, data = task(begin="noise"), pair()
    content, target = data.splits["train"][0]
    batch = (made.preprocess(content[None]), {"style": target["style"][None]})
    with torch.no_grad():
        made.model.image.mul_(100)
    made.step(batch, "train")
    assert not torch.equal(made.model.image, batch[0])
    assert made.model.image.min() >= -1
    assert made.model.image.max() <= 1


def test_pairs_are_embedded_or_files(tmp_path: Path) -> None:
    embedded = pair()
    content, target = embedded.splits["train"][0]
    assert content.shape == target["style"].shape == (3, 16, 24)
    assert embedded.contents().summary()["files"] == 0
    assert (len(embedded.splits["train"]), len(embedded.splits["test"])) == (12, 1)
    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "mine.png")
    own = pair(content=str(tmp_path / "mine.png"))
    assert own.splits["train"][0][0][0].unique().tolist() == [200]
    assert torch.equal(own.splits["train"][0][1]["style"], target["style"])
    assert own.contents().summary()["files"] == 1


def test_parts_are_found_where_none_are_named() -> None:
    with torch.device("meta"):
        vgg = StyleImage(classifier("vgg19", 1), None, None, 3, (64, 64))
    assert [*vgg.style] == [f"features.{i}" for i in (0, 5, 10, 19, 28)], "conv1_1 to conv5_1 of the paper"
    assert [*vgg.content] == ["features.21"], "conv4_2"
    small = StyleImage(CNN(1, 2, [4, 4]), None, None, 1, (8, 12))
    assert ([*small.style], [*small.content]) == (["features.0", "features.7"], ["features.3"])
    one = StyleImage(SingleConvolution(3, 2), None, None, 3, (8, 8))
    assert [*one.style] == [*one.content] == ["conv"]
    assert StyleImage(CNN(1, 2, [4, 4]), None, {"features.2": 1.0}, 1, (8, 8)).content == {"features.2": 1.0}
    with pytest.raises(UserError, match="there is nothing to match"):
        StyleImage(DNN(12, 2, [4]), None, None, 3, (2, 2))
    with pytest.raises(UserError, match=r"model\.content\.head\.3: this part of the network gives no features"):
        StyleImage(CNN(1, 2, [4]), {"features.2": 1.0}, {"head.3": 1.0}, 1, (8, 8))(torch.zeros(1, 1, 8, 8))


def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base=None):
        return build.resolve(compose("train", ["experiment=neural_style", *words]))


def test_torchvisions_trained_network_looks_at_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("model=style_vgg19")["model"]
    assert (config["network"]["name"], config["network"]["weights"]) == ("vgg19", "DEFAULT")
    with torch.device("meta"):
        layers = dict(classifier("vgg19", 1).named_modules())
    named = [*config["style"], *config["content"]]
    assert all(isinstance(layers[name], nn.Conv2d) for name in named), "conv1_1 to conv5_1, and conv4_2"
    assert [layers[name].out_channels for name in named] == [64, 128, 256, 512, 512, 512]

    # a small network in its place, and its file where torchvision's download would put it
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    words = ["model=style_vgg19", "model.style=null", "model.content=null", "model.network.name=squeezenet1_1",
             "data.image_size=[32,40]"]  # fmt: skip
    config, data = composed(*words), pair(image_size=[32, 40])
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    asked = rf"^model\.network\.weights=DEFAULT: .* put that file at {file}, .* model\.network\.weights=null$"
    with pytest.raises(UserError, match=asked):
        build.make_model(build.with_facts(config, data))
    torch.manual_seed(5)
    trained = torchvision.models.squeezenet1_1().state_dict()
    torch.save(trained, file)
    made = build.make_model(build.with_facts(config, data))
    own = made.network.state_dict()
    assert [name for name, value in own.items() if not torch.equal(value, trained[name])] == [
        "classifier.1.weight", "classifier.1.bias"
    ]  # fmt: skip
    assert made.image.shape == (1, 3, 32, 40)


def test_the_network_stays_in_evaluation() -> None:
    assert not task().train().model.network.training


def test_contradictions_are_told() -> None:
    with pytest.raises(UserError, match=r"model\.style\.features\.99: the network has no such part"):
        StyleImage(CNN(3, 1, [4]), {"features.99": 1.0}, {}, 3, (8, 8))
    with pytest.raises(UserError, match="there is nothing to match"):
        StyleImage(CNN(3, 1, [4]), {"features.2": 0.0}, {}, 3, (8, 8))
    with pytest.raises(UserError, match="neural style needs model=style, not a Linear"):
        NeuralStyle(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"task\.begin=nois"):
        task(begin="nois")
    with pytest.raises(UserError, match=r"task\.loss\.styel is not known"):
        task(loss={"styel": 1.0})
    with pytest.raises(UserError, match=r"data\.image_size=null"):
        StylePair()
    assert math.isclose(task(loss={"style": 5.0}).weights["style"], 5.0)
