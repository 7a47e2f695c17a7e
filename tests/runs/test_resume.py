"""Resuming: the same bits as a run that was never stopped, wherever it was stopped."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from exact import WORDS, kill, result
from lightbed.cli import main
from lightbed.runs.history import read_history, write_history
from lightbed.runs.provenance import code_digest

EVERY = "callbacks.checkpoint.every_n_steps"
MOVING = ("augment=flip_crop", "scheduler=cosine")


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
    "further metrics": ("+task.metrics={"
                        "error:{_target_:torchmetrics.classification.MulticlassCalibrationError,num_classes:10},"
                        "kappa:{_target_:torchmetrics.classification.MulticlassCohenKappa,num_classes:10},"
                        "top2:{_target_:torchmetrics.classification.MulticlassAccuracy,num_classes:10,top_k:2}}",),
    "a metric that remembers": ("+task.metrics={range:{_target_:torchmetrics.wrappers.MinMaxMetric,base_metric:"
                                "{_target_:torchmetrics.classification.MulticlassAccuracy,num_classes:10}}}",),
    "validation every second epoch": ("trainer.check_val_every_n_epoch=2",),
    "validation twice an epoch": ("+trainer.val_check_interval=4",),
}  # fmt: skip


@pytest.mark.parametrize("words", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, whole: Any, words: tuple[str, ...]
) -> None:
    folder = stopped(tmp_path / "run", *words, f"{EVERY}=2", kill("batch", 14))
    assert resume(folder) == whole(words)


# Validated after five of an epoch's eight steps, or after each twelve
UNDERWAY = {
    "in an epoch": ("+trainer.val_check_interval=5", "scheduler=plateau", "scheduler.build.patience=0",
                    "scheduler.build.threshold=1"),
    "across epochs": ("+trainer.val_check_interval=12", "trainer.check_val_every_n_epoch=null"),
}  # fmt: skip


@pytest.mark.parametrize("words", UNDERWAY.values(), ids=UNDERWAY)
def test_what_a_validation_within_the_epoch_found_is_not_lost(
    tmp_path: Path, whole: Any, words: tuple[str, ...]
) -> None:
    """Its figures, which belong to the row of the epoch, and whether a schedule or the best checkpoint is due."""
    folder = stopped(tmp_path / "run", *words, f"{EVERY}=2", kill("batch", 15))
    assert resume(folder) == whole(words)


# Tiny networks on drawn scenes: two epochs of three steps
SCENES = (
    *("data=digit_scenes", "data.images={train:6,val:4,test:2}", "data.batch_size=2", "data.eval_batch_size=2"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "threads=1", "logger.tensorboard=false", "optimizer.lr=0.01"),
    *("callbacks.pictures=null", "callbacks.curves=null", "callbacks.layers=null", "scheduler=cosine"),
)
REGIONS = (
    *("model.backbone=mobilenet_v3_small", "model.pyramid_channels=32", "model.levels=[1,2]"),
    *("model.anchor_sizes=[[12],[24],[48]]", "model.representation_size=16", "model.box_batch_size_per_image=8"),
    *("model.box_detections_per_img=10", "model.rpn_post_nms_top_n_test=20"),
)
UNFREEZING = "+callbacks.unfreezing={_target_:lightbed.callbacks.unfreezing.Unfreezing,parts:{roi_heads:2}}"
PROPOSALS = (
    *("model.classifier.channels=[4,8]", "model.crop_size=12", "model.context=1", "model.box_grid=2"),
    *("model.box_batch_size_per_image=8", "model.proposals.width=48", "model.proposals.most=20"),
)
TASKS = {
    "segmentation": ("model=unet", "model.channels=[4,8]", "model.dropout=0.3", "augment=scenes"),
    "detection, a worker": ("model=faster_rcnn", *REGIONS, "augment=detection", "data.num_workers=1"),
    "detection, frozen parts": ("model=faster_rcnn", *REGIONS, "+task.rates={rpn:0}", UNFREEZING),
    "SVMs after each epoch": ("model=rcnn", *PROPOSALS),
    "instance masks, averaged": ("model=mask_rcnn", *REGIONS, "model.mask_layers=[8]", "model.mask_dim_reduced=8",
                                 "augment=detection", "+callbacks.ema={_target_:lightbed.callbacks.ema.Ema}"),
}  # fmt: skip


@pytest.mark.parametrize("words", TASKS.values(), ids=TASKS)
def test_other_tasks_end_with_the_same_bits(tmp_path: Path, words: tuple[str, ...]) -> None:
    def train(folder: Path, *more: str) -> int:
        places = (f"hydra.run.dir={folder}", f"paths.outputs={tmp_path}")
        return main(["train", *SCENES, *words, *places, *more])

    assert train(tmp_path / "whole") == 0
    assert train(tmp_path / "run", f"{EVERY}=1", kill("batch", 5)) == 1
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert resume(tmp_path / "run") == result(tmp_path / "whole")


PLACES = {
    "in a validation": (kill("validation", 5), 1),
    "in the first epoch's validation": (kill("validation", 2), 1),
    "between an epoch and its checkpoint": (kill("epoch", 2), 1),
    "after an epoch's checkpoint": (kill("saved", 2), 1),
    "before any checkpoint": (kill("batch", 3), 1),
    "while testing": (kill("test", 1), 1),
    "by SIGTERM in an epoch": (kill("batch", 11, "term"), 143),
    "by SIGTERM in the last batch": (kill("batch", 16, "term"), 143),
    "by SIGTERM in a validation": (kill("validation", 5, "term"), 143),
    "by SIGTERM at the end": (kill("epoch", 3, "term"), 143),
    "by Ctrl-C in an epoch": (kill("batch", 11, "int"), 130),
    "by Ctrl-C in a validation": (kill("validation", 3, "int"), 130),
}


AVERAGED = ("+callbacks.ema={_target_:lightbed.callbacks.ema.Ema}", "trainer.accumulate_grad_batches=2")
STEPS = {"batch 11": 11, "batch 16": 16, "validation 5": 16, "epoch 3": 24, "validation 3": 8}


@pytest.mark.parametrize(("killer", "code"), PLACES.values(), ids=PLACES)
def test_wherever_a_run_is_stopped_it_ends_with_the_same_bits(
    tmp_path: Path, whole: Any, killer: str, code: int
) -> None:
    step = stop_and_resume(tmp_path / "run", whole, killer, code, MOVING)
    if code != 1:  # asked to stop, it loses nothing
        hook, count = re.findall(r"hook:(\w+),count:(\d+)", killer)[0]
        assert step == STEPS[f"{hook} {count}"]


@pytest.mark.parametrize("place", ["in a validation", "by SIGTERM in a validation", "by SIGTERM in an epoch"])
def test_with_averaged_weights_too(tmp_path: Path, whole: Any, place: str) -> None:
    stop_and_resume(tmp_path / "run", whole, *PLACES[place], (*MOVING, *AVERAGED))


def stop_and_resume(folder: Path, whole: Any, killer: str, code: int, words: tuple[str, ...]) -> int:
    """The step that the resumed run, which must end as a whole one, went on from."""
    if code == 143:  # SIGTERM ends the interpreter
        with pytest.raises(SystemExit) as ended:
            stopped(folder, *words, killer)
        assert ended.value.code == code
    else:
        stopped(folder, *words, killer, code=code)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == ("failed" if code == 1 else "interrupted")
    last = folder / "checkpoints" / "last.ckpt"
    step: int = torch.load(last, weights_only=True)["global_step"] if last.is_file() else 0
    assert resume(folder) == whole(words)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done"
    assert [entry["step"] for entry in record["resumed"]] == [step]
    assert "error" not in record
    return step


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path, whole: Any) -> None:
    """Each time at another place, with another number of reading processes."""
    words = (*MOVING, "trainer.accumulate_grad_batches=3")
    folder = stopped(tmp_path / "run", *words, f"{EVERY}=1", kill("batch", 5))
    for number, (hook, count, workers) in enumerate([("batch", 4, 2), ("validation", 1, 0), ("batch", 1, 1)]):
        (folder / "killed").rename(folder / f"killed.{number}")
        config = (folder / "config.yaml").read_text()
        at = f"hook: {hook}\n    count: {count}\n"
        (folder / "config.yaml").write_text(re.sub(r"hook: \w+\n    count: \d+\n", at, config))
        assert main(["train", f"resume={folder}", "trust=true", f"data.num_workers={workers}"]) == 1
    assert resume(folder, "data.num_workers=0") == whole(words)
    record = json.loads((folder / "run.json").read_text())
    steps = [entry["step"] for entry in record["resumed"]]
    assert steps == sorted(steps)
    assert len(steps) == 4


def test_metrics_and_tensorboard_are_one_history(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = stopped(tmp_path / "run", "logger.tensorboard=true", kill("epoch", 2))
    write_row_too_many(folder)
    resume(folder)
    rows = read_history(folder / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 8), (1, 16), (2, 24)]
    events = EventAccumulator(str(folder)).Reload()
    for name in ("train/loss", "val/accuracy"):
        assert [event.step for event in events.Scalars(name)] == [8, 16, 24]
        assert [event.value for event in events.Scalars(name)] == pytest.approx([row[name] for row in rows])


def write_row_too_many(folder: Path) -> None:
    """What a run leaves that is killed after the second epoch's row and before its checkpoint."""
    from lightbed.runs.board import Board

    rows = read_history(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0]
    write_history(folder / "metrics.csv", [*rows, {**rows[0], "epoch": 1, "step": 16, "train/loss": 99.0}])
    board = Board(folder)
    board.log_row({"epoch": 1, "step": 16, "train/loss": 99.0, "val/accuracy": 0.0})
    board.finish("failed")
    for number, file in enumerate(
        sorted(folder.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime_ns)
    ):
        file.rename(folder / f"events.out.tfevents.{number}.earlier")  # they are read by name, which has the second


def test_a_finished_run_has_nothing_to_resume_but_more_epochs(
    tmp_path: Path, whole: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(tmp_path / "run", "trainer.max_epochs=2", code=0)
    before = (folder / "run.json").read_bytes()
    resume(folder)
    assert "is done: nothing is left to do" in capfd.readouterr().out
    assert (folder / "run.json").read_bytes() == before
    assert resume(folder, "trainer.max_epochs=3") == whole(())


def test_an_untrained_network_trains_on(tmp_path: Path, whole: Any) -> None:
    folder = stopped(tmp_path / "run", "trainer.max_epochs=0", code=0)
    assert resume(folder, "trainer.max_epochs=3") == whole(())


def test_steps_alone_may_say_when_a_run_ends(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run", "trainer.max_epochs=null", "+trainer.max_steps=10", code=0)
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 10
    before = last.read_bytes()
    resume(folder)
    assert last.read_bytes() == before
    assert resume(folder, "trainer.max_epochs=3")["rows"][-1]["step"] == 10


def test_what_has_changed_is_said_and_the_run_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path / "run", kill("batch", 9))
    record = json.loads((folder / "run.json").read_text())
    record["versions"]["torch"], record["hardware"]["isa"] = "2.0.0", "ABACUS"
    record["code"] = "of that day"
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "uncommitted.diff").write_text("of that day")
    resume(folder, "threads=2")
    said = [line for line in capfd.readouterr().out.splitlines() if "may differ" in line]
    assert len(said) == 1
    torch_s = f"torch {torch.__version__} (was 2.0.0)"
    for part in (torch_s, "(was ABACUS)", "threads 2 (was 1)", "other code of Lightbed"):
        assert part in said[0]
    entry = json.loads((folder / "run.json").read_text())["resumed"][0]
    assert entry["threads"] == 2
    assert entry["versions"]["torch"] == torch.__version__
    assert entry["code"] == code_digest()
    assert (folder / "uncommitted.diff").read_text() == "of that day"
    assert (folder / "uncommitted_1.diff").is_file()


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second epoch."""
    return stopped(tmp_path_factory.mktemp("half") / "run", "scheduler=cosine", f"{EVERY}=3", kill("batch", 13))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resume={run}", "trust=true", "seed=1"], "seed=1: resume goes on with the run's own configuration"),
        (["resume={run}", "trust=true", "model=cnn"], "model=cnn: resume goes on with"),
        (["resume={run}", "trust=true", "trainer.max_epochs=9"], "scheduler.build.T_max=auto.* laid out for 3 epochs"),
        (["resume={run}"], r"exact\.(Net|Kill) is not trusted; trust=true"),
        (["resume={run}/nowhere"], "does not exist"),
        (["resume="], "names no run"),
        (["resume=2026"], "resume=2026 does not exist"),
        (["resume={run}/checkpoints"], "is no run folder: it has no run.json"),
        (["resume={run}/.."], "is no run folder: it holds several; choose one: run"),
        (["resume={run}/checkpoints/best.ckpt"], "goes on from last.ckpt in its own folder"),
    ],
)
def test_what_cannot_go_on_is_told_in_one_line_and_nothing_is_changed(
    half: Path, words: list[str], said: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = (half / "run.json").read_bytes()
    outputs = f"paths.outputs={tmp_path / 'outputs'}"
    assert main(["train", *(word.format(run=half) for word in words), outputs]) == 2
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert re.search(said, message), message
    assert (half / "run.json").read_bytes() == before
    assert not list((tmp_path / "outputs").rglob("*")), "no folder is left for a run that never was"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", "", "no whole configuration of a training: it lacks data"),
        ("config.yaml", "- a", "no whole configuration of a training: it lacks data"),
        ("config.yaml", "half", "no whole configuration of a training: it lacks .*threads"),
        ("config.yaml", "a: [1", "is damaged or unsafe"),
        ("config.yaml", b"\xff\xe4", "is damaged or unsafe"),
        ("overrides.yaml", "5", "overrides.yaml is damaged: it is 5"),
        ("overrides.yaml", None, "overrides.yaml cannot be read: No such file"),
        ("run.json", "half", "run.json is damaged: "),
        ("run.json", "[]", "run.json is no record of a run"),
        ("run.json", '{"versions": [1]}', r"run.json is damaged: its versions is \[1\]"),
        ("metrics.csv", b"\xff\xfe\xe4", "metrics.csv is damaged after 0 rows"),
        ("metrics.csv", "epoch,step\n0,8\n1,x\n", "metrics.csv is damaged after 1 rows"),
    ],
)
def test_damaged_files_of_a_run_are_told_in_one_line(
    half: Path, tmp_path: Path, name: str, content: Any, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    file = folder / name
    if content is None:
        file.unlink()
    else:
        whole = file.read_bytes()
        file.write_bytes(
            whole[: len(whole) // 2] if content == "half" else content.encode() if isinstance(content, str) else content
        )
    assert main(["train", f"resume={folder}", "trust=true"]) == 2
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert re.search(said, message), message
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == (half / "checkpoints" / "last.ckpt").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "detector"}, "is of a detector, but this run trains a classifier"),
        ({"classes": list("012345678")}, "knows 9 classes, this run's data has 10"),
        ({"classes": list("0123456798")}, r"10 classes, this run's data has 10 \(class 8 is 9, in the data 8\)"),
        (None, "do not fit the model"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    half: Path, tmp_path: Path, change: Any, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    if change is None:
        content["state_dict"]["model.head.1.weight"] = torch.zeros(3, 144)
    content["lightbed"] |= change or {}
    torch.save(content, last)
    before = last.read_bytes()
    assert main(["train", f"resume={folder}", "trust=true"]) == 2
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert re.search(said, message), message
    assert last.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_told(half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(half, tmp_path / "run")
    (tmp_path / "run" / ".lock").mkdir()  # refuses as a read-only folder does, also whoever may write anywhere
    assert main(["train", f"resume={tmp_path / 'run'}", "trust=true"]) == 2
    assert re.search(r"cannot write into the run folder \S+/run: Is a directory$", capfd.readouterr().err.strip())


def test_other_batches_or_a_running_process_are_refused(
    half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("limit_train_batches: 8", "limit_train_batches: 7"))
    assert main(["train", f"resume={folder}", "trust=true"]) == 2
    assert "the run had 8 batches an epoch, now there are 7" in capfd.readouterr().err
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX); print('held',"
         "flush=True); input()", str(folder / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert main(["train", f"resume={folder}", "trust=true"]) == 2
        assert "is still going on (process" in capfd.readouterr().err
    finally:
        holder.communicate("\n")
