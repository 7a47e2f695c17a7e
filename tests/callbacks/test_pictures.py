"""The pictures of a run: which there are, of which images, and that they say what the metrics say."""

from functools import partial
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightbed.callbacks.pictures import Pictures, metric_pictures, predictions, stage_metrics
from lightbed.cli import main
from lightbed.data.base import DataModule, Loading
from lightbed.data.source import ArraySource
from lightbed.draw.figure import RIGHT, WRONG
from lightbed.draw.panels import draw
from lightbed.models.dnn import DNN
from lightbed.tasks import Classifier


class Dots(DataModule):
    """Grey 6x6 images with a bright dot whose row is the class; several rows are several labels."""

    def __init__(self, *, labels: bool = False, test: bool = True, **common) -> None:
        super().__init__(channels=1, image_size=6, val_fraction=0, test_fraction=0, **common)
        self.labels, self.test = labels, test

    def load(self) -> Loading:
        splits = {name: self.source(count) for name, count in (("train", 90), ("val", 20), ("test", 30))}
        if not self.test:
            del splits["test"]
        return Loading(splits, ["top", "upper middle", "lower middle"])

    def source(self, count: int) -> ArraySource:
        generator = torch.Generator().manual_seed(count)
        present = torch.rand(count, 3, generator=generator) < 0.5
        label = torch.randint(0, 3, (count,), generator=generator)
        rows = present if self.labels else torch.nn.functional.one_hot(label, 3).bool()
        images = torch.zeros(count, 1, 6, 6, dtype=torch.uint8)
        images[:, 0, :3] = rows[:, :, None] * torch.tensor(200, dtype=torch.uint8)
        return ArraySource(images, {"label": present.float() if self.labels else label})


def fit(folder: Path, data: Dots, pictures: Pictures, **options) -> tuple[L.Trainer, Classifier]:
    """Train a task on the dots for two epochs."""
    torch.manual_seed(0)
    data.setup()
    model = DNN(36, 1 if options.get("kind") == "binary" else 3, hidden=[8])
    task = Classifier(
        model,
        3,
        classes=data.classes,
        optimizer=partial(torch.optim.Adam, lr=0.03),
        preprocess=data.preprocess,
        **options,
    )
    trainer = L.Trainer(
        max_epochs=2, default_root_dir=folder, callbacks=[pictures], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return trainer, task


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "pictures").glob("*")}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def colors(path: Path) -> dict[str, bool]:
    image = pixels(path).astype(int)
    return {
        name: bool((np.abs(image - [int(name[i : i + 2], 16) for i in (1, 3, 5)]).max(-1) <= 2).any())
        for name in (RIGHT, WRONG)
    }


def test_a_test_draws_predictions_confusion_and_precision_recall(tmp_path: Path) -> None:
    data = Dots()
    trainer, task = fit(tmp_path, data, Pictures())
    assert not (tmp_path / "pictures").exists(), "a validation in a fit draws nothing"
    trainer.test(task, datamodule=data, verbose=False)
    assert names(tmp_path) == {"predictions.png", "confusion_matrix.png", "precision_recall.png"}
    # an independent count of what the confusion matrix shows
    source = data.splits["test"]
    said = [int(p["label"]) for p in task.predict(data.preprocess(torch.stack([source[i][0] for i in range(30)])))]
    expected = np.zeros((3, 3), int)
    for i, label in enumerate(said):
        expected[int(source[i][1]["label"]), label] += 1
    (matrix,) = (figure for m in stage_metrics(task, "test") for name, figure in metric_pictures(m) if "conf" in name)
    shown = matrix(task.classes, "run", "text").axes[0]
    assert {t.get_position(): t.get_text() for t in shown.texts if t.get_text().isdigit()} == {
        (j, i): str(expected[i, j]) for i, j in np.ndindex(3, 3)
    }


def test_titles_are_those_of_the_predictions(tmp_path: Path) -> None:
    data = Dots()
    trainer, task = fit(tmp_path, data, Pictures(count=0))
    with torch.no_grad():  # a network that always says class 0
        task.model[-1].weight.zero_()
        task.model[-1].bias.copy_(torch.tensor([1.0, 0, 0]))
    trainer.test(task, datamodule=data, verbose=False)
    reader = trainer.test_dataloaders.dataset
    panels = [draw(*seen, task.classes) for seen in predictions(task, reader, list(range(30)), batch_size=7)]
    truth = [data.classes[int(reader.source[i][1]["label"])] for i in range(30)]
    assert [panel.title for panel in panels] == [
        "top, right" if name == "top" else f"not top but {name}" for name in truth
    ]
    assert "predictions.png" not in names(tmp_path), "count=0 draws no grid"


def test_colors_of_the_titles_are_in_the_file(tmp_path: Path) -> None:
    data = Dots()
    trainer, task = fit(tmp_path, data, Pictures(count=30))
    with torch.no_grad():
        task.model[-1].weight.zero_()
    trainer.test(task, datamodule=data, verbose=False)
    assert colors(tmp_path / "pictures" / "predictions.png") == {RIGHT: True, WRONG: True}


def test_without_a_test_split_the_final_validation_is_drawn(tmp_path: Path) -> None:
    data = Dots(test=False)
    trainer, task = fit(tmp_path, data, Pictures())
    assert not task.curve.update_called, "curves cost time, so validations in a fit leave them out"
    trainer.validate(task, datamodule=data, verbose=False)
    assert names(tmp_path) == {"predictions.png", "confusion_matrix.png", "precision_recall.png"}
    assert int(task.curve.counts.sum()) == 20 * 3


def test_several_labels_have_a_picture_of_labels(tmp_path: Path) -> None:
    data = Dots(labels=True)
    trainer, task = fit(tmp_path, data, Pictures(), kind="multilabel")
    trainer.test(task, datamodule=data, verbose=False)
    assert names(tmp_path) == {"predictions.png", "labels.png", "precision_recall.png"}


def test_images_are_drawn_by_chance_but_the_same_ones_every_time() -> None:
    positions = Pictures().positions(1000, "test")
    assert len(positions) == 36 == len(set(positions))
    assert positions == Pictures().positions(1000, "test") != Pictures(seed=1).positions(1000, "test")
    assert max(positions) > 100, "not just the first ones"
    assert sorted(Pictures().positions(5, "test")) == [0, 1, 2, 3, 4], "fewer images than asked for"
    assert Pictures(samples=[8, 9]).positions(10, "test") == [8, 9]


def test_a_position_that_is_not_there_ends_the_run_before_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        "callbacks.pictures.samples=[8,900]",
        "trainer.max_epochs=1",
        "model.channels=[4]",
        f"paths.outputs={tmp_path}",
    ]
    assert main(["train", *words, "trainer.accelerator=cpu"]) == 2
    shown = capfd.readouterr()
    assert "callbacks.pictures.samples=[900] are not in 0..358 of the test split" in shown.err
    assert "epoch 1/1" not in shown.out


def test_a_run_leaves_its_pictures_in_its_folder_and_in_tensorboard(tmp_path: Path) -> None:
    folder = tmp_path / "classifier" / "2026-11-21_15-00-00"
    words = [
        "trainer.max_epochs=1",
        "model.channels=[4]",
        "trainer.accelerator=cpu",
        "callbacks.pictures.samples=[8,9]",
    ]
    assert main(["train", *words, f"hydra.run.dir={folder}", f"paths.outputs={tmp_path}"]) == 0
    drawn = {"predictions.png", "confusion_matrix.png", "precision_recall.png"}
    assert names(folder) == {*drawn, "sample_8.png", "sample_9.png"}
    events = EventAccumulator(str(folder), {"images": 0}).Reload()
    assert set(events.Tags()["images"]) == {"predictions", "confusion_matrix", "precision_recall"}
    for name in drawn:
        (image,) = events.Images(name.removesuffix(".png"))
        assert (image.height, image.width, 3) == pixels(folder / "pictures" / name).shape
    assert len(pixels(folder / "pictures" / "predictions.png")) < 700, "one row of two images"
