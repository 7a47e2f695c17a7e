"""`lightbed check`: what a training would meet late is met at once, and nothing stays behind."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import fakes
from lightbed.cli import main
from lightbed.data.base import DataModule, Loading
from lightbed.data.look import look
from lightbed.data.source import ArraySource

QUICK = ["model=dnn", "trainer.accelerator=cpu", "images=16", "callbacks.pictures=null"]
LATE = """
import time
import torch
from lightning.pytorch import Callback
from torchmetrics import Metric

class AtEpochEnd(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        raise ArithmeticError("the end of the epoch")

class AtSecondEpoch(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise ArithmeticError("the second epoch")

class Unsaveable(Callback):
    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["mine"] = lambda: None

class AfterTest(Callback):
    def on_test_end(self, trainer, pl_module):
        raise ArithmeticError("the end of the test")

class NoResult(Metric):
    def update(self, predictions, targets): ...
    def compute(self):
        raise ArithmeticError("nothing to compute")

class Slow(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(64, num_classes)
    def forward(self, images):
        time.sleep(0.02)
        return self.layer(images.flatten(1))

class Large(Slow):
    def forward(self, images):
        if self.training and len(images) > 40:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(images)

class Remarking(Callback):
    def on_validation_end(self, trainer, pl_module):
        from lightbed.runs.log import say
        say("a loss in validation is no number")

class Forgetful(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(64, num_classes)
        self.seen = 0
    def forward(self, images):
        return self.layer(images.flatten(1))
    def load_state_dict(self, *args, **options):
        raise ArithmeticError("loading the weights")
    _load_from_state_dict = load_state_dict
"""


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module `late` of a user's own, whose parts fail late."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "late.py").write_text(LATE)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.delitem(sys.modules, "late", raising=False)


def check(capfd: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """Run it; returns what it said on both outputs, the report's broken lines joined."""
    capfd.readouterr()
    assert main(["check", *words]) == code
    out, err = capfd.readouterr()
    assert not Path("outputs").exists()
    assert not list(Path("temporary").glob("lightbed-check*"))
    ours = [line for line in out.splitlines() if not line.startswith(("ready:", "out of memory"))]
    sentences = [line for line in ours if len(line.split()) > 2]  # a path by itself may be longer
    assert max(map(len, sentences), default=0) <= 100
    return re.sub(r"\n {11}", " ", out), err


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def test_a_good_run_is_reported_and_leaves_nothing(capfd, tmp_path):
    shown, errors = check(capfd, *QUICK[:2], "images=100", "callbacks.pictures.count=8")
    assert not errors
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines() if line)
    assert lines["run"].startswith("classifier: Classifier with DNN, 34,378 parameters")
    assert lines["data"] == "Digits, 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert "1,294 images, 100 looked at: 1x8x8; pixels 0 to 255" in shown
    assert "359 images, 100 looked at: 1x8x8; 29 (1) to 41 (4) images a class" in shown
    assert re.match(r"\d+ of 21 steps of an epoch, loss [\d.]+ at first and [\d.]+ at last", lines["training"])
    assert lines["validation"] == "1 of 1 batches, logs loss, accuracy, precision, recall, f1"
    assert "best.ckpt and last.ckpt, loaded again" in shown
    assert "confusion_matrix, curves, precision_recall, predictions" in shown
    used, whole = re.match(r"at most ([\d,]+) MiB of ([\d,]+) (?:M|G)iB in this process", lines["memory"]).groups()
    assert 200 < float(used.replace(",", "")) < 20_000
    assert float(whole.replace(",", "")) > 1
    assert re.search(r"a checkpoint has 0\.\d MiB; [\d,]+ (M|G)iB free at outputs", lines["disk"])
    assert shown.endswith("ready: lightbed train model=dnn trainer.accelerator=cpu callbacks.pictures.count=8\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]


@pytest.mark.slow
@pytest.mark.usefixtures("late")
def test_the_estimate_is_near_the_real_time(capfd):
    words = ["model=custom", "model._target_=late.Slow", "trainer.max_epochs=1000", "data.batch_size=16"]
    shown, _ = check(capfd, *QUICK, *words)
    told = re.search(r"^time +(.*) a step, so about (.*) an epoch and (.*) for 1,000 epochs and the test", shown, re.M)
    step, epoch, whole = map(seconds, told.groups())
    assert 0.02 <= step < 0.2  # the network sleeps for 0.02 s
    assert 0.95 * 81 * step < epoch < 3 * 81 * step  # 1,294 images; nine batches of validation are beside them
    assert 0.9 * 1000 * epoch < whole < 1.1 * 1000 * epoch


def test_the_config_is_that_of_train(capsys):
    configs = []
    for command in ("train", "check"):
        assert main([command, "--cfg", "job", "experiment=unet", "model=fcn"]) == 0
        configs.append(yaml.safe_load(capsys.readouterr().out))
    assert configs[1].pop("images") == 256
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task.monitor=val/acuracy"], "task.monitor=val/acuracy is not logged: did you mean val/accuracy"),
        (["model=dn"], "model=dn does not exist: did you mean"),
        (["modle=dnn"], "modle does not exist: did you mean model"),
        (["trainer.max_epochs=many"], "trainer.max_epochs=many is not a number"),
        (["callbacks.pictures.samples=[9999]"], "callbacks.pictures.samples=[9999] are not in 0..358"),
        (["images=0"], "images=0 must be a whole number of at least 1, or null for all"),
        (["resume=outputs/latest"], "a run that has begun is past its check"),
        (["-m", "hydra/sweeper=optuna"], "hydra/sweeper=optuna: a search chooses its values as it goes"),
        (["data=image_folder", "data.root=nowhere"], "nowhere does not exist"),
    ],
)
def test_what_train_refuses_is_refused_in_one_line(words, told, capfd):
    shown, errors = check(capfd, *words, code=2)
    assert told in errors
    assert errors.count("\n") == 1
    assert "ready:" not in shown


def test_torchrun_is_refused(capfd, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert "leave out torchrun" in check(capfd, code=2)[1]


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(
    ("words", "where", "told"),
    [
        (["+callbacks.x._target_=late.AtEpochEnd"], "at the end of an epoch", "the end of the epoch"),
        (["+callbacks.x._target_=late.AtSecondEpoch"], "in the training", "the second epoch"),
        (["+callbacks.x._target_=late.Unsaveable"], "at the end of an epoch, where checkpoints are saved", ""),
        (["+callbacks.x._target_=late.AfterTest"], "at the end of the test", "the end of the test"),
        (["+task.metrics.x._target_=late.NoResult"], "in the validation", "nothing to compute"),
        (["model=custom", "model._target_=late.Forgetful"], "", "loading the weights"),
    ],
)
def test_parts_that_fail_late_are_told_early(words, where, told, capfd):
    shown, errors = check(capfd, *QUICK, *words, code=1)
    assert f"failed     {where}" in shown
    assert told in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("lightbed: ")
    assert "log.txt" not in errors  # it is gone
    assert "ready:" not in shown


@pytest.mark.usefixtures("late")
def test_a_batch_that_does_not_fit_is_told_or_halved(capfd):
    words = ["model=custom", "model._target_=late.Large", "trainer.max_epochs=1", "callbacks.layers=null"]
    shown, errors = check(capfd, *QUICK, *words, code=1)
    assert "failed     in the training" in shown
    assert "out of memory in step 1 of epoch 1 with data.batch_size=64" in errors
    shown, errors = check(capfd, *QUICK, *words, "trainer.batch_size_on_oom=halve")
    assert not errors
    assert "begins again with batch_size 64 -> 32" in shown
    assert "of 41 steps of an epoch" in shown


@pytest.mark.usefixtures("late")
def test_what_a_run_remarks_is_a_warning(capfd):
    shown, _ = check(capfd, *QUICK, "+callbacks.x._target_=late.Remarking", "trainer.max_epochs=1")
    assert shown.count("warning    run: a loss in validation is no number\n") == 1
    assert shown.count("warning    run") == 1


def test_a_schedule_that_ends_too_early_is_told(capfd):
    words = [
        "scheduler=custom",
        "scheduler.build._target_=torch.optim.lr_scheduler.OneCycleLR",
        "scheduler.interval=step",
    ]
    _, errors = check(capfd, *QUICK, *words, "+scheduler.build.max_lr=0.1", "+scheduler.build.total_steps=2", code=2)
    assert "scheduler cannot be stepped" in errors


def test_the_schedule_and_the_accumulation_are_those_of_the_whole_run(capfd):
    # a step after 1,000 batches would never be taken, were the last batch not known as such
    shown, _ = check(capfd, *QUICK, "scheduler=onecycle", "trainer.accumulate_grad_batches=1000", "data.batch_size=8")
    assert "30 of 162 steps of an epoch" in shown
    assert "162 steps" in shown
    assert "ready: " in shown


def test_what_a_failed_step_wrote_is_said_to_be_gone(capfd):
    shown, errors = check(capfd, *QUICK, "optimizer.lr=1e30", code=1)
    assert "loss is nan in batch 2 of epoch 1" in errors
    assert errors.count("\n") == 1
    assert "failed     in the training; what was written there is gone, and train keeps it" in shown


def test_a_run_without_validation_or_with_its_own_folder(capfd, tmp_path):
    shown, _ = check(capfd, *QUICK, "trainer.check_val_every_n_epoch=20", "hydra.run.dir=mine", "+trainer.min_epochs=9")
    assert "warning    validation: trainer.check_val_every_n_epoch=20 of 15 epochs: there is none" in shown
    assert "validation " not in shown.partition("warning")[0]
    assert not (tmp_path / "mine").exists()


def folder(root: Path, **counts: int) -> Path:
    """Images of `SPLIT_CLASS`, so many of each."""
    for name, count in counts.items():
        place = root / name.replace("_", "/")
        place.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(fakes.picture(len(name) % 3, (16, 16), i)).save(place / f"{i}.png")
    return root


def test_a_class_that_a_split_lacks_is_a_warning(capfd, tmp_path):
    root = folder(tmp_path / "photos", train_cat=8, train_dog=8, val_cat=4, val_dog=4, val_eel=4, test_dog=4)
    words = ["data=image_folder", f"data.root={root}", "data.image_size=16", "model.hidden=[8]"]
    shown, errors = check(capfd, *QUICK, *words)
    assert not errors
    assert "warning    train: no images of class eel: it cannot be learnt" in shown
    assert "warning    test: no images of class cat, eel: its scores there say nothing" in shown
    assert "warning    val" not in shown


def test_a_broken_image_is_named_and_skipped_where_that_is_wanted(capfd, tmp_path):
    root = folder(tmp_path / "photos", train_cat=8, train_dog=8, val_cat=4, val_dog=4)
    (root / "train" / "cat" / "3.png").write_bytes(b"no image")
    words = ["data=image_folder", f"data.root={root}", "data.image_size=16", "model.hidden=[8]"]
    _, errors = check(capfd, *QUICK, *words, code=2)
    assert "train/cat/3.png" in errors
    shown, _ = check(capfd, *QUICK, *words, "data.broken=skip")
    assert re.search(r"warning    data: files left out: 1, e.g. .*train/cat/3.png", shown)


def test_boxes_and_pixels_are_checked_alike(capfd):
    few = ["data=digit_scenes", "data.images={train: 8, val: 2, test: 2}", "trainer.max_epochs=1", "images=8"]
    words = ["model=overfeat", "task=detector", "data.batch_size=4", "callbacks.pictures.count=1"]
    shown, _ = check(capfd, *few, *words)
    assert "objects an image" in shown
    assert "predictions" in shown
    shown, _ = check(capfd, *few, "model=unet", "task=segmenter", "model.channels=[4,8]", "callbacks.pictures=null")
    assert re.search(r"[\d.]+% \(\w+\) to [\d.]+% \(background\) pixels a class", shown)


@pytest.mark.slow
def test_the_jobs_of_a_multirun_are_checked_one_after_the_other(capfd):
    shown, errors = check(capfd, *QUICK, "-m", "trainer.gradient_clip_val=1,-1", code=2)
    assert "job        trainer.gradient_clip_val=1" in shown
    assert "trainer.gradient_clip_val=-1: trainer.gradient_clip_val=-1 must be more than 0" in errors
    assert "ready:" not in shown
    shown, errors = check(capfd, *QUICK, "-m", "seed=0,1", "trainer.max_epochs=1", "hydra.launcher.jobs=2")
    assert not errors
    assert shown.count("run        classifier") == 2
    assert shown.endswith(" -m seed=0,1 trainer.max_epochs=1 hydra.launcher.jobs=2\n")


@pytest.mark.slow
def test_from_the_shell(tmp_path):
    code = "import sys; from lightbed.cli import main; sys.exit(main())"
    words = ["check", *QUICK, "paths.outputs=out"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == (
        "ready: lightbed train model=dnn trainer.accelerator=cpu callbacks.pictures=null paths.outputs=out"
    )
    assert not list(tmp_path.glob("out*"))
    assert not list((tmp_path / "temporary").glob("lightbed-check*"))


# -- what is seen in data ----------------------------------------------------------------------------------------------


class Given(DataModule):
    """Data whose samples a test gives."""

    def __init__(self, images: Tensor, mean: float = 0.5, **target: Tensor) -> None:
        super().__init__(channels=3, mean=mean, test_fraction=0)
        self.source = ArraySource(images, target)

    def load(self) -> Loading:
        return Loading({"train": self.source, "val": self.source}, ["a", "b", "c"])


def seen(images: Tensor, **target: Tensor):
    data = Given(images, **target)
    data.setup()
    return look(data, "train", None)


NOISE = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
WHOLE = torch.tensor([[0.0, 0, 8, 8]])


def test_ordinary_data_has_nothing_odd():
    found = seen(NOISE, label=LABELS)
    assert not found.faults
    assert not found.warnings
    assert "2 images a class" in found.text


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ({"label": torch.tensor([0, 1, 2, 3, 0, 0])}, "image 3 of train has class 3; there are 0 to 2"),
        ({"label": torch.tensor([0, 1, 2, -1, 0, 0])}, "image 3 of train has class -1"),
        ({"label": torch.full((6, 3), 0.5)}, "labels that are not 3 values of 0 and 1"),
        ({"mask": torch.full((6, 8, 8), 7)}, "has class 7 in its mask; there are 0 to 2, and 255 for void"),
        ({"mask": torch.zeros(6, 4, 4)}, "is [8, 8] and its mask [4, 4] pixels"),
        ({"label": LABELS, "box": torch.full((6, 4), float("nan"))}, "a box with NaN"),
        ({"boxes": WHOLE.expand(6, 1, 4), "labels": torch.zeros(6, 2).long()}, "of shapes that do not fit"),
    ],
)
def test_targets_that_would_end_a_run_or_teach_nonsense_are_faults(target, fault):
    assert any(fault in line for line in seen(NOISE, **target).faults)


@pytest.mark.parametrize(
    ("images", "target", "warning"),
    [
        (NOISE, {"label": torch.zeros(6).long()}, "train: no images of class b, c: it cannot be learnt"),
        (NOISE, {"mask": torch.full((6, 8, 8), 255)}, "6 of 6 images looked at have a mask that is all void"),
        (NOISE, {"mask": torch.zeros(6, 8, 8)}, "6 of 6 images looked at have a mask of one class alone"),
        (NOISE, {"label": LABELS, "box": 3 * WHOLE.expand(6, 4)}, "a box that reaches outside the image"),
        (NOISE, {"label": LABELS, "box": 0 * WHOLE.expand(6, 4)}, "a box without area"),
        (
            NOISE,
            {
                "boxes": WHOLE.expand(6, 1, 4),
                "labels": LABELS[:, None],
                "masks": torch.zeros(6, 1, 8, 8).bool(),
            },
            "an object whose mask is empty",
        ),
        (NOISE, {"boxes": torch.zeros(6, 0, 4), "labels": torch.zeros(6, 0).long()}, "has an object"),
        (NOISE // 255, {"label": LABELS}, "are the images scaled to 0..1 already, or black?"),
        (torch.zeros_like(NOISE), {"label": LABELS}, "6 of 6 images looked at have all pixels alike"),
        (NOISE, {"label": LABELS, "mean": 120.0}, "are data.mean and data.std right?"),
    ],
)
def test_what_is_only_odd_is_a_warning(images, target, warning):
    found = seen(images, **target)
    assert not found.faults
    assert any(warning in line for line in found.warnings), found.warnings


def test_uneven_classes_are_told_and_only_some_images_are_read():
    images = NOISE[:1].expand(500, -1, -1, -1)
    labels = torch.cat([torch.zeros(497), torch.tensor([1.0, 1, 2])]).long()
    data = Given(images, label=labels)
    data.setup()
    found = look(data, "train", 10)
    assert "500 images, 10 looked at" in found.text or "looked at" in found.text
    assert any("classes are uneven" in line for line in found.warnings)
