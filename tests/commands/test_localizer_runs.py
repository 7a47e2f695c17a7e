"""Localizers from the command line: embedded digits and labelled photographs, tested, predicted, repeated, resumed."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import exact
import fakes
from lightbed.cli import main
from lightbed.data.digit_scenes import DigitScenes
from lightbed.runs.load import load_run

QUICK = ["trainer=debug", "trainer.accelerator=cpu", "threads=1", "task=localizer", "model=cnn", "model.channels=[4,8]",
         "task.hidden=8", "data.batch_size=8", "data.eval_batch_size=8"]  # fmt: skip
SCENES = ["data=one_digit", "data.images={train:16,val:8,test:8}"]


def train(folder: Path, *words: str) -> Path:
    assert main(["train", *QUICK, *words, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the embedded scenes."""
    return train(
        tmp_path_factory.mktemp("localizer") / "run", *SCENES, "callbacks.pictures.count=2", "augment=flip_crop"
    )


def test_a_run_has_both_losses_all_scores_and_pictures(run: Path) -> None:
    final = json.loads((run / "metrics.json").read_text())
    names = ("loss", "loss_label", "loss_box", "accuracy", "iou", "accuracy_50", "precision", "recall", "f1")
    assert {f"{stage}/{name}" for stage in ("train", "val", "test") for name in names} <= final.keys()
    assert {path.stem for path in (run / "pictures").iterdir()} == {"predictions", "confusion_matrix"}
    loaded = load_run(run)
    assert [name for name, _ in loaded.task.model.named_children()] == ["trunk", "label", "box"]
    assert loaded.config["data"]["targets"] == "auto"


def test_its_test_and_its_rerun_give_the_same_figures(run: Path, tmp_path: Path) -> None:
    assert main(["test", f"run={run}", f"hydra.run.dir={tmp_path / 'tested'}", "device=cpu"]) == 0
    final = json.loads((run / "metrics.json").read_text())
    again = json.loads((tmp_path / "tested" / "metrics.json").read_text())
    first = {name: value for name, value in final.items() if name.startswith("test/")}
    assert again.keys() == first.keys()
    assert main(["rerun", f"run={run}", f"hydra.run.dir={tmp_path / 'again'}", f"paths.outputs={tmp_path}"]) == 0


def test_predict_tells_and_draws_the_box_at_the_images_own_size(run: Path, tmp_path: Path) -> None:
    task = load_run(run).task
    data = DigitScenes(images={"test": 1}, digits=[1, 1], image_size=[48, 48])
    data.setup()
    image = data.splits["test"][0][0]
    (tmp_path / "photos").mkdir()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / "one.png")
    Image.fromarray(image.permute(1, 2, 0).numpy()).resize((200, 100)).save(tmp_path / "photos" / "two.png")
    words = [f"run={run}", f"source={tmp_path / 'photos'}", "device=cpu", f"hydra.run.dir={tmp_path / 'seen'}"]
    assert main(["predict", *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "seen" / "predictions.jsonl").read_text().splitlines()]
    (expected,) = task.predict(task.preprocess(image)[None])
    assert lines[0]["box"] == pytest.approx(expected["box"].tolist(), abs=1e-3)
    assert lines[0]["index"] == int(expected["label"])
    x1, y1, x2, y2 = lines[1]["box"]
    assert 0 <= x1 <= x2 <= 200
    assert 0 <= y1 <= y2 <= 100
    assert {path.name for path in (tmp_path / "seen" / "pictures").iterdir()} == {"one.png", "two.png"}


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    words = [*SCENES, "trainer.max_epochs=3", "callbacks.pictures=null", "augment=flip_crop"]
    whole = train(tmp_path / "whole", *words)
    cut = tmp_path / "cut"
    killed = [*QUICK, *words, exact.kill("batch", 4), f"hydra.run.dir={cut}", f"paths.outputs={tmp_path}"]
    assert main(["train", *killed]) == 1
    assert main(["train", f"resume={cut}", "trust=true"]) == 0
    one, other = exact.result(whole), exact.result(cut)
    assert one["last state_dict"] == other["last state_dict"]
    assert one["rows"] == other["rows"]


def test_the_largest_object_of_labelled_photographs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fakes.DRAWN["raccoon"](tmp_path / "data")
    words = ["data=raccoon", f"paths.data={tmp_path / 'data'}", f"paths.cache={tmp_path / 'cache'}",
             "callbacks.pictures.count=2"]  # fmt: skip
    folder = train(tmp_path / "run", *words, "data.image_size=[32,40]")
    assert 0 <= json.loads((folder / "metrics.json").read_text())["test/iou"] <= 1
    assert main(["train", *QUICK, *words, f"hydra.run.dir={tmp_path / 'other'}", f"paths.outputs={tmp_path}"]) == 2
    assert re.search(r"data.image_size=null: with one object an image", capfd.readouterr().err)
    task = load_run(folder).task
    assert torch.zeros(1, 3, 32, 40).shape[1:] == (3, *task.preprocess.size)
