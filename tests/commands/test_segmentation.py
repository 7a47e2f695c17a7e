"""Semantic segmentation from the command line: every model and data set, pictures, masks of own images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fakes
from lightbed.cli import main
from lightbed.runs.load import load_run

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(
    path.stem for path in (CONF / "model").glob("*.yaml") if "/task@_global_.task: segm" in path.read_text()
)
SMALL = {
    "deconvnet": ["model.channels=[4,8]", "model.depths=[1,1]", "model.hidden=8"],
    "fcn": ["model.hidden=8", "model.backbone=mobilenet_v3_small"],
    "segnet": ["model.channels=[4,8]", "model.depths=[1,2]"],
    "unet": ["model.channels=[4,8]"],
}
QUICK = ["trainer=debug", "trainer.accelerator=cpu", "data.batch_size=2", "threads=1"]
SCENES = ["data.images={train:6,val:4,test:4}", "data.eval_batch_size=4"]


def run(folder: Path, *words: str) -> Path:
    assert main(["train", *QUICK, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def scenes_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny network, with pictures of two chosen samples."""
    folder = tmp_path_factory.mktemp("scenes") / "run"
    chosen = ["augment=scenes", "callbacks.pictures.samples=[3,0]"]
    return run(folder, "model=unet", *SMALL["unet"], *SCENES, *chosen)


@pytest.mark.parametrize("model", MODELS)
def test_each_model_brings_its_task_and_data(model: str, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", f"model={model}", *SMALL.get(model, []), *SCENES, "callbacks.pictures=null")
    final = json.loads((folder / "metrics.json").read_text())
    assert {"test/pixel_accuracy", "test/iou", "test/iou/background", "val/iou", "train/loss"} <= final.keys()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["task"]["_target_"] == "lightbed.tasks.Segmenter"
    assert config["data"]["_target_"] == "lightbed.data.digit_scenes.DigitScenes"
    assert load_run(folder).task.num_classes == 11


@pytest.mark.parametrize("data", ["camvid", "penn_fudan_people", "drone", "mask_folder"])
def test_each_data_set_from_its_files(data: str, tmp_path: Path) -> None:
    root = fakes.DRAWN[data](tmp_path / "data")
    own = [f"data.root={root}"] if data == "mask_folder" else [f"paths.data={root}"]
    size = "data.image_size=[40,56]"
    folder = run(tmp_path / "run", "model=single_convolution", f"data={data}", *own, size, "augment=scenes")
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done"
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names == {"confusion_matrix.png", "predictions.png"}
    own = {"camvid": (360, 480), "penn_fudan_people": (111, 125), "drone": (80, 120), "mask_folder": (40, 56)}
    assert load_run(folder).task.largest == own[data]


def test_single_convolution_of_the_recipe_has_644_parameters(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = fakes.drone(tmp_path / "data")
    words = ["experiment=single_convolution", f"paths.data={root}", "callbacks.pictures=null"]
    run(tmp_path / "run", *words)
    out = capfd.readouterr().out
    assert "3x400x600   23x400x600" in out
    assert "644 parameters" in out


def test_class_weights_come_from_the_data(tmp_path: Path) -> None:
    words = ["model=single_convolution", *SCENES, "callbacks.pictures=null"]
    options = ["task.class_weights=median", "task.loss={cross_entropy:1,dice:1,focal:0.5}"]
    folder = run(tmp_path / "run", *words, *options)
    weights = yaml.safe_load((folder / "config.yaml").read_text())["task"]["class_weights"]
    assert len(weights) == 11
    assert weights[0] == min(weight for weight in weights if weight)  # background is the commonest
    final = json.loads((folder / "metrics.json").read_text())
    parts = [final[f"test/loss_{name}"] for name in ("cross_entropy", "dice", "focal")]
    assert final["test/loss"] == pytest.approx(sum(parts), rel=1e-4)


def test_a_network_for_pixels_on_labels_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["model=unet", *SMALL["unet"], "data=digits", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(["train", *QUICK, *words]) == 2
    assert "a segmenter needs masks, but the data has label" in capfd.readouterr().err


# -- predict -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate([(64, 64), (150, 97), (30, 200)]):
        Image.fromarray(fakes.scene(size, 4, i)[0]).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("words", [[], ["tile=48", "overlap=16"]])
def test_masks_have_the_images_own_sizes(scenes_run: Path, photos: Path, tmp_path: Path, words: list[str]) -> None:
    folder = tmp_path / "predicted"
    done = main(["predict", f"hydra.run.dir={folder}", f"run={scenes_run}", f"source={photos}", "device=cpu", *words])
    assert done == 0
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["0.png", "1.png", "2.png"]
    task = load_run(scenes_run).task
    for line in lines:
        photo = np.array(Image.open(line["path"]))
        mask = Image.open(folder / line["mask"])
        labels = np.asarray(mask)
        assert mask.mode == "P"
        assert labels.shape == photo.shape[:2]
        expected = task.segment(torch.from_numpy(photo).permute(2, 0, 1), *([48, 16] if words else []))["mask"]
        assert np.array_equal(labels, expected.numpy())
        shares = {task.classes[i]: float((labels == i).mean()) for i in np.unique(labels)}
        assert line["shares"] == pytest.approx(shares)
        assert sum(line["shares"].values()) == pytest.approx(1)
    assert len(list((folder / "pictures").glob("*.png"))) == 3
    assert "broken.png" in json.loads((folder / "run.json").read_text())["data"]["skipped_files"][0]


def test_an_image_much_larger_than_those_trained_on_is_labelled_in_tiles_of_their_size(
    scenes_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(fakes.scene((260, 300), 4, 0)[0]).save(tmp_path / "large.png")
    masks = {}
    for words in ("tile=auto", "tile=64", "tile=null"):
        folder = tmp_path / words
        places = [f"hydra.run.dir={folder}", f"run={scenes_run}", f"source={tmp_path / 'large.png'}", "device=cpu"]
        assert main(["predict", *places, words, "pictures=false"]) == 0
        masks[words] = np.asarray(Image.open(folder / "masks" / "large.png"))
    told = capfd.readouterr()
    assert (told.out + told.err).count("large.png is 300x260, much more than the images trained on (up to 64x64)") == 1
    assert np.array_equal(masks["tile=auto"], masks["tile=64"])
    task, photo = load_run(scenes_run).task, np.array(Image.open(tmp_path / "large.png"))
    expected = task.segment(torch.from_numpy(photo).permute(2, 0, 1), None)["mask"]
    assert np.array_equal(masks["tile=null"], expected.numpy())


def test_the_datas_colours_are_those_of_the_pictures(tmp_path: Path) -> None:
    """From the colour table through the checkpoint into what predict writes."""
    colours = {"wall": [10, 20, 30], "door": [200, 0, 200], "roof": [0, 255, 0]}
    root, table = fakes.mask_folder(tmp_path / "data"), np.array([*colours.values()], np.uint8)
    for path in (root / "masks").glob("*.png"):
        Image.fromarray(table[np.asarray(Image.open(path))]).save(path)
    words = ["model=single_convolution", "data=mask_folder", f"data.root={root}"]
    folder = run(tmp_path / "run", *words, "data.colours={wall:[10,20,30],door:[200,0,200],roof:[0,255,0]}")
    assert load_run(folder).task.colours == colours
    strips = np.asarray(Image.open(folder / "pictures" / "predictions.png").convert("RGB")).reshape(-1, 3)
    assert all((strips == colour).all(1).sum() > 100 for colour in table)
    seen = tmp_path / "predicted"
    assert main(["predict", f"hydra.run.dir={seen}", f"run={folder}", f"source={root / 'images'}", "device=cpu"]) == 0
    mask = Image.open(seen / "masks" / "picture00.png")
    assert np.array_equal(np.asarray(mask.convert("RGB")), table[np.asarray(mask)])


def test_chosen_samples_are_drawn(scenes_run: Path) -> None:
    picture = np.asarray(Image.open(scenes_run / "pictures" / "predictions.png"))
    assert picture.shape[1] > 1.5 * picture.shape[0]  # two strips of four pictures, side by side
    assert (scenes_run / "pictures" / "confusion_matrix.png").is_file()
