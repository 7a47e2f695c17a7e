"""Checkpoint files: whole or the former one, whatever happens; and which epoch's they are."""

import json
import math
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightbed.callbacks.checkpoint import Checkpoints
from lightbed.errors import UserError
from lightbed.runs import checkpoint
from lightbed.runs.checkpoint import AtomicCheckpointIO, read_checkpoint
from lightbed.runs.history import read_history
from lightbed.runs.load import load_run

BEST = Path("checkpoints") / "best.ckpt"


def test_a_kill_in_the_middle_leaves_the_former_one_whole(tmp_path: Path) -> None:
    """Six writers are killed with SIGKILL at moments spread over a write; each time the file must load."""
    script = """
import os, signal, sys, time
from pathlib import Path
import torch
from lightbed.runs.checkpoint import AtomicCheckpointIO
torch.set_num_threads(1)
path, writer = Path(sys.argv[1]) / "last.ckpt", AtomicCheckpointIO()
content = {"weights": torch.zeros(500_000), "number": 0}
writer.save_checkpoint(content, path)
writer.teardown()
seen = set()
for kill in range(6):
    child = os.fork()
    if not child:
        number = kill * 1000
        while True:
            number += 1
            writer.save_checkpoint({"weights": torch.full((500_000,), float(number)), "number": number}, path)
    while torch.load(path, weights_only=True)["number"] <= kill * 1000:  # it has written one
        time.sleep(0.001)
    time.sleep(kill * 0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = torch.load(path, weights_only=True)
    assert (found["weights"] == found["number"]).all(), "a mixture of two checkpoints"
    seen.add(found["number"])
print(len(seen), len(list(path.parent.iterdir())))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written, files = map(int, done.stdout.split())
    assert written == 6, "the kills must have hit different checkpoints"
    assert files <= 2, "the checkpoint, and at most one unfinished file, which the next write takes over"


def test_a_full_disk_is_said_in_one_line_and_keeps_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"number": 1}, path)
    writer.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        writer.save_checkpoint({"weights": torch.zeros(1_000_000), "number": 2}, path)
        with pytest.raises(OSError, match=r"cannot write .*last\.ckpt.*the former checkpoint is whole") as caught:
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert torch.load(path, weights_only=True) == {"number": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"], "the unfinished file is gone"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small file system")
def test_no_space_left_on_the_device(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        writer = AtomicCheckpointIO()
        writer.save_checkpoint({"number": 1}, small / "last.ckpt")
        writer.wait()
        writer.save_checkpoint({"weights": torch.zeros(1_000_000)}, small / "last.ckpt")
        with pytest.raises(OSError, match="No space left on device") as caught:
            writer.wait()
        assert "\n" not in str(caught.value)
        assert torch.load(small / "last.ckpt", weights_only=True) == {"number": 1}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_checkpoint_is_as_it_was_when_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is slow, weights go on changing, and the files are written in their order."""
    written = []

    def slow(content: Any, target: Path) -> None:
        go_on.wait()
        written.append(target.name)
        write(content, target)

    write, go_on = checkpoint._write, threading.Event()
    monkeypatch.setattr(checkpoint, "_write", slow)
    writer, weights = AtomicCheckpointIO(), torch.zeros(3)
    for name in ("best", "last"):
        writer.save_checkpoint({"weights": weights}, tmp_path / name)
        weights += 1
    writer.wait(0.01)
    assert not written, "nobody waited for the disk"
    go_on.set()
    assert writer.load_checkpoint(tmp_path / "last", weights_only=True)["weights"].tolist() == [1, 1, 1]
    assert torch.load(tmp_path / "best", weights_only=True)["weights"].tolist() == [0, 0, 0]
    assert written == ["best", "last"]
    writer.teardown()


def test_large_checkpoints_are_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_HELD", 1_000)
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"nested": [{"weights": torch.zeros(500)}]}, tmp_path / "large")
    assert (tmp_path / "large").is_file()
    assert not writer.pending


def test_a_fault_of_the_disk_is_told_once_and_at_the_latest_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({}, tmp_path / "file" / "last.ckpt")  # no folder
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt .File exists."):
        writer.teardown()
    writer.teardown()


def test_the_card_is_plain_values(digits_run: Path) -> None:
    card = torch.load(digits_run / BEST, weights_only=True)["lightbed"]
    assert card["format"] == 1
    assert {"classes", "preprocess", "config_json", "seed", "threads", "versions"} <= card.keys()
    assert json.loads(card["config_json"])["model"]["num_classes"] == 10
    json.dumps(card)  # nothing but plain values


def edited(run: Path, target: Path, **card: Any) -> Path:
    content = torch.load(run / BEST, weights_only=True)
    content["lightbed"] |= card
    torch.save(content, target)
    return target


def wrong(tmp_path: Path, run: Path, kind: str) -> Path:
    file = tmp_path / "x.ckpt"
    config = json.loads(torch.load(run / BEST, weights_only=True)["lightbed"]["config_json"])
    match kind:
        case "truncated":
            file.write_bytes((run / BEST).read_bytes()[:20_000])
        case "empty":
            file.touch()
        case "plain weights":
            torch.save(torch.nn.Linear(2, 2).state_dict(), file)
        case "whole module":
            torch.save(torch.nn.Linear(2, 2), file)
        case "newer":
            edited(run, file, format=99)
        case "no format":
            edited(run, file, format=None)
        case "no classes":
            edited(run, file, classes=[])
        case "other task":
            edited(run, file, task="segmenter")
        case "no config":
            edited(run, file, config_json="{")
        case "half a config":
            edited(run, file, config_json=json.dumps({"model": config["model"], "task": config["task"]}))
        case "no list of names":
            edited(run, file, classes={"a": 1})
        case "names that are none":
            edited(run, file, classes=[["a"]] * 10)
        case "no weights":
            torch.save({**torch.load(run / BEST, weights_only=True), "state_dict": 5}, file)
        case "a part that is none":
            edited(run, file, config_json=json.dumps({**config, "trainer": 5}))
        case "a value of another kind":
            edited(run, file, config_json=json.dumps({**config, "threads": "two"}))
        case "half a part":
            edited(run, file, config_json=json.dumps({**config, "data": {}}))
        case "preprocessing by words":
            edited(run, file, preprocess={"channels": 1, "mean": "warm"})
        case "fewer names":
            edited(run, file, classes=list("0123456"))
        case "other preprocessing":
            edited(run, file, preprocess={"colours": "warm"})
        case "other classes":
            config["model"]["num_classes"] = 7
            edited(run, file, config_json=json.dumps(config), classes=list("abcdefg"))
        case "other layers":
            config["model"]["channels"] = [8]
            edited(run, file, config_json=json.dumps(config))
    return file


@pytest.mark.parametrize(
    ("kind", "said"),
    {
        "truncated": "truncated, damaged or unsafe",
        "empty": "cannot be read",
        "plain weights": "no checkpoint of a Lightbed run",
        "whole module": r"cannot be read as a checkpoint.*\(Unsupported global: GLOBAL torch\.nn",
        "newer": "format 99.*up to 1",
        "no format": "format None",
        "no classes": "lacks classes",
        "other task": "is of a segmenter, but its own config builds a classifier",
        "no config": "its config cannot be read",
        "half a config": "its config lacks data, trainer, paths, threads",
        "other preprocessing": "preprocessing what this Lightbed does not know",
        "no list of names": "its classes are no list of names",
        "names that are none": "its classes are no list of names",
        "no weights": "is incomplete: it lacks its weights",
        "a part that is none": "its config has trainer=5",
        "a value of another kind": "its config has threads=two",
        "half a part": r"its config lacks data\.batch_size",
        "preprocessing by words": "preprocessing what this Lightbed does not know",
        "fewer names": "names 7 classes, but the model of its own config has 10",
        "other classes": r"do not fit.*\[10, 16\]",
        "other layers": "do not fit",
        "missing": "does not exist",
    }.items(),
)
def test_a_wrong_file_is_told_in_one_line(digits_run: Path, tmp_path: Path, kind: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_run(wrong(tmp_path, digits_run, kind))
    assert "\n" not in str(caught.value)
    assert "x.ckpt" in str(caught.value)


def test_reading_takes_no_folder_for_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_the_best_checkpoint_is_that_of_the_best_epoch_in_the_table(digits_run: Path) -> None:
    rows = read_history(digits_run / "metrics.csv")
    best = max(rows, key=lambda row: row["val/accuracy"])
    assert torch.load(digits_run / BEST, weights_only=True)["epoch"] == best["epoch"]
    assert torch.load(digits_run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == rows[-1]["epoch"]


class Scripted(L.LightningModule):
    """Logs given validation values, one an epoch; its one weight counts the steps."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values, self.weight = values, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight * -1.0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", torch.tensor(self.values[self.current_epoch]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1.0)


def fit(folder: Path, values: list[float], **options: Any) -> dict[str, float | None]:
    """Train an epoch a value; returns the number of epochs that each checkpoint had seen."""
    data = DataLoader(TensorDataset(torch.zeros(1, 1)))
    saved = Checkpoints("val/score", **{"mode": "max", **options})
    trainer = L.Trainer(
        max_epochs=len(values), default_root_dir=folder, callbacks=[saved], plugins=[AtomicCheckpointIO()],
        logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Scripted(values), data, data)
    files = {name: folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    found = {name: torch.load(file, weights_only=True) if file.is_file() else None for name, file in files.items()}
    return {name: content and float(content["state_dict"]["weight"]) for name, content in found.items()}


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([0.1, 0.5, 0.3], "max", 2),
        ([0.1, 0.5, 0.3], "min", 1),
        ([0.2, 0.5, 0.5], "max", 2),  # of equals, the first
        ([0.4, 0.4, 0.4], "min", 1),
        ([NAN, 0.2, NAN], "max", 2),  # NaN is never the best
        ([NAN, 0.2, NAN], "min", 2),
        ([NAN, NAN], "max", None),
        ([0.3, math.inf], "min", 1),
    ],
)
def test_best_is_the_first_epoch_with_the_best_number(
    tmp_path: Path, values: list[float], mode: str, best: float | None
) -> None:
    assert fit(tmp_path, values, mode=mode) == {"best": best, "last": len(values)}


def test_the_last_epoch_is_always_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit(tmp_path, [0.5, 0.4, 0.3, 0.2, 0.1], every_n_epochs=3) == {"best": 1, "last": 5}
    with pytest.raises(UserError, match="every_n_epochs=0"):
        Checkpoints("val/score", "max", every_n_epochs=0)


def test_a_misspelt_monitor_is_told_with_the_names_there_are(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.zeros(1, 1)))
    saved = Checkpoints("val/scroe", "max")
    trainer = L.Trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[saved], logger=False, accelerator="cpu",
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    with pytest.raises(UserError, match=r"val/scroe is not logged; there is val/score"):
        trainer.fit(Scripted([0.1]), data, data)
