"""`lightbed rerun`: identical or not, where results part first, and what is different around them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fakes
from lightbed.cli import main
from lightbed.commands.rerun import first_settings
from lightbed.runs.differences import compare_results, surroundings, weights_digest
from lightbed.runs.history import read_history, write_history
from lightbed.runs.memory import with_sizes

TINY = ["model.channels=[4,8]", "trainer.max_epochs=2", "trainer.accelerator=cpu", "callbacks.pictures=null"]


def rerun(capfd: pytest.CaptureFixture[str], code: int, run: Path, new: Path, *words: str) -> tuple[list[str], str]:
    """The lines that it says, and its one line of error."""
    capfd.readouterr()
    assert main(["rerun", f"run={run}", f"hydra.run.dir={new}", f"paths.outputs={new.parent}", *words]) == code
    said = capfd.readouterr()
    assert len(said.err.strip().splitlines()) == (1 if code else 0), said.err
    return said.out.splitlines(), said.err.strip()


@pytest.fixture(scope="module")
def photos_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of images, with augmentation, dropout, accumulation and a schedule."""
    outputs = tmp_path_factory.mktemp("photos")
    root = fakes.image_folder(outputs / "photos", count=8)
    words = ["data=image_folder", f"data.root={root}", "data.image_size=16", "data.batch_size=4", "augment=flip_crop"]
    more = ["scheduler=onecycle", "trainer.accumulate_grad_batches=2", "logger=csv", "callbacks=early_stopping"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(outputs)  # no checkout that somebody else works in
        assert (
            main(["train", *TINY, *words, *more, f"hydra.run.dir={outputs / 'run'}", f"paths.outputs={outputs}"]) == 0
        )
    return outputs / "run"


@pytest.fixture
def photos(photos_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run and of its data that a test may change, in another working directory than the run's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos_run.parent / "photos", tmp_path / "photos")
    shutil.copytree(photos_run, tmp_path / "run")
    text = (tmp_path / "run" / "config.yaml").read_text().replace(str(photos_run.parent), str(tmp_path))
    (tmp_path / "run" / "config.yaml").write_text(text)
    return tmp_path / "run"


def test_a_run_is_repeated_to_the_bit(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From its folder alone; and the repetition can be repeated as well."""
    metrics = json.loads((photos / "metrics.json").read_text())
    lines, _ = rerun(capfd, 0, photos, tmp_path / "new")
    names = {name for row in read_history(photos / "metrics.csv") for name in row} | metrics.keys()
    count = len(names - {"epoch", "step", "seconds"})
    digest = weights_digest(photos / "checkpoints" / "last.ckpt")
    assert lines[-1] == f"identical: {count} metrics in 2 epochs, weights sha256 {digest}"
    assert not any(line.startswith("different") for line in lines)
    record = json.loads((tmp_path / "new" / "run.json").read_text())
    assert (record["kind"], record["status"], record["identical"]) == ("rerun", "done", True)
    assert record["run"] == str(photos)
    again, _ = rerun(capfd, 0, tmp_path / "new", tmp_path / "newer")
    assert again[-1] == lines[-1]


def test_changed_missing_and_new_files_are_named(photos: Path, tmp_path: Path, capfd: Any) -> None:
    root = tmp_path / "photos"
    changed, missing, *_ = sorted(path for path in root.rglob("*.png"))
    pixels = np.asarray(Image.open(changed)).copy()
    pixels[0, 0] ^= 255
    Image.fromarray(pixels).save(changed)
    (missing.parent / "extra.png").write_bytes(missing.read_bytes())
    missing.unlink()
    lines, error = rerun(capfd, 1, photos, tmp_path / "new")
    folder = changed.parent.name
    told = (
        f"  data: 1 changed ({folder}/{changed.name}), 1 missing ({folder}/{missing.name}), 1 new ({folder}/extra.png)"
    )
    assert lines.count(told) == 2, "before the training, and with the verdict"
    assert "differs first in the row of epoch 0: train/" in error
    assert " then, " in error
    record = json.loads((tmp_path / "new" / "run.json").read_text())
    assert (record["status"], record["identical"]) == ("done", False)


def test_what_is_different_between_then_and_now_is_told(photos: Path, tmp_path: Path) -> None:
    """Code, versions and machine; facts of then are changed in the record, as if the world had changed since."""
    now = tmp_path / "now"
    shutil.copytree(photos, now)
    assert surroundings(photos, now) == []
    record = json.loads((photos / "run.json").read_text())
    record["git"] = {"commit": "a" * 40, "changed": True}
    record["versions"]["torch"] = "2.0.0"
    record["hardware"] |= {"isa": "AVX2", "gpus": ["Tesla"]}
    record["threads"] = 7
    record["variables"] = {"MKL_CBWR": "AVX2"}
    (photos / "run.json").write_text(json.dumps(record))
    lines = (photos / "packages.txt").read_text().splitlines()
    (photos / "packages.txt").write_text("\n".join([*lines, "mine==1.0"]))
    (photos / "uncommitted.diff").write_text("diff --git a/net.py b/net.py\n--- a/net.py\n+++ b/net.py\n+x = 1\n")
    new = json.loads((now / "run.json").read_text())
    new["git"] = {"commit": "b" * 40, "changed": False}
    (now / "run.json").write_text(json.dumps(new))
    (now / "uncommitted.diff").unlink(missing_ok=True)
    code, versions, machine = surroundings(photos, now)
    assert code.startswith(
        "code: commit aaaaaaaaaaaa then, bbbbbbbbbbbb now; uncommitted changes in net.py then, none now"
    )
    assert versions == f"versions: torch 2.0.0 then, {torch.__version__} now; mine 1.0 then, absent now"
    assert machine.startswith("machine: threads 7 then, 2 now; isa AVX2 then, ")
    assert "gpus Tesla then, none now" in machine
    assert "MKL_CBWR AVX2 then, not said now" in machine


def test_a_run_that_ran_out_of_memory_begins_again_as_it_began() -> None:
    now = {"batch_size": 16, "eval_batch_size": 64, "accumulate_grad_batches": 4, "limit_train_batches": 40}
    first = {"batch_size": 64, "eval_batch_size": 64, "accumulate_grad_batches": 1, "limit_train_batches": 10}
    config = with_sizes({"seed": 1, "data": {"channels": 3}, "trainer": {"precision": "32-true"}}, now)
    assert config["data"] == {"channels": 3, "batch_size": 16, "eval_batch_size": 64}
    halved = [{"epoch": 2, "before": first, "after": {}}, {"epoch": 3, "before": {}, "after": now}]
    again = first_settings(config, {"out_of_memory": halved})
    assert again == with_sizes(config, first)
    assert again["trainer"] == {"precision": "32-true", "accumulate_grad_batches": 1, "limit_train_batches": 10}
    assert first_settings(config, {}) == config


def changed_row(folder: Path) -> None:
    rows = read_history(folder / "metrics.csv")
    rows[1] = {name: value * (1.5 if name == "val/loss" else 1) for name, value in rows[1].items()}
    write_history(folder / "metrics.csv", rows)


def changed_final(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "test/loss": 0.5}))


def changed_weights(folder: Path) -> None:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    weight = next(value for value in content["state_dict"].values() if value.is_floating_point())
    weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    torch.save(content, folder / "checkpoints" / "last.ckpt")


def fewer_rows(folder: Path) -> None:
    write_history(folder / "metrics.csv", read_history(folder / "metrics.csv")[:1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed_row, r"metrics.csv differs first in the row of epoch 1: val/loss \S+ then, \S+ now$"),
        (fewer_rows, r"metrics.csv has 2 rows then, 1 now"),
        (changed_final, r"metrics.json differs: test/loss \S+ then, 0.5 now$"),
        (
            changed_weights,
            r"the weights of last.ckpt differ: sha256 \w{16}... then, \w{16}... now; all \d+",
        ),
    ],
)
def test_the_first_difference_is_told(photos: Path, tmp_path: Path, change: Callable[[Path], None], told: str) -> None:
    shutil.copytree(photos, tmp_path / "now")
    assert compare_results(photos, tmp_path / "now").same
    rows = read_history(photos / "metrics.csv")
    write_history(tmp_path / "now" / "metrics.csv", [{**row, "seconds": 1e9} for row in rows])
    assert compare_results(photos, tmp_path / "now").same, "how long it took is no difference"
    change(tmp_path / "now")
    outcome = compare_results(photos, tmp_path / "now")
    assert not outcome.same
    assert re.search(told, outcome.text), outcome.text


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Changes run.json or config.yaml of a folder."""

    def edit(folder: Path) -> None:
        content = yaml.safe_load((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(content)))  # JSON is YAML, too

    return edit


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "run.json").unlink(), "holds no run.json"),
        (lambda folder: (folder / "run.json").write_text("{"), "run.json is damaged"),
        (lambda folder: (folder / "config.yaml").unlink(), "config.yaml cannot be read: No such file"),
        (lambda folder: (folder / "config.yaml").write_text("a: [1"), "config.yaml is damaged or unsafe"),
        (lambda folder: (folder / "config.yaml").write_text("seed: 1"), "it lacks data, model"),
        (lambda folder: (folder / "checkpoints" / "last.ckpt").write_bytes(b"PK"), "last.ckpt cannot be read as a"),
        (edited("run.json", lambda old: {**old, "status": "failed"}), "is failed, not done"),
        (edited("run.json", lambda old: {**old, "kind": "predict"}), "is no training"),
        (edited("config.yaml", lambda old: {**old, "model": {"_target_": "mine.Net"}}), "mine.Net is not trusted"),
    ],
)
def test_what_cannot_be_repeated_is_told_in_one_line(
    photos: Path, tmp_path: Path, capfd: Any, spoil: Any, told: str
) -> None:
    spoil(photos)
    _, error = rerun(capfd, 2, photos, tmp_path / "new")
    assert told in error
    assert not (tmp_path / "new" / "run.json").exists(), "nothing was begun"


def test_a_checkpoint_file_is_no_folder(photos: Path, tmp_path: Path, capfd: Any) -> None:
    _, error = rerun(capfd, 2, photos / "checkpoints" / "last.ckpt", tmp_path / "new")
    assert "rerun repeats a training from its folder" in error


def test_ones_own_modules_and_weights_are_among_what_is_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also outside a checkout, which otherwise says what was changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("inside_of_a_net.py").write_text("from torch.nn import Linear as Layer\n")
    Path("a_net_of_ones_own.py").write_text(
        "from torch import nn\nfrom inside_of_a_net import Layer\n"
        "def net(num_classes=10):\n    return nn.Sequential(nn.Flatten(), Layer(64, 32), nn.ReLU(), Layer(32, 10))\n"
    )
    words = ["model=custom", "model._target_=a_net_of_ones_own.net", *TINY[1:], "trainer.limit_train_batches=2"]
    words += ["logger=csv", "callbacks.curves=null", f"paths.outputs={tmp_path}", "trust=true"]
    assert main(["train", *words[:-1], f"hydra.run.dir={tmp_path / 'first'}"]) == 0
    torch.save(torch.load("first/checkpoints/last.ckpt", weights_only=True)["state_dict"], "start.pth")
    weights = torch.load("start.pth", weights_only=True)
    torch.save({name.removeprefix("model."): value for name, value in weights.items()}, "start.pth")
    assert main(["train", *words[:-1], "weights=start.pth", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert sorted(json.loads(Path("run/run.json").read_text())["modules"]) == ["a_net_of_ones_own", "inside_of_a_net"]

    lines, _ = rerun(capfd, 0, tmp_path / "run", tmp_path / "same", "trust=true")
    assert "different now:" not in lines
    with Path("inside_of_a_net.py").open("a") as file:
        file.write("# changed\n")
    torch.save({name.removeprefix("model."): value + 1 for name, value in weights.items()}, "start.pth")
    lines, error = rerun(capfd, 1, tmp_path / "run", tmp_path / "again", "trust=true")
    told = [line.strip() for line in lines]
    assert "code: your own inside_of_a_net changed" in told
    assert f"weights: {tmp_path / 'start.pth'} holds others than then" in told
    assert "nothing else is known to be different" not in "".join(told)
    assert "differs" in error
