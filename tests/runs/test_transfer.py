"""Beginning with trained weights: of every task into every other, what is told, frozen, resumed and refused."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import exact
import fakes
from lightbed.cli import main
from lightbed.errors import UserError
from lightbed.models.cnn import CNN
from lightbed.models.fcn import FCN
from lightbed.models.rcnn import FasterRCNN
from lightbed.models.two_heads import TwoHeads
from lightbed.models.zoo import classifier
from lightbed.runs.checkpoint import read_checkpoint
from lightbed.runs.transfer import align, find_source
from lightbed.tasks.optim import cover, frozen_modules, make_optimizer, parameter_groups, spelled

QUICK = ["trainer.accelerator=cpu", "threads=1", "callbacks.pictures=null", "callbacks.layers=null",
         "callbacks.curves=null", "logger.tensorboard=false"]  # fmt: skip
TINY = ["model.channels=[4,8]", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1"]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs folder of a run of `digits` in two classes of Fashion-MNIST, drawn, and the data beside it."""
    root = tmp_path_factory.mktemp("source")
    fakes.fashion_mnist(root / "data", 200)
    words = [
        "data=fashion_mnist",
        "data.classes=[Trouser,Bag,Coat]",
        "trainer.max_epochs=1",
        f"paths.data={root / 'data'}",
    ]
    assert (
        main(["train", *QUICK, *TINY, *words, f"hydra.run.dir={root / 'runs' / 'one'}", f"paths.outputs={root}"]) == 0
    )
    return root


def train(source: Path, folder: Path, *words: str) -> dict[str, Tensor]:
    """Weights at the end of a run on three other classes, as many as the source's."""
    data = [
        f"paths.data={source / 'data'}",
        "data=fashion_mnist",
        "data.classes=[Shirt,Dress,Sandal]",
        "data.batch_size=16",
    ]
    places = [f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}"]
    assert main(["train", *QUICK, *TINY, *data, *places, f"weights={source / 'runs'}", *words]) == 0
    return weights_of(folder)


def weights_of(folder: Path) -> dict[str, Tensor]:
    content = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    return {name.removeprefix("model."): value for name, value in content["state_dict"].items()}


def test_frozen_features_stay_with_their_statistics_and_the_head_begins_afresh(source: Path, tmp_path: Path) -> None:
    before = weights_of(source / "runs" / "one")
    after = train(source, tmp_path / "run", "task.rates={loaded:0,new:0.1}", "trainer.max_epochs=2", "optimizer=sgd")
    for name, value in before.items():
        same = torch.equal(value, after[name])
        assert same == name.startswith("features."), name
    log = (tmp_path / "run" / "log.txt").read_text()
    told = dict(re.findall(r"  (loaded|new|skipped) +([\d,]+) parameters: (?:.*)", log))
    assert told == {"loaded": "1,092", "new": "27", "skipped": "27"}
    record = json.loads((tmp_path / "run" / "run.json").read_text())["weights"]
    assert record["file"].endswith("best.ckpt")
    assert record["new"] == ["head"], "other classes, though as many, begin afresh"
    assert record["loaded"] == ["features"]


def test_each_part_has_its_rate(source: Path, tmp_path: Path) -> None:
    train(source, tmp_path / "run", "task.rates={loaded:0.001,new:0.1}", "trainer.max_epochs=1", "optimizer=sgd")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (float(row["lr/loaded"]), float(row["lr/new"])) == (0.001, 0.1)


def test_a_run_that_thaws_step_by_step_goes_on_to_the_same_bits_without_its_source(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["trainer.max_epochs=3", "callbacks=unfreezing", "callbacks.unfreezing.parts={loaded:1,features.0:2}",
             *QUICK, "task.rates={loaded:0.001,new:0.1}", "optimizer=sgd"]  # fmt: skip
    monkeypatch.syspath_prepend(str(Path(exact.__file__).parent))
    train(source, tmp_path / "whole", *words)
    runs = tmp_path / "copy"
    (runs / "one").mkdir(parents=True)
    for name in ("run.json", "checkpoints/best.ckpt"):
        (runs / "one" / name).parent.mkdir(exist_ok=True)
        (runs / "one" / name).write_bytes((source / "runs" / "one" / name).read_bytes())
    data = [
        f"paths.data={source / 'data'}",
        "data=fashion_mnist",
        "data.classes=[Shirt,Dress,Sandal]",
        "data.batch_size=16",
    ]
    places = [f"hydra.run.dir={tmp_path / 'cut'}", f"paths.outputs={tmp_path}", f"weights={runs}"]
    assert main(["train", *TINY, *words, *data, *places, exact.kill("batch", 6)]) == 1
    for file in (runs / "one").rglob("*.*"):
        file.unlink()
    assert main(["train", f"resume={tmp_path / 'cut'}", "trust=true"]) == 0
    whole, cut = exact.result(tmp_path / "whole"), exact.result(tmp_path / "cut")
    assert whole["last state_dict"] == cut["last state_dict"]
    assert whole["last optimizer_states"] == cut["last optimizer_states"]
    assert whole["rows"] == cut["rows"]


@pytest.mark.parametrize("model", ["classifier", "localizer"])
def test_any_tasks_weights_serve_a_classifier_or_localizer(model: str, source: Path, tmp_path: Path) -> None:
    scenes = ["data=one_digit", "data.images={train:8,val:4,test:4}", "data.channels=1", "data.mean=0.286"]
    words = [f"weights={source / 'runs' / 'one'}", *scenes, f"task={model}", "trainer.max_epochs=0"]
    folder = tmp_path / "run"
    assert main(["train", *QUICK, TINY[0], *words, f"hydra.run.dir={folder}", f"paths.outputs={tmp_path}"]) == 0
    before, after = weights_of(source / "runs" / "one"), weights_of(folder)
    start = {"classifier": "", "localizer": "trunk."}[model]
    loaded = [name for name in before if torch.equal(before[name], after.get(start + name, torch.zeros(0)))]
    assert loaded == [name for name in before if name.startswith("features.")]
    assert "normalised by std 0.353 (here 0.26)" in (folder / "log.txt").read_text()


def test_one_backbones_names_in_every_task() -> None:
    net = classifier("resnet18", 3).state_dict()
    detector = FasterRCNN(3, backbone="resnet18", levels=[1, 2], anchor_sizes=[[8], [16], [32]], pyramid_channels=8,
                          representation_size=8).state_dict()  # fmt: skip
    assert align(net, detector) == ("", "backbone.body.")
    assert align(detector, net) == ("backbone.body.", "")
    segmenter = FCN(3, backbone="resnet18", hidden=8).state_dict()
    assert align(net, segmenter) == ("", "backbone.")
    assert align(segmenter, detector) == ("backbone.", "backbone.body.")
    small = CNN(1, 3, channels=[4, 8])
    assert align(small.state_dict(), TwoHeads(small, 3, (1, 8, 8)).state_dict()) == ("", "trunk.")


def test_what_fits_by_chance_is_not_loaded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    resnet, small = classifier("resnet18", 10).state_dict(), CNN(3, 10).state_dict()
    # bn1 has 64 channels, as some of the other's norms have
    assert align(resnet, small) == ("", "")
    assert align({"a.weight": torch.ones(4, 4)}, {"b.weight": torch.ones(4, 4)}) == ("", ""), "a single layer"
    assert align({"a.0.weight": torch.ones(4, 4)}, {"b.0.weight": torch.ones(4, 4)}) == ("a.", "b.")
    torch.save(resnet, tmp_path / "resnet.pth")
    words = ["model=cnn", "data=digits", f"weights={tmp_path / 'resnet.pth'}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(["train", *QUICK, *words, f"paths.outputs={tmp_path}"]) == 2
    assert "nothing in it fits model=lightbed.models.cnn.CNN: it begins with conv1.weight" in capfd.readouterr().err


def test_a_cover_names_the_fewest_parts() -> None:
    names = ["stem.weight", "layer.0.weight", "layer.0.bias", "layer.1.weight", "head.weight", "head.bias"]
    assert cover(set(names), names) == ["stem", "layer", "head"]
    assert cover({"layer.0.weight", "layer.0.bias", "head.bias"}, names) == ["layer.0", "head.bias"]
    assert cover(set(), names) == []


def test_parts_that_stand_for_others() -> None:
    net = CNN(1, 3, channels=[4])
    parts = {"loaded": ["features"], "new": ["head"]}
    groups = parameter_groups(net, {"loaded": 0.001, "new": 0.1, "features.3": 0.01}, parts)
    assert [(group["name"], group["lr"], len(group["params"])) for group in groups] == [
        ("loaded", 0.001, 5),
        ("new", 0.1, 2),
        ("features.3", 0.01, 1),
    ]
    optimizer = make_optimizer(net, SGD, {"loaded": 0.0}, parts)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]
    frozen = frozen_modules(net, spelled({"loaded": 0.0}, parts))
    assert any(isinstance(module, nn.BatchNorm2d) for module in frozen)
    assert not any(module is net.head for module in frozen)
    with pytest.raises(UserError, match=r"loaded and new are told apart where weights="):
        parameter_groups(net, {"loaded": 0.001})


def test_missing_sources_are_told(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match=r"does not exist: train it first by  lightbed train experiment=transfer_source"
    ):
        find_source(str(tmp_path / "transfer_source"))
    with pytest.raises(UserError, match=r"does not exist: give a run folder, a \.ckpt or \.pth file, or one of torchv"):
        find_source(str(tmp_path / "other"))
    words = ["model=dnn", "data=digits", f"weights={source / 'runs'}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(["train", *QUICK, *words, f"paths.outputs={tmp_path}"]) == 2
    assert re.search(r"nothing in it fits model=lightbed.models.dnn.DNN: it begins with", capfd.readouterr().err)


def test_a_plain_file_of_weights(source: Path, tmp_path: Path) -> None:
    state: dict[str, Any] = weights_of(source / "runs" / "one")
    torch.save(state, tmp_path / "net.pth")
    after = train(source, tmp_path / "run", f"weights={tmp_path / 'net.pth'}", "trainer.max_epochs=0")
    assert all(torch.equal(value, after[name]) for name, value in state.items()), "it does not say which classes"
