"""Where things lie: the same files from any folder, and no other folder to write to than this machine's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import fakes
from exact import WORDS
from lightbed.cli import main
from lightbed.errors import UserError
from lightbed.runs.places import absolute, check_download, safe_caches

FOLDER = {"_target_": "lightbed.data.folder.ImageFolder", "resize": "stretch", "image_size": 8}


def config(data: dict[str, Any], **more: Any) -> dict[str, Any]:
    paths = {"outputs": "outputs", "data": "~/sets", "cache": "/var/cache", **more.pop("paths", {})}
    return {"paths": paths, "data": data, "model": {"_target_": "mine.Net"}, "name": "x", **more}


def test_relative_places_become_absolute_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("stretch", "labels.csv", "start.pth"):  # also files whose names are words of the config
        Path(name).touch()
    own = config(
        {**FOLDER, "root": "photos", "labels": "labels.csv", "cache_dir": "kept/x"},
        paths={"cache": "kept", "data": "sets"},
        model={"_target_": "mine.Net", "weights": "start.pth", "weights_backbone": "DEFAULT", "cache_dir": "kept"},
    )
    found = absolute(own)
    assert found["paths"] == {"outputs": "outputs", "data": f"{tmp_path}/sets", "cache": f"{tmp_path}/kept"}
    assert found["data"] == {
        **FOLDER, "root": f"{tmp_path}/photos", "labels": f"{tmp_path}/labels.csv", "cache_dir": f"{tmp_path}/kept/x",
    }  # fmt: skip
    assert found["model"]["weights"] == f"{tmp_path}/start.pth"
    assert found["model"]["weights_backbone"] == "DEFAULT"
    assert found["model"]["cache_dir"] == f"{tmp_path}/kept"
    below = config({**FOLDER, "root": "photos", "labels": "below_the_root.csv"})
    assert absolute(below)["data"]["labels"] == "below_the_root.csv"
    fixed = config({**FOLDER, "root": "~/photos"}, model={"weights": "none.pth"})
    assert absolute(fixed) == fixed
    assert absolute(config({"_target_": "nobody.Knows", "root": "a"}))["data"]["root"] == f"{tmp_path}/a"


def test_a_file_chooses_no_new_cache(tmp_path: Path) -> None:
    (tmp_path / "known" / "fingerprints").mkdir(parents=True)
    (tmp_path / "foreign").mkdir()
    for name, expected in (("known", str(tmp_path / "known")), ("foreign", "own"), ("none", "own")):
        place = str(tmp_path / name)
        given = config({"cache_dir": place, "inner": [{"cache_dir": place}]}, paths={"cache": place}, model={})
        found = safe_caches(given, "own")
        assert found["paths"]["cache"] == expected
        assert found["data"] == {"cache_dir": expected, "inner": [{"cache_dir": expected}]}
    off = config({"cache_dir": None}, model={})
    assert safe_caches(off, "own")["data"] == {"cache_dir": None}


def test_a_run_goes_on_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fakes.image_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    small = ("data=image_folder", "data.root=photos", "data.image_size=8", "data.channels=3", "model=cnn")
    words = [word for word in WORDS if not word.startswith("model")]
    places = [f"paths.outputs={tmp_path}", "paths.cache=kept", f"hydra.run.dir={folder}"]
    assert main(["train", *words, *small, "trainer.max_epochs=1", *places]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = (folder / "run.json").read_bytes(), (folder / "config.yaml").read_bytes()

    (tmp_path / "photos").rename(tmp_path / "gone")
    assert main(["train", f"resume={folder}", "trainer.max_epochs=2"]) == 2
    assert f"data.root={tmp_path}/photos does not exist" in capfd.readouterr().err
    after = (folder / "run.json").read_bytes(), (folder / "config.yaml").read_bytes()
    assert after == before, "what did not go on is what it was"
    (tmp_path / "gone").rename(tmp_path / "photos")

    assert main(["train", f"resume={folder}", "trainer.max_epochs=2"]) == 0
    assert len(json.loads((folder / "run.json").read_text())["resumed"]) == 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["paths"]["cache"] == str(tmp_path / "kept")
    outputs = f"paths.outputs={tmp_path}"
    assert main(["test", f"run={folder / 'checkpoints' / 'last.ckpt'}", outputs, "callbacks.pictures=null"]) == 0
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_chooses_no_new_folder_to_download_to(tmp_path: Path) -> None:
    cifar = {"_target_": "lightbed.data.cifar.CIFAR10", "root": str(tmp_path / "planted")}  # without url: its default
    for data in (cifar, {"_target_": "mine.Data", "source": cifar}):
        with pytest.raises(UserError, match=r"run\.ckpt: its data\.root=.*planted is not there"):
            check_download(data, str(tmp_path / "sets"), "run.ckpt")
    check_download(cifar, str(tmp_path), "run.ckpt")  # below this machine's own
    check_download({**FOLDER, "root": str(tmp_path / "planted")}, "sets", "run.ckpt")  # never downloaded
    (tmp_path / "planted").mkdir()
    check_download(cifar, "sets", "run.ckpt")


@pytest.mark.parametrize("command", ["train", "rerun", "test"])
def test_no_command_downloads_to_a_folder_that_a_file_names(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    words = [word for word in WORDS if not word.startswith("model")]
    words += ["model=cnn", "trainer.max_epochs=1", f"hydra.run.dir={folder}", f"paths.outputs={tmp_path}"]
    assert main(["train", *words]) == 0
    own = yaml.safe_load((folder / "config.yaml").read_text())
    planted = {**own["data"], "_target_": "lightbed.data.cifar.CIFAR10", "root": str(tmp_path / "planted")}
    (folder / "config.yaml").write_text(yaml.safe_dump({**own, "data": planted}))
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["lightbed"]["config_json"] = json.dumps({**own, "data": planted})
    torch.save(content, last)
    capfd.readouterr()
    given = [f"resume={folder}"] if command == "train" else [f"run={last if command == 'test' else folder}"]
    assert main([command, *given]) == 2
    assert "planted is not there, and a file may not choose" in capfd.readouterr().err
    assert not (tmp_path / "planted").exists()
