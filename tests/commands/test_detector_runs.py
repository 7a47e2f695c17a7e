"""Detectors from the command line: each model brings its task and data; a run is tested again from its checkpoint."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import fakes
from lightbed.cli import main
from lightbed.data.digit_scenes import DigitScenes
from lightbed.draw.boxes import confident
from lightbed.errors import UserError
from lightbed.models.rcnn import FasterRCNN
from lightbed.runs.load import load_run
from lightbed.tasks import Classifier, Segmenter

CONF = Path(__file__).parents[2] / "conf"
QUICK = ["trainer=debug", "trainer.accelerator=cpu", "data.batch_size=2", "data.eval_batch_size=4", "threads=1"]
SCENES = ["data.images={train:6,val:4,test:4}"]
LIGHT = ["model.backbone=mobilenet_v3_small", "model.pyramid_channels=32"]
REGIONS = [
    *LIGHT,
    "model.levels=[1,2]",
    "model.anchor_sizes=[[12],[24],[48]]",
    "model.representation_size=16",
    "model.box_batch_size_per_image=8",
    "model.box_detections_per_img=10",
    "model.rpn_post_nms_top_n_test=20",
]
SEARCH = ["model.box_batch_size_per_image=8", "model.proposals.width=48", "model.proposals.most=20"]
SMALL = {
    "fast_rcnn": [LIGHT[0], "model.level=1", "model.representation_size=16", *SEARCH],
    "faster_rcnn": REGIONS,
    "fcos": [LIGHT[0], "model.pyramid_channels=64", "model.levels=[1,2,3]", "model.strides=[4,8,16,32,64]"],
    "mask_rcnn": [*REGIONS, "model.mask_layers=[8]", "model.mask_dim_reduced=8"],
    "overfeat": ["model.channels=[4,8,8]", "model.hidden=8"],
    "rcnn": ["model.classifier.channels=[4,8]", "model.crop_size=12", "model.context=1", "model.box_grid=2", *SEARCH],
    "retinanet": [*LIGHT, "model.levels=[1,2,3]"],
    "ssd": [],
    "ssdlite": ["model.size=[96,96]"],
}


def train(folder: Path, *words: str) -> Path:
    assert main(["train", *QUICK, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny Mask R-CNN, which has everything that the others have."""
    folder = tmp_path_factory.mktemp("detector") / "run"
    return train(folder, "model=mask_rcnn", *SMALL["mask_rcnn"], *SCENES, "callbacks.pictures.count=2")


def test_a_run_has_losses_of_both_stages_scores_threshold_and_pictures(run: Path) -> None:
    final = json.loads((run / "metrics.json").read_text())
    names = ("classifier", "box_reg", "objectness", "rpn_box_reg", "mask")
    assert {f"{stage}/loss_{name}" for stage in ("train", "val", "test") for name in names} <= final.keys()
    assert {"test/map", "test/map_50", "test/mask_map", "test/f1", "test/detections", "val/map"} <= final.keys()
    assert "train/map" not in final
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["task"]["_target_"] == "lightbed.tasks.Detector"
    assert config["model"]["num_classes"] == 10
    assert (run / "pictures" / "predictions.png").is_file()
    task = load_run(run).task
    assert task.classes == [str(digit) for digit in range(10)]
    assert 0 <= float(task.threshold) <= 1


def test_its_test_again_gives_the_same_figures(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tested"
    words = [f"hydra.run.dir={folder}", "device=cpu", "callbacks.pictures=null"]
    assert main(["test", f"run={run}", *words]) == 0
    final = json.loads((run / "metrics.json").read_text())
    again = json.loads((folder / "metrics.json").read_text())
    assert again == {name: value for name, value in final.items() if name.startswith("test/")}


def test_pictures_show_pairs_curves_and_confusion(run: Path) -> None:
    drawn = {path.stem for path in (run / "pictures").iterdir()}
    assert drawn == {"predictions", "confusion_matrix", "precision_recall", "precision_recall_masks"}
    assert "evaluation of 4 images: " in (run / "log.txt").read_text()


def test_predict_draws_and_writes_objects_at_the_images_own_size(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = load_run(run).task
    photos, folder = tmp_path / "photos", tmp_path / "predicted"
    photos.mkdir()
    data = DigitScenes(images={"train": 1, "val": 1, "test": 2})
    data.setup()
    (small, _), (large, _) = (data.splits["test"][i] for i in range(2))
    Image.fromarray(small.permute(1, 2, 0).numpy()).save(photos / "007.png")
    Image.fromarray(large.permute(1, 2, 0).numpy()).resize((192, 128)).save(photos / "12.png")
    alone = tmp_path / "alone.ckpt"  # the file is all that is needed
    alone.write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
    words = [f"run={alone}", f"source={photos}", "device=cpu", f"hydra.run.dir={folder}"]
    assert main(["predict", *words, "threshold=0.05"]) == 0
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    expected = confident(task.predict([task.preprocess(small)])[0], 0.05)
    first = lines[0]["objects"]
    assert [one["index"] for one in first] == expected["labels"].tolist()
    assert [one["box"] for one in first] == [pytest.approx(box, abs=1e-3) for box in expected["boxes"].tolist()]
    found = json.loads((folder / "results.json").read_text())
    assert [line["image_id"] for line in found] == [7] * len(first) + [12] * len(lines[1]["objects"])
    sizes = {7: [64, 64], 12: [128, 192]}
    assert all(line["segmentation"]["size"] == sizes[line["image_id"]] for line in found)
    assert all(
        max(one["box"][2] for one in line["objects"]) <= side for line, side in zip(lines, (64, 192), strict=True)
    )
    assert {path.name for path in (folder / "pictures").iterdir()} == {"007.png", "12.png"}
    assert "results.json" in capfd.readouterr().out
    sure = [f"hydra.run.dir={tmp_path / 'sure'}", "pictures=false"]
    assert main(["predict", *words[:3], *sure]) == 0
    assert '"objects": []' in (tmp_path / "sure" / "predictions.jsonl").read_text(), "nothing scores 0.9"
    assert json.loads((tmp_path / "sure" / "results.json").read_text()) == []


def test_zero_epochs_test_the_untrained_network(tmp_path: Path) -> None:
    words = ["model=faster_rcnn", *SMALL["faster_rcnn"], *SCENES, "callbacks.pictures=null", "trainer.max_epochs=0"]
    folder = train(tmp_path / "run", *words, "data.limit=2", "data.test_seen=1", "task.monitor=train/loss")
    final = json.loads((folder / "metrics.json").read_text())
    assert final["test/detections"] == 10
    assert 0.05 < final["test/highest_score"] < 0.5
    assert json.loads((folder / "run.json").read_text())["data"]["images"] == {"train": 2, "val": 4, "test": 1}


def test_few_images_are_compared_over_epochs_on_one_that_was_trained_on(tmp_path: Path) -> None:
    fakes.penn_fudan_people(tmp_path / "data")
    words = ["sweep=few_images", "trainer.max_epochs=0,2", "data.limit=3", "data.batch_size=3", *REGIONS]
    places = [f"paths.data={tmp_path / 'data'}", f"hydra.sweep.dir={tmp_path / 'many'}", f"paths.outputs={tmp_path}"]
    assert main(["train", *words, *places, "trainer.accelerator=cpu", "threads=1"]) == 0
    with (tmp_path / "many" / "report.csv").open(newline="") as file:
        rows = {row["trainer.max_epochs"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"0", "2"}
    assert 0 < float(rows["0"]["test/highest_score"]) < 1
    assert float(rows["0"]["test/detections"]) <= 10
    assert rows["0"]["train/loss"] == ""
    assert float(rows["2"]["train/loss"]) > 0
    head = (tmp_path / "many" / "report.md").read_text().splitlines()[2]
    assert all(name in head for name in ("train/loss", "test/detections", "test/highest_score"))
    assert (tmp_path / "many" / "sample_0.png").is_file()


def test_data_without_boxes_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["model=faster_rcnn", *SMALL["faster_rcnn"], "data=digits", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(["train", *QUICK, *words]) == 2
    assert "a detector needs boxes, labels, but the data has label" in capfd.readouterr().err


def test_a_loss_that_is_nan_stops_at_its_step_and_leaves_the_batch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["model=faster_rcnn", *SMALL["faster_rcnn"], *SCENES, "optimizer=sgd", "optimizer.lr=1e30"]
    assert main(["train", *QUICK, *words, "callbacks=test", f"hydra.run.dir={tmp_path / 'run'}"]) == 1
    assert "in batch 2 of epoch 1, step 2" in capfd.readouterr().err
    content = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)
    assert [image.shape for image in content["images"]] == [(3, 64, 64)] * 2
    assert {"boxes", "labels"} <= content["target"][0].keys()


def test_half_the_batch_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = FasterRCNN.forward

    def short(self: FasterRCNN, images: list[torch.Tensor], targets: Any = None) -> Any:
        if torch.is_grad_enabled() and len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, images, targets)

    monkeypatch.setattr(FasterRCNN, "forward", short)
    words = ["model=faster_rcnn", *SMALL["faster_rcnn"], *SCENES, "callbacks.pictures=null"]
    folder = train(tmp_path / "run", *words, "trainer.batch_size_on_oom=halve")
    (only,) = json.loads((folder / "run.json").read_text())["out_of_memory"]
    assert (only["after"]["batch_size"], only["after"]["accumulate_grad_batches"]) == (1, 2)


def test_boxes_are_told_to_those_that_need_something_else() -> None:
    batch = ([torch.zeros(3, 8, 8)] * 2, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "path": "a.png"}] * 2)
    with pytest.raises(UserError, match="a classifier needs the label of an image, the data has its boxes, labels: "):
        Classifier(torch.nn.Flatten(), 3).step(batch, "train")
    with pytest.raises(UserError, match="a segmenter needs masks, but the data has boxes, labels: "):
        Segmenter(torch.nn.Flatten(), 3).step(batch, "train")


@pytest.mark.slow
def test_two_processes_have_the_scores_of_one(tmp_path: Path) -> None:
    words = [*QUICK, "model=mask_rcnn", *SMALL["mask_rcnn"], "data.images={train:6,val:3,test:5}", "test=last"]
    words += ["trainer=default", "trainer.max_epochs=1", "trainer.devices=2", "trainer.strategy=ddp"]
    words += ["model.box_score_thresh=0.01", f"hydra.run.dir={tmp_path / 'run'}", f"paths.outputs={tmp_path}"]
    subprocess.run([sys.executable, "-m", "lightbed", "train", *words], check=True, timeout=300, capture_output=True)
    assert main(["test", f"run={tmp_path / 'run'}", "device=cpu", f"hydra.run.dir={tmp_path / 'alone'}"]) == 0
    final = json.loads((tmp_path / "run" / "metrics.json").read_text())
    alone = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    scores = {name: value for name, value in final.items() if name.startswith("test/") and "loss" not in name}
    # losses are means over the proposals of a batch, and batches hold other images
    assert {name: value for name, value in alone.items() if "loss" not in name} == scores
    assert alone["test/detections"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL)
def test_each_model_brings_its_task_and_data(model: str, tmp_path: Path) -> None:
    folder = train(tmp_path / "run", f"model={model}", *SMALL[model], *SCENES, "callbacks.pictures=null")
    final = json.loads((folder / "metrics.json").read_text())
    assert {"test/map", "test/loss", "val/map", "train/loss"} <= final.keys()
    assert load_run(folder).task.num_classes == 10


def test_every_detector_is_tried() -> None:
    found = {path.stem for path in (CONF / "model").glob("*.yaml") if "task: detector" in path.read_text()}
    assert found | {"mask_rcnn"} == set(SMALL)
