"""Every file in conf/data composes, loads a drawn copy of its data, and keeps the contract of sample and batch."""

from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

import fakes
from lightbed import build, folders
from lightbed.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
EMBEDDED = ("digits", "digit_scenes", "one_digit")
FOLDERS = ("image_folder", "mask_folder", "auto", "coco", "voc", "yolo", "instance_masks")  # of the user's own
NO_DATA = ("base", "custom", "style_pair")  # what the others share; a class of the user's own; two images, no set
NAMES = sorted(path.stem for path in (CONF / "data").glob("*.yaml") if path.stem not in NO_DATA)


def composed(tmp_path, *overrides):
    folders.register([])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        paths = [f"paths.{name}={tmp_path / name}" for name in ("data", "cache", "outputs")]
        return build.resolve(compose("train", overrides=[*paths, *overrides]))


@pytest.fixture(params=NAMES)
def drawn(request, tmp_path):
    """The resolved config of each data set, its files drawn."""
    name = request.param
    if name not in EMBEDDED:
        assert name in fakes.DRAWN, f"tests/fakes.py draws no copy of {name}"
        fakes.DRAWN[name](tmp_path / "data")
    root = [f"data.root={tmp_path / 'data'}"] if name in FOLDERS else []
    return composed(tmp_path, f"data={name}", "data.batch_size=4", *root)


def test_keeps_the_contract(drawn):
    data = build.make_data(drawn)
    facts = data.facts()
    assert set(data.splits) == {"train", "val", "test"}
    assert facts["num_classes"] == len(data.classes) >= (1 if "boxes" in data.holds else 2)
    if "boxes" in data.holds:
        check_objects(data)
        return
    shape = (facts["in_channels"], *facts["image_size"])
    for source in data.splits.values():
        image, target = source[0]
        assert image.dtype == torch.uint8
        assert image.shape == shape
        for key in data.holds:
            check_target(key, target[key][None], facts, shape)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, target = next(iter(loader))
        assert images.dtype == torch.uint8
        assert images.shape == (len(images), *shape)
        assert target["index"].dtype == torch.int64
        assert target["index"].shape == (len(images),)
        for key in data.holds:
            assert len(target[key]) == len(images)
            check_target(key, target[key], facts, shape)
    assert set(data.fingerprint()) == {"root", "files", "bytes", "sha256"}
    normalised = data.preprocess(images)
    assert normalised.dtype == torch.float32
    assert normalised.shape == images.shape


def check_objects(data):
    """Lists of images and targets; boxes inside their image, and a label, mask, area and crowd for each."""
    assert not data.label_faults
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, targets = next(iter(loader))
        assert isinstance(images, list)
        for image, target in zip(images, targets, strict=True):
            assert type(image) is type(target["boxes"]) is type(target["labels"]) is torch.Tensor
            assert image.dtype == torch.uint8
            height, width = image.shape[1:]
            count = len(target["boxes"])
            assert target["boxes"].dtype == torch.float32
            assert target["boxes"].shape == (count, 4)
            assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
            assert (target["boxes"] >= 0).all()
            assert (target["boxes"] <= torch.tensor([width, height, width, height])).all()
            assert target["labels"].dtype == torch.int64
            assert target["labels"].shape == (count,)
            assert ((target["labels"] >= 0) & (target["labels"] < len(data.classes))).all()
            assert ("masks" in target) == ("masks" in data.holds)
            if "masks" in target:
                assert target["masks"].dtype == torch.bool
                assert target["masks"].shape == (count, height, width)
                assert target["masks"].flatten(1).any(1).all()
            for key, dtype in (("crowd", torch.bool), ("area", torch.float32)):
                assert key not in target or (target[key].dtype == dtype and target[key].shape == (count,))
            assert target["index"].shape == ()
            assert Path(target["path"]).is_file()
    assert set(data.fingerprint()) == {"root", "files", "bytes", "sha256"}
    assert data.fingerprint()["files"] >= sum(len(source) for source in data.splits.values())


def check_target(key, values, facts, shape):
    """Labels int64 (N,); masks whole numbers (N, H, W) with 255 for what is to be ignored."""
    assert key in ("label", "mask")
    if key == "label":
        assert values.dtype == torch.int64
        assert values.ndim == 1
    else:
        assert not values.is_floating_point()
        assert values.shape[1:] == shape[1:]
    known = values[values != 255]
    assert 0 <= int(known.min()) <= int(known.max()) < facts["num_classes"]


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is_and_comments_its_own_keys(name):
    text = (CONF / "data" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    own = yaml.safe_load(text)
    assert own["defaults"] == ["base", "_self_"]
    assert own["_target_"].startswith("lightbed.data.")


def test_multilabel_tables_reach_a_multilabel_task(tmp_path):
    root = fakes.image_folder(tmp_path / "photos")
    rows = [f"apple/apple_{i:03}.png,red|round" for i in range(10)] + [f"pear/pear_{i:03}.png," for i in range(10)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,labels", *rows]))
    own = [f"data.root={root}", f"data.labels={tmp_path / 'labels.csv'}", "data.multilabel=true", "data.image_size=16"]
    config = composed(tmp_path, "data=image_folder", *own, "task.kind=multilabel")
    data = build.make_data(config)
    config = build.with_facts(config, data)
    task = build.make_task(config, data.classes, data.preprocess)
    images, target = next(iter(data.train_dataloader()))
    step = task.step((data.preprocess(images), target), "train")
    assert step.predictions.shape == target["label"].shape
    assert target["label"].dtype == torch.float32


@pytest.mark.parametrize("experiment", ["horse_or_human_cnn", "horse_or_human_augmented"])
def test_the_authors_recipe_to_the_number(tmp_path, experiment):
    fakes.horse_or_human(tmp_path / "data", 4, 2)
    config = composed(tmp_path, f"experiment={experiment}")
    assert config["name"] == experiment
    assert config["trainer"]["max_epochs"] == 15
    data = build.make_data(config)
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 8, "val": 4}
    assert data.batch_size == 32
    config = build.with_facts(config, data)
    task = build.make_task(config, data.classes, data.preprocess)
    assert sum(parameter.numel() for parameter in task.model.parameters()) == 1_704_097
    images, _ = next(iter(data.train_dataloader()))
    assert torch.allclose(data.preprocess(images), images / 255)
    optimizer = task.optimizer(task.model.parameters())
    assert isinstance(optimizer, torch.optim.RMSprop)
    settings = {name: optimizer.defaults[name] for name in ("lr", "alpha", "eps", "momentum", "centered")}
    assert settings == {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, "momentum": 0, "centered": False}
    assert (task.augment is None) == (experiment == "horse_or_human_cnn")


@pytest.mark.parametrize(("kind", "remedy"), [("multiclass", "use task.kind=multilabel"), ("binary", "use task.kind")])
def test_several_labels_an_image_need_a_task_for_them(tmp_path, kind, remedy):
    root = fakes.image_folder(tmp_path / "photos", count=20)
    rows = [f"{name}/{name}_{i:03}.png,{name}" for name in ("apple", "pear") for i in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,labels", *rows]))
    own = [f"data.root={root}", f"data.labels={tmp_path / 'labels.csv'}", "data.image_size=16"]
    config = composed(tmp_path, "data=image_folder", *own, "data.multilabel=true", f"task.kind={kind}")
    with pytest.raises(UserError, match=f"task.kind={kind} knows one label an image .*{remedy}"):
        build.with_facts(config, build.make_data(config))
    config = composed(tmp_path, "data=image_folder", *own, "task.kind=multilabel")
    with pytest.raises(UserError, match=r"task\.kind=multilabel needs data of several labels"):
        build.with_facts(config, build.make_data(config))
