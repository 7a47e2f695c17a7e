"""Resuming: the same bits as a run that was never stopped, wherever it was stopped."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from exact import WORDS, kill, result

from lightbed.cli import main
from lightbed.runs.history import read_history

EVERY = "callbacks.checkpoint.every_n_steps"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of a run that is never stopped, by its overrides."""

    @cache
    def run(words: tuple[str, ...]) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("whole") / "run"
        assert main(["train", *WORDS, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}", *words]) == 0
        return result(folder)

    return run


def stopped(folder: Path, *words: str, code: int = 1) -> Path:
    """A run that ends early."""
    assert main(["train", *WORDS, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}", *words]) == code
    return folder


def resume(folder: Path, *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["train", f"resume={folder}", "trust=true", *words]) == code
    return result(folder)


CONFIGURATIONS = {
    "plain": (),
    "batched augmentation": ("augment=flip_crop",),
    "augmentation of each sample": ("augment=torchvision_v2",),
    "accumulation": ("trainer.accumulate_grad_batches=3",),
    "cosine": ("scheduler=cosine",),
    "one cycle": ("scheduler=onecycle",),
    "plateau": ("scheduler=plateau", "scheduler.build.patience=0", "scheduler.build.threshold=1"),
    "early stopping": ("callbacks=early_stopping", "callbacks.pictures=null", "callbacks.curves=null",
                       "callbacks.layers=null", "callbacks.early_stopping.patience=1",
                       "callbacks.early_stopping.min_delta=1", "trainer.max_epochs=6"),
    "bfloat16": ("trainer.precision=bf16-mixed",),
    "moving average": ("+callbacks.ema={_target_:lightbed.callbacks.ema.Ema}",),
    "unfreezing": ("+callbacks.unfreezing={_target_:lightbed.callbacks.unfreezing.Unfreezing,parts:{trunk:1}}",),
    "a frozen part": ("+task.rates={trunk:0}",),
    "further metrics": ("+task.metrics={auroc:{_target_:torchmetrics.classification.MulticlassAUROC,num_classes:10},"
                        "kappa:{_target_:torchmetrics.classification.MulticlassCohenKappa,num_classes:10},"
                        "top2:{_target_:torchmetrics.classification.MulticlassAccuracy,num_classes:10,top_k:2}}",),
    "validation every second epoch": ("trainer.check_val_every_n_epoch=2",),
    "validation twice an epoch": ("+trainer.val_check_interval=4",),
}  # fmt: skip


@pytest.mark.parametrize("words", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, whole: Any, words: tuple[str, ...]
) -> None:
    folder = stopped(tmp_path / "run", *words, f"{EVERY}=2", kill("batch", 14))
    assert resume(folder) == whole(words)
