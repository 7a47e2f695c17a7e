"""What goes wrong while a run goes on: losses that are no numbers, memory that does not suffice, full disks."""

import json
import math
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from exact import kill
from lightbed.cli import main
from lightbed.data.base import DataModule
from lightbed.runs import memory
from lightbed.runs.history import read_history

QUICK = ["trainer.accelerator=cpu", "callbacks.pictures=null", "callbacks.curves=null", "logger=csv", "test=none"]
DIGITS = ["data.batch_size=128", *QUICK]  # 1294 training images: 11 batches an epoch, the last of 14
BATCHES = 11


class Net(nn.Module):
    """A linear network with batch norm and dropout, which can be told to misbehave."""

    bad: ClassVar[set[int]] = set()  # training batches, counted from 0 over the whole run, whose output is NaN
    room: ClassVar[dict[str, float]] = {}  # images that fit into memory, by stage
    full: ClassVar[int] = 0  # training batches before which there is room for all
    seen: ClassVar[list[int]] = []  # sizes of all training batches

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        layers = [nn.Flatten(), nn.BatchNorm1d(in_features), nn.Dropout(0.2), nn.Linear(in_features, num_classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        stage = "train" if self.training else "eval"
        number = len(self.seen)
        if self.training:
            self.seen.append(len(images))
        if number >= self.full and len(images) > self.room.get(stage, math.inf):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total of 1 GiB.")
        broken = self.training and number in self.bad
        return self.layers(images * math.nan if broken else images)


@pytest.fixture(autouse=True)
def _good(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (("bad", set()), ("room", {}), ("full", 0), ("seen", [])):
        monkeypatch.setattr(Net, name, value)
    return


def train(folder: Path, *words: str, code: int = 0) -> Path:
    Net.seen.clear()
    model = ["model=custom", f"model._target_={__name__}.Net"]
    places = [f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}"]
    assert main(["train", *model, *DIGITS, "trainer.max_epochs=3", *places, *words]) == code
    return folder


def failed(folder: Path, capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    train(folder, *words, code=1)
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1, message
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"] == message.removeprefix("lightbed: ")
    return message


def weights(folder: Path, name: str = "last") -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# -- losses that are no numbers ----------------------------------------------------------------------------------------


def test_a_loss_that_is_nan_stops_the_run_at_its_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Net.bad.add(BATCHES + 4)
    message = failed(tmp_path / "run", capfd)
    assert "loss is nan in batch 5 of epoch 2, step 16;" in message
    assert "trainer.nan=skip" in message
    assert len(Net.seen) == BATCHES + 5, "it stopped at once"
    found = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)
    assert (found["epoch"], found["step"]) == (1, BATCHES + 4)
    assert math.isnan(found["losses"]["loss"])
    assert found["images"].shape == (128, 1, 8, 8)
    assert len(found["target"]["index"]) == 128
    assert all(value.isfinite().all() for name, value in found["state_dict"].items() if name.endswith("3.weight"))
    assert [row["epoch"] for row in read_history(tmp_path / "run" / "metrics.csv")] == [0]
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values()), "the former checkpoint is whole"


def test_skipped_batches_leave_no_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Weights, statistics of batch norm and metrics are as if the batch had not been there."""
    Net.bad |= {3, 5, BATCHES - 1}
    run = train(tmp_path / "run", "trainer.nan=skip")
    said = [line for line in capfd.readouterr().out.splitlines() if "left out" in line]
    assert len(said) == 3
    assert said[0] == f"left out, for its loss is nan: batch 4 of epoch 1, step 4; see {run / 'not_finite.pt'}"
    assert all(value.isfinite().all() for value in weights(run).values())
    rows = read_history(run / "metrics.csv")
    assert len(rows) == 3
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[-1]["step"] == 3 * BATCHES


def test_skipping_without_end_ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Net.bad |= set(range(4, 100))
    message = failed(tmp_path / "run", capfd, "trainer.nan=skip")
    assert "in batch 3 of epoch 2, step 14 for the 10th batch one after another" in message


def test_the_count_of_skipped_batches_survives_a_resume(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Four before the kill and six after it are ten."""
    Net.bad |= set(range(4, 100))
    run = train(tmp_path / "run", "trainer.nan=skip", "callbacks.checkpoint.every_n_steps=1", kill("batch", 8), code=1)
    first = (run / "not_finite.pt").read_bytes()
    capfd.readouterr()
    assert main(["train", f"resume={run}", "trust=true"]) == 1
    assert "in batch 3 of epoch 2, step 14 for the 10th batch one after another" in capfd.readouterr().err
    assert (run / "not_finite.pt").read_bytes() == first, "the first of the run stays"


def test_accumulated_gradients_survive_a_skipped_batch(tmp_path: Path) -> None:
    Net.bad |= {1, 3}
    run = train(tmp_path / "run", "trainer.nan=skip", "trainer.accumulate_grad_batches=2")
    assert all(value.isfinite().all() for value in weights(run).values())
    assert read_history(run / "metrics.csv")[-1]["step"] == 3 * 6


def test_a_validation_loss_that_is_nan_is_told_once_and_stops_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def undefined(self: Net, images: Tensor) -> Tensor:
        return self.layers(images) * (1.0 if self.training else math.nan)

    monkeypatch.setattr(Net, "forward", undefined)
    run = train(tmp_path / "run", "callbacks.layers=null", "task.monitor=val/loss")
    said = [line for line in capfd.readouterr().out.splitlines() if "val/loss is nan" in line]
    assert len(said) == 1
    assert "val/loss is nan after epoch 1, where the training losses are finite: the run goes on" in said[0]
    assert len(read_history(run / "metrics.csv")) == 3
    assert not (run / "checkpoints" / "best.ckpt").exists()


def test_what_to_do_is_stop_or_skip(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", "trainer.nan=ignore", code=2)
    assert "trainer.nan=ignore is not known" in capfd.readouterr().err


def test_a_batch_norm_of_one_value_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["model=dnn", "data.limit=17", "data.batch_size=16", "callbacks.layers=null", *QUICK]
    assert main(["train", *words, f"hydra.run.dir={tmp_path / 'run'}", f"paths.outputs={tmp_path}"]) == 2
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert "where an epoch's last batch of data.batch_size=16 has one image, set data.drop_last=true" in message


# -- operations without a deterministic kernel -------------------------------------------------------------------------


def put(self: Net, images: Tensor) -> Tensor:
    """An operation that torch knows no deterministic form of on any device, and that changes nothing here."""
    images = images.contiguous()
    return self.layers(images.put_(torch.tensor([0], device=images.device), images.flatten()[:1].clone()))


def test_an_operation_without_a_deterministic_kernel_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Net, "forward", put)
    message = failed(tmp_path / "run", capfd, "callbacks.layers=null")
    assert "put_ has no deterministic kernel on this device: trainer.deterministic=warn goes on, but" in message


@pytest.mark.filterwarnings("default:put_ does not have a deterministic implementation")
def test_a_run_that_goes_on_with_such_an_operation_says_once_what_it_promises(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Net, "forward", put)
    train(tmp_path / "run", "trainer.deterministic=warn", "callbacks.layers=null", "trainer.max_epochs=1")
    said = [line for line in capfd.readouterr().out.splitlines() if "put_" in line]
    assert said == ["put_ has no deterministic kernel on this device: a rerun or resume may differ in the last bits"]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_out_of_memory_says_the_batch_size_and_what_to_try(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Net.room, Net.full = {"train": 100}, 5
    message = failed(tmp_path / "run", capfd)
    assert "out of memory in step 6 of epoch 1 with data.batch_size=128 images of 1x8x8 (CUDA out of memory." in message
    assert "try a smaller data.batch_size" in message
    assert "trainer.batch_size_on_oom=halve" in message
    Net.room = {"eval": 100}
    assert "out of memory in the val stage with data.eval_batch_size=256" in failed(tmp_path / "val", capfd)


def test_the_cpu_has_no_class_for_it(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def greedy(self: Net, images: Tensor) -> Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr(Net, "forward", greedy)
    assert "out of memory in step 1 of epoch 1 with data.batch_size=128" in failed(
        tmp_path / "run", capfd, "callbacks.layers=null"
    )


def test_images_that_differ_in_size_are_said_to() -> None:
    trainer: Any = SimpleNamespace(callbacks=[memory.Place()], world_size=1)
    with (
        pytest.raises(memory.OutOfMemoryError, match=r"data\.batch_size=4 images of their own sizes \(MemoryError\)"),
        memory.told(trainer, DataModule(batch_size=4)),
    ):
        raise MemoryError


def test_another_error_stays_what_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def wrong(self: Net, images: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Net, "forward", wrong)
    train(tmp_path / "run", "callbacks.layers=null", code=1)
    assert "train failed: RuntimeError: shapes differ" in capfd.readouterr().err


def test_half_the_batch_and_twice_the_accumulation_from_the_first_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the first epoch, the run becomes the one that was asked for smaller batches from the start, to the bit."""
    Net.room, Net.full = {"train": 40}, 3
    run = train(tmp_path / "run", "trainer.batch_size_on_oom=halve")
    said = capfd.readouterr().out
    assert "epoch 1 begins again with batch_size 128 -> 64, accumulate_grad_batches 1 -> 2" in said
    assert "epoch 1 begins again with batch_size 64 -> 32, accumulate_grad_batches 2 -> 4" in said
    first, second = json.loads((run / "run.json").read_text())["out_of_memory"]
    assert first["before"] == {"batch_size": 128, "eval_batch_size": 256, "accumulate_grad_batches": 1}
    assert second["after"] == {"batch_size": 32, "eval_batch_size": 256, "accumulate_grad_batches": 4}
    assert (first["stage"], first["epoch"], first["step"]) == ("train", 0, 3)
    Net.room = {}
    small = train(tmp_path / "small", "data.batch_size=32", "trainer.accumulate_grad_batches=4")
    assert same(run, small)
    old, new = (read_history(folder / "metrics.csv") for folder in (run, small))
    assert [{**row, "seconds": 0} for row in old] == [{**row, "seconds": 0} for row in new]
    assert not (run / "checkpoints" / "epoch.ckpt").exists()


def test_a_later_epoch_begins_again_where_it_began(tmp_path: Path) -> None:
    """The epochs before it stay as they were, and what follows is the same as if it had been so from that epoch on."""
    large = train(tmp_path / "large")
    runs = []
    for name, full in (("early", BATCHES + 1), ("late", 2 * BATCHES - 2)):
        Net.room, Net.full = {"train": 100}, full
        runs.append(train(tmp_path / name, "trainer.batch_size_on_oom=halve", "callbacks.checkpoint.every_n_steps=3"))
        assert Net.seen[:BATCHES] == [128] * 10 + [14]
        assert Net.seen[full : full + 1] == [128]
        assert Net.seen[full + 1 :] == ([64] * 20 + [14]) * 2
    early, late = (read_history(run / "metrics.csv") for run in runs)
    assert {**early[0], "seconds": 0} == {**read_history(large / "metrics.csv")[0], "seconds": 0}
    assert [row["step"] for row in early] == [11, 22, 33], "as many steps of the optimizer as before"
    assert same(*runs), "when in the epoch it happened makes no difference"
    assert [{**row, "seconds": 0} for row in early] == [{**row, "seconds": 0} for row in late]


def test_a_validation_that_does_not_fit_is_halved_too(tmp_path: Path) -> None:
    Net.room = {"eval": 80}
    run = train(tmp_path / "run", "trainer.batch_size_on_oom=halve")
    (only,) = json.loads((run / "run.json").read_text())["out_of_memory"][-1:]
    assert only["after"] == {"batch_size": 128, "eval_batch_size": 64, "accumulate_grad_batches": 1}
    assert len(read_history(run / "metrics.csv")) == 3


def test_a_single_image_that_does_not_fit_ends_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Net.room = {"train": 0}
    message = failed(tmp_path / "run", capfd, "trainer.batch_size_on_oom=halve", "data.batch_size=4")
    assert "with data.batch_size=1 images" in message


# -- disks that are full -----------------------------------------------------------------------------------------------


class Fill(Callback):
    """Lets no file grow beyond `room` bytes from the second epoch on, or fills the run's own file system up to them."""

    def __init__(self, room: int, whole: bool = False) -> None:
        self.room, self.whole = room, whole

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch != 1:
            return
        if not self.whole:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return
        folder = Path(trainer.default_root_dir)
        (folder / "filler").write_bytes(b"." * (shutil.disk_usage(folder).free - self.room))


def filled(folder: Path, capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a run on a full disk ends with; what it had written before is whole."""
    capfd.readouterr()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        train(folder, *words, f"+callbacks.fill._target_={__name__}.Fill", code=1)
    finally:  # at once: pytest's own output may go to a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1, message
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["epoch"] == 0
    assert [row["epoch"] for row in read_history(folder / "metrics.csv")][:1] == [0]
    assert not list((folder / "checkpoints").glob(".*")), "no unfinished file is left"
    return message


@pytest.mark.parametrize(
    ("room", "named", "logger"),
    [
        (8_000, "last.ckpt|best.ckpt", "csv"),
        (500, "metrics.csv|log.txt|standard output", "csv"),
        (500, "run|standard output", "tensorboard"),
    ],
)
def test_a_disk_that_fills_up_ends_the_run_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], room: int, named: str, logger: str
) -> None:
    """Whether the checkpoint, the table or the log is the first that finds no room."""
    message = filled(tmp_path / "run", capfd, f"+callbacks.fill.room={room}", f"logger={logger}")
    assert re.search(rf"cannot write .*({named}).*[: (]+File too large", message), message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("room", [0, 12_000])
def test_no_space_left_in_the_run_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str], room: int) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        message = filled(small / "run", capfd, f"+callbacks.fill.room={room}", "+callbacks.fill.whole=true")
        assert "cannot write" in message
        assert "No space left on device" in message
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
