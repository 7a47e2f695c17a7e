"""curves.png, however the fit ends."""

from pathlib import Path

import lightning.pytorch as L
import pytest
from lightning.pytorch import Callback
from PIL import Image

from lightbed.cli import main
from lightbed.runs.history import read_history

TINY = ["model.channels=[4]", "trainer.accelerator=cpu", "callbacks.pictures=null", "callbacks.layers=null"]


class Break(Callback):
    """Ends the fit in an epoch, as a user or a fault does."""

    def __init__(self, epoch: int, kind: str) -> None:
        self.epoch, self.kind = epoch, kind

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt if self.kind == "interrupt" else ZeroDivisionError("a fault")


def run(folder: Path, *words: str) -> int:
    return main(["train", *TINY, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}", *words])


def test_a_run_has_its_curves(tmp_path: Path) -> None:
    assert run(tmp_path / "run", "trainer.max_epochs=1") == 0
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.size == (1590, 675)


@pytest.mark.parametrize(("kind", "code"), [("interrupt", 130), ("fault", 1)])
def test_an_unfinished_run_has_the_curves_of_its_epochs(tmp_path: Path, kind: str, code: int) -> None:
    words = [f"+callbacks.break={{_target_: {__name__}.Break, epoch: 2, kind: {kind}}}", "trainer.max_epochs=5"]
    assert run(tmp_path / "run", *words) == code
    assert len(read_history(tmp_path / "run" / "metrics.csv")) == 2
    assert (tmp_path / "run" / "curves.png").is_file()


def test_nothing_to_draw_is_no_fault(tmp_path: Path) -> None:
    assert run(tmp_path / "zero", "trainer.max_epochs=0") == 0
    words = [f"+callbacks.break={{_target_: {__name__}.Break, epoch: 0, kind: fault}}"]
    assert run(tmp_path / "first", *words) == 1
    assert not list(tmp_path.rglob("curves.png"))
