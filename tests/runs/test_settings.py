"""Settings that no run can use are refused by their names, before Lightning stumbles over them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightbed.cli import main
from lightbed.data.digits import Digits
from lightbed.data.folder import ImageFolder
from lightbed.errors import UserError
from lightbed.runs.settings import check_counts, check_monitor, check_settings
from lightbed.tasks import Classifier
from lightbed.tasks.optim import make_optimizer
from lightbed.transforms.preprocess import Preprocess


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_epochs": 0.5}, r"trainer\.max_epochs=0\.5 must be a whole number, -1 or more$"),
        ({"max_epochs": -5}, r"trainer\.max_epochs=-5 must be"),
        ({"max_epochs": True}, r"trainer\.max_epochs=True must be"),
        ({"accumulate_grad_batches": 0}, r"trainer\.accumulate_grad_batches=0 must be a whole number, 1 or more$"),
        ({"check_val_every_n_epoch": 0}, r"trainer\.check_val_every_n_epoch=0 must be"),
        ({"num_nodes": 0}, r"trainer\.num_nodes=0 must be"),
        ({"gradient_clip_val": -1}, r"trainer\.gradient_clip_val=-1 must be more than 0, or null"),
        ({"gradient_clip_val": float("nan")}, r"trainer\.gradient_clip_val=nan must be more than 0"),
        ({"accelerator": "gpus"}, r"trainer\.accelerator=gpus is not known: did you mean gpu"),
        ({"strategy": "dpp"}, r"trainer\.strategy=dpp is not known: did you mean ddp"),
    ],
)
def test_settings_of_the_trainer(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        check_settings(settings)
    assert "\n" not in str(caught.value)


OURS = {"best": {"_target_": "lightbed.callbacks.checkpoint.Checkpoints", "monitor": "val/top2"}, "curves": None}


def monitoring(name: str, task: str = "lightbed.tasks.Classifier", **callbacks: Any) -> dict[str, Any]:
    metrics = {"top2": {"_target_": "torchmetrics.classification.MulticlassAccuracy"}}
    return {"task": {"_target_": task, "monitor": name, "metrics": metrics}, "callbacks": {**OURS, **callbacks}}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (monitoring("val/acuracy"), r"task\.monitor=val/acuracy is not logged: did you mean val/accuracy"),
        (monitoring("accuracy"), r"task\.monitor=accuracy must be val/NAME or train/NAME"),
        (monitoring("test/accuracy"), r"task\.monitor=test/accuracy must be val/NAME or train/NAME"),
        (monitoring("val/map", "lightbed.tasks.Segmenter"), r"task\.monitor=val/map is not logged"),
        (
            monitoring("val/f1", stop={"_target_": "lightbed.callbacks.stopping.EarlyStopping", "monitor": "val/los"}),
            r"callbacks\.stop\.monitor=val/los is not logged: did you mean val/loss",
        ),
    ],
)
def test_what_is_monitored_but_never_logged(config: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_monitor(config)


@pytest.mark.parametrize(
    "config",
    [
        *(monitoring(name) for name in ("val/accuracy", "train/f1", "val/loss", "val/loss_main", "val/top2")),
        monitoring("val/iou/road", "lightbed.tasks.Segmenter"),
        monitoring("val/mask_map_50", "lightbed.tasks.Detector"),
        monitoring("val/anything", f"{__name__}.Own"),
        monitoring("val/anything", mine={"_target_": "mine.Callback"}),
    ],
)
def test_what_is_or_may_be_logged(config: dict[str, Any]) -> None:
    check_monitor(config)


class Own(Classifier):
    """A user's task, whose metrics nobody knows."""


def test_a_schedule_that_cannot_be_stepped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "scheduler=cosine",
        "scheduler.build.T_max=0",
        "trainer.max_epochs=1",
        "data.limit=32",
        "model.channels=[4]",
    ]
    quiet = ["callbacks.layers=null", "callbacks.pictures=null", "trainer.accelerator=cpu", f"paths.outputs={tmp_path}"]
    assert main(["train", *words, *quiet]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "scheduler cannot be stepped (CosineAnnealingLR: ZeroDivisionError: " in told
    assert told.endswith("change scheduler.build")


def test_settings_that_are_as_they_should_be() -> None:
    check_settings({"max_epochs": -1, "accumulate_grad_batches": 4, "gradient_clip_val": 0.5, "accelerator": "cpu"})
    check_settings({"max_epochs": None, "gradient_clip_val": None, "strategy": "auto"})


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_counts_that_are_none(value: Any) -> None:
    with pytest.raises(UserError, match=rf"batch_size={value} must be a whole number, 1 or more, or null"):
        check_counts({"threads": None, "batch_size": value}, "threads", "batch_size")


def test_settings_of_the_data(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"data\.num_workers=-1 must be 0"):
        Digits(num_workers=-1)
    with pytest.raises(UserError, match=r"data\.channels=2: files are read as 1, grey, or as 3, RGB"):
        ImageFolder(tmp_path, channels=2)
    with pytest.raises(UserError, match=r"images have 1 channels, but data\.channels=2"):
        Preprocess(2)(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))


def test_an_optimizer_without_its_rate_is_told() -> None:
    with pytest.raises(UserError, match=r"^optimizer: .*; it was given lr=null$"):
        make_optimizer(nn.Linear(2, 2), partial(torch.optim.Adam, lr=None), None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the model has no parameters with gradient$"):
        make_optimizer(nn.ReLU(), partial(torch.optim.Adam, lr=0.1), None)
