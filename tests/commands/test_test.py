"""`lightbed test`: the figures of the training again, and another data set judged with the model's own eyes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightbed.cli import main
from lightbed.data.digits import Digits
from lightbed.data.relabel import match_classes
from lightbed.data.source import ArraySource
from lightbed.errors import UserError
from lightbed.runs.history import read_history


def evaluate(folder: Path, *words: str) -> dict[str, float]:
    code = main(["test", f"hydra.run.dir={folder}", "callbacks.pictures=null", "device=cpu", *words])
    assert code == 0
    return json.loads((folder / "metrics.json").read_text())


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    assert main(["test", "device=cpu", "callbacks.pictures=null", *words]) == 2
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1, message
    return message


def of_stage(metrics: dict[str, float], stage: str) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith(f"{stage}/")}


def export(folder: Path, names: list[str] | None = None) -> Path:
    """The digits' test split as class folders of PNG files."""
    data = Digits()
    data.setup()
    for i in range(len(data.splits["test"])):
        image, target = data.splits["test"][i]
        place = folder / (names or data.classes)[int(target["label"])]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{i:03}.png")
    return folder


def edited(run: Path, target: Path, change: Any) -> Path:
    """A copy of the run's checkpoint with its content changed."""
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    config = json.loads(content["lightbed"]["config_json"])
    change(content, config)
    content["lightbed"]["config_json"] = json.dumps(config)
    torch.save(content, target)
    return target


def test_the_run_gives_its_own_figures_to_the_bit(digits_run: Path, tmp_path: Path) -> None:
    trained = json.loads((digits_run / "metrics.json").read_text())
    found = evaluate(tmp_path / "again", f"run={digits_run}")
    assert found == of_stage(trained, "test")
    assert len(found) == 5
    record = json.loads((tmp_path / "again" / "run.json").read_text())
    assert record["kind"] == "test"
    assert record["status"] == "done"
    assert record["run"] == str(digits_run / "checkpoints" / "best.ckpt")
    assert record["data"]["images"] == 359
    assert not (tmp_path / "again" / "checkpoints").exists(), "a test leaves no empty folder of checkpoints"


def test_a_checkpoint_alone_is_enough(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(digits_run / "checkpoints" / "best.ckpt", tmp_path / "model=a,b.ckpt")
    monkeypatch.chdir(tmp_path)
    found = evaluate(tmp_path / "alone", "run=model=a,b.ckpt")
    assert found == of_stage(json.loads((digits_run / "metrics.json").read_text()), "test")


def test_the_validation_split_gives_the_figures_of_the_best_epoch(digits_run: Path, tmp_path: Path) -> None:
    best = max(read_history(digits_run / "metrics.csv"), key=lambda row: row["val/accuracy"])
    found = evaluate(tmp_path / "val", f"run={digits_run}", "split=val")
    assert found == {name: pytest.approx(best[name], rel=1e-7) for name in best if name.startswith("val/")}


def test_the_training_split_is_read_without_augmentation_and_whatever_the_batch_size(
    digits_run: Path, tmp_path: Path
) -> None:
    one = evaluate(tmp_path / "one", f"run={digits_run}", "split=train")
    other = evaluate(tmp_path / "other", f"run={digits_run}", "split=train", "batch_size=100", "num_workers=1")
    assert one["train/accuracy"] == other["train/accuracy"]
    assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)
    assert json.loads((tmp_path / "one" / "run.json").read_text())["data"]["images"] == 1294


def test_the_same_images_as_files_give_the_same_figures(digits_run: Path, tmp_path: Path) -> None:
    """The files are grey PNGs of 8x8; the data set's own 224x224 RGB default must give way to the model's input."""
    photos = export(tmp_path / "photos")
    words = ["data=image_folder", f"data.root={photos}", "split=train", "data.val_fraction=0", "data.test_fraction=0"]
    found = evaluate(tmp_path / "files", f"run={digits_run}", *words)
    trained = json.loads((digits_run / "metrics.json").read_text())
    for name, value in of_stage(trained, "test").items():
        assert found[name.replace("test/", "train/")] == pytest.approx(value, rel=1e-5), name


def test_classes_in_another_order_are_renumbered_by_name(digits_run: Path, tmp_path: Path) -> None:
    """A model whose classes (and output weights) are turned round is the same model."""

    def turn(content: dict[str, Any], config: dict[str, Any]) -> None:
        content["lightbed"]["classes"].reverse()
        for name in ("model.head.3.weight", "model.head.3.bias"):
            content["state_dict"][name] = content["state_dict"][name].flip(0)

    turned = edited(digits_run, tmp_path / "turned.ckpt", turn)
    photos = export(tmp_path / "photos")
    words = ["data=image_folder", f"data.root={photos}", "split=train", "data.val_fraction=0", "data.test_fraction=0"]
    found = evaluate(tmp_path / "turned", f"run={turned}", *words)
    trained = json.loads((digits_run / "metrics.json").read_text())
    assert found["train/accuracy"] == trained["test/accuracy"]


def test_renumbering_moves_labels_and_columns() -> None:
    data = Digits()
    data.classes = ["b", "c", "a"]
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    data.splits = {"test": ArraySource(images, {"label": torch.tensor([0, 1, 2])})}
    assert match_classes(data, ["a", "b", "c"], "names")
    batch = data.splits["test"].take(torch.tensor([0, 1, 2]))  # type: ignore[attr-defined]
    assert batch[1]["label"].tolist() == [1, 2, 0]
    assert [int(data.splits["test"][i][1]["label"]) for i in range(3)] == [1, 2, 0]

    data.classes = ["b", "c", "a"]
    data.splits = {"test": ArraySource(images[:1], {"label": torch.tensor([[1.0, 0.0, 0.0]])})}
    match_classes(data, ["a", "b", "c"], "names")
    assert data.splits["test"][0][1]["label"].tolist() == [0.0, 1.0, 0.0], "b is the second column of the model"

    data.classes = ["x", "y", "z"]
    assert not match_classes(data, ["a", "b", "c"], "order")
    assert data.classes == ["a", "b", "c"]
    with pytest.raises(UserError, match="classes=order"):
        match_classes(data, ["a", "b", "z"], "names")


def test_data_that_moved_is_found_below_the_new_folder(digits_run: Path, tmp_path: Path) -> None:
    """A run on files below `paths.data`, whose files and cache now lie elsewhere."""
    new = export(tmp_path / "new" / "photos").parent

    def on_files(content: dict[str, Any], config: dict[str, Any]) -> None:
        config["paths"] = {"outputs": "outputs", "data": "/gone/data", "cache": "/gone/cache"}
        own = {"_target_": "lightbed.data.folder.ImageFolder", "root": "/gone/data/photos", "cache_dir": "/gone/cache"}
        config["data"] |= own | {"val_fraction": 0.0, "test_fraction": 0.0}

    moved = edited(digits_run, tmp_path / "moved.ckpt", on_files)
    found = evaluate(tmp_path / "moved", f"run={moved}", "split=train", f"paths.data={new}")
    trained = json.loads((digits_run / "metrics.json").read_text())
    assert found["train/accuracy"] == trained["test/accuracy"]


def test_what_does_not_fit_is_refused_in_one_line(
    digits_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = f"paths.outputs={tmp_path}"
    own = [f"run={digits_run}", outputs]
    assert "does not exist" in refused(capfd, f"run={tmp_path / 'nowhere'}", outputs)
    assert "run=..." in refused(capfd, outputs)
    assert "split=all" in refused(capfd, *own, "split=all")
    assert "device=tpu" in refused(capfd, *own, "device=tpu")
    folder = ["data=image_folder", f"data.root={tmp_path / 'photos'}", "split=train", "data.val_fraction=0",
              "data.test_fraction=0"]  # fmt: skip
    words = [f"digit-{i}" for i in range(10)]
    export(tmp_path / "photos", words)
    other = refused(capfd, *own, *folder)
    assert "digit-0" in other, other
    assert "classes=order" in other
    assert evaluate(tmp_path / "order", *own, *folder, "classes=order")["train/accuracy"] > 0.5
    assert "belongs to the model" in refused(capfd, *own, *folder, "data.image_size=32")
    assert "batch_size=" in refused(capfd, *own, *folder, "data.eval_batch_size=32")
    shutil.rmtree(tmp_path / "photos" / "digit-3")
    assert "9 classes" in refused(capfd, *own, *folder)
    assert all(any(path.iterdir()) for path in (tmp_path / "test").iterdir()), "wrong usage leaves no empty folder"


def test_a_foreign_data_config_is_not_run(digits_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proof = tmp_path / "proof"

    def evil(content: dict[str, Any], config: dict[str, Any]) -> None:
        file = {"_target_": "pathlib.Path", "_args_": [str(proof)]}
        config["data"] = {"_target_": "pathlib.Path.touch", "self": file, "batch_size": 1, "num_workers": 0}

    checkpoint = edited(digits_run, tmp_path / "evil.ckpt", evil)
    assert "trust=true" in refused(capfd, f"run={checkpoint}", f"paths.outputs={tmp_path}")
    assert not proof.exists()


def test_pictures_say_which_split_they_show(digits_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    assert (
        main(["test", f"run={digits_run}", f"hydra.run.dir={folder}", "split=val", "callbacks.pictures.count=4"]) == 0
    )
    assert {path.name for path in (folder / "pictures").iterdir()} >= {"predictions.png", "confusion_matrix.png"}


def test_data_of_another_task_is_refused_with_both_sides_named(
    digits_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"run={digits_run}", "data=digit_scenes", "data.images={train: 2, val: 1, test: 1}", "data.sides=[4,6]"]
    message = refused(capfd, *words, "data.targets=[label,mask]", f"hydra.run.dir={tmp_path / 'scenes'}")
    assert "the data has 11 classes (background, 0, 1" in message
    assert "the model 10 (0, 1, 2" in message
