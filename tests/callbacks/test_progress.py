"""The bar and the line of an epoch."""

import io
import sys
from functools import partial
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from rich.console import Console

from lightbed.callbacks.progress import Progress
from lightbed.cli import main
from lightbed.data.digits import Digits
from lightbed.models.dnn import DNN
from lightbed.tasks import Classifier

ROW = {
    "epoch": 2, "step": 63, "seconds": 0.24, "lr": 0.001, "train/accuracy": 0.9977, "train/loss": 0.0709,
    "val/accuracy": 0.9931, "val/f1": 0.9, "val/loss": 0.0788,
}  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "best", "expected"),
    [
        (
            15,
            False,
            "epoch  3/15  train/loss 0.0709  train/accuracy 0.9977  val/loss 0.0788  val/accuracy 0.9931  0.2 s",
        ),
        (
            9,
            True,
            "epoch 3/9  train/loss 0.0709  train/accuracy 0.9977  val/loss 0.0788  val/accuracy 0.9931  0.2 s  best",
        ),
        (-1, False, "epoch 3  train/loss 0.0709  train/accuracy 0.9977  val/loss 0.0788  val/accuracy 0.9931  0.2 s"),
    ],
)
def test_line_of_an_epoch(epochs: int, best: bool, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Progress().epoch_line(ROW, epochs, best=best)
    assert capsys.readouterr().out == expected + "\n"


@pytest.mark.parametrize(("seconds", "text"), [(5.94, "5.9 s"), (5.96, "0.10 min"), (81.0, "1.35 min")])
def test_longer_epochs_are_told_in_minutes(seconds: float, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Progress().epoch_line({**ROW, "seconds": seconds}, 15, best=False)
    assert capsys.readouterr().out.endswith(f"val/accuracy 0.9931  {text}\n")


def drawn(every_seconds: float, *, terminal: bool, **data_options: float) -> str:
    """What the bar writes in a fit of one epoch."""
    data = Digits(channels=1, image_size=[8, 8], batch_size=16, **data_options)
    task = Classifier(DNN(64, 10, [8]), 10, optimizer=partial(torch.optim.Adam), preprocess=data.preprocess)
    bar = Progress(every_seconds)
    output = io.StringIO()
    bar.console = Console(file=output, force_terminal=terminal, width=80)
    bar.enabled = every_seconds > 0 and bar.console.is_terminal
    trainer = L.Trainer(
        max_epochs=1, callbacks=[bar], logger=False, accelerator="cpu", enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return output.getvalue()


def test_bar_shows_stage_count_and_loss_on_a_terminal() -> None:
    text = drawn(1e-9, terminal=True)
    assert "epoch 1/1" in text
    assert "81/81" in text
    assert "loss 2." in text
    assert "validation" in text
    assert text.endswith("\x1b[2K"), "the bar takes itself away"


@pytest.mark.filterwarnings("ignore:.*Total length of `list` across ranks is zero.*")
def test_bar_ends_with_the_fit_where_nothing_follows_it() -> None:
    before = sys.stdout
    assert drawn(1e-9, terminal=True, val_fraction=0).endswith("\x1b[2K")
    assert sys.stdout is before, "a bar that lives on would swallow what is printed"


def test_no_bar_where_there_is_no_terminal_or_where_it_is_off() -> None:
    assert drawn(1e-9, terminal=False) == ""
    assert drawn(0, terminal=True) == ""
    assert drawn(60, terminal=True) == "", "a stage that is over before the bar is due has none"


def test_a_run_says_one_line_an_epoch_and_nothing_of_lightning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["trainer.max_epochs=2", "model.channels=[4]", "trainer.accelerator=cpu", "callbacks.pictures=null"]
    assert main(["train", *words, f"hydra.run.dir={tmp_path / 'run'}", f"paths.outputs={tmp_path}"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    for chatter in ("GPU available", "Tip", "Trainer.fit", "srun", "LeafSpec", "Restored", "LOCAL_RANK", "warn"):
        assert chatter not in shown.out
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("epoch 1/2") == 1
    assert "site-packages" not in log, "warnings about what is meant to be so"
    assert all(line.strip() in log for line in lines if line.strip())
