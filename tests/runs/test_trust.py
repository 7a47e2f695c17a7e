"""Configs from somebody else's file: what is refused, without running or importing it, and what is not."""

import functools
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from lightbed.cli import main
from lightbed.errors import UserError
from lightbed.runs.trust import check_config, check_targets

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem not in ("timm", "custom"))

EVIL = {
    "shell": {"_target_": "os.system", "_args_": ["touch pwned"]},
    "eval": {"_target_": "builtins.eval", "_args_": ["open('pwned', 'w')"]},
    "partial of eval": {"_target_": "functools.partial", "_args_": ["builtins.eval"]},
    "a module's module": {"_target_": "torch.os.system", "_args_": ["touch pwned"]},
    "deeper module's module": {"_target_": "torch.nn.modules.module.warnings.warn", "_args_": ["x"]},
    "package inside a trusted one": {"_target_": "torch.nn.functional.importlib.import_module", "_args_": ["os"]},
    "hub": {"_target_": "torch.hub.load", "_args_": ["somebody/repo", "model"]},
    "pickle": {"_target_": "torch.load", "_args_": ["evil.pt"], "weights_only": False},
    "pickle by its home": {"_target_": "torch.serialization.load", "_args_": ["evil.pt"]},
    "write": {"_target_": "torch.save", "_args_": [[], "pwned"]},
    "download": {"_target_": "torchvision.datasets.MNIST", "root": "pwned", "download": True},
    "download by hand": {"_target_": "torchvision.datasets.utils.download_url", "url": "http://127.0.0.1/"},
    "hydra's getter": {"_target_": "hydra.utils.get_method", "path": "os.system"},
    "hydra's call": {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system"}},
    "partial": {"_target_": "os.system", "_partial_": True},
    "nested": {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "os.system", "_args_": ["touch pwned"]}]},
    "nested in a list in a dict": {"a": [[{"b": {"_target_": "subprocess.run"}}]]},
    "nested in a trusted builder": {
        "_target_": "lightbed.models.zoo.classifier",
        "kwargs": {"norm_layer": {"_target_": "builtins.exec", "_partial_": True}},
    },
    "interpolation": {"_target_": "lightbed.models.cnn.CNN", "num_classes": "${oc.env:HOME}"},
    "interpolation in a list": {"_target_": "torch.nn.Linear", "_args_": ["${oc.env:HOME}", 2]},
    "interpolation as a key": {"_target_": "torch.nn.Linear", "${oc.env:HOME}": 2},
    "address": {"_target_": "lightbed.data.cifar.CIFAR10", "root": "x", "url": "http://127.0.0.1:9/secret"},
    "file without slashes": {"_target_": "lightbed.data.cifar.CIFAR10", "root": "x", "url": "file:/etc/passwd"},
    "address in brackets": {"_target_": "lightbed.data.cifar.CIFAR10", "root": "x", "url": " <URL:File:/etc/passwd>"},
    "address that is its content": {"_target_": "lightbed.data.cifar.CIFAR10", "root": "x", "url": "data:,pwned"},
    "file for an address": {"_target_": "lightbed.models.cnn.CNN", "num_classes": ["file:///etc/passwd"]},
    "our writer": {"_target_": "lightbed.runs.record.write_text", "path": "pwned", "text": "x"},
    "our writer of tables": {"_target_": "lightbed.runs.history.write_history", "path": "pwned", "rows": []},
    "our reader of weights": {"_target_": "lightbed.models.weights.load_weights"},
    "our command": {"_target_": "lightbed.cli.main", "_args_": [["train"]]},
    "our maker": {"_target_": "lightbed.make.locate", "_args_": ["os.system", "x"]},
    "method": {"_target_": "torch.nn.Module.load_state_dict"},
    "class method": {"_target_": "lightbed.tasks.Classifier.load_from_checkpoint", "_args_": ["evil.ckpt"]},
    "dunder": {"_target_": "lightbed.models.cnn.CNN.__init__.__globals__"},
    "private module": {"_target_": "torchvision.models._api.get_model", "_args_": ["resnet18"]},
    "by name": {"_target_": "torchvision.models.get_model", "_args_": ["resnet18"], "weights": "DEFAULT"},
    "compiler": {"_target_": "torch.utils.cpp_extension.load_inline", "name": "x", "cpp_sources": "int main(){}"},
    "library": {"_target_": "torch.ops.load_library", "_args_": ["evil.so"]},
    "library's class": {"_target_": "torch.classes.load_library", "_args_": ["evil.so"]},
    "script": {"_target_": "torch.jit.load", "_args_": ["evil.pt"]},
    "loader": {"_target_": "torch.utils.data.DataLoader", "dataset": []},
    "launcher": {"_target_": "torch.distributed.run.main", "_args_": [["evil.py"]]},
    "hub model in a metric": {"_target_": "torchmetrics.text.bert.BERTScore", "model_name_or_path": "somebody/model"},
    "trainer": {"_target_": "lightning.pytorch.Trainer"},
    "Lightning's command line": {"_target_": "lightning.pytorch.cli.LightningCLI"},
    "Lightning's processes": {"_target_": "lightning.fabric.strategies.launchers.launcher._Launcher"},
    "processes": {"_target_": "torch.multiprocessing.spawn", "fn": {"_target_": "os.system", "_partial_": True}},
    "elastic launcher": {"_target_": "torch.distributed.launcher.api.elastic_launch"},
    "code runner": {"_target_": "torch.compile", "model": {"_target_": "os.system", "_partial_": True}},
    "code from a package": {"_target_": "torch.package.PackageImporter", "file_or_buffer": "evil.pt"},
    "weights of anywhere": {"_target_": "torch.utils.model_zoo.load_url", "url": "http://127.0.0.1/"},
    "importer": {"_target_": "importlib.import_module", "_args_": ["this"]},
    "hydra's class getter": {"_target_": "hydra.utils.get_class", "path": "os.system"},
    "a function of torch.nn": {"_target_": "torch.nn.utils.stateless.functional_call"},
    "caller of a function": {"_target_": "torch.optim.swa_utils.get_ema_multi_avg_fn"},
    "foreign package": {"_target_": "this.zen"},
    "foreign class": {"_target_": "timm.create_model", "model_name": "hf-hub:somebody/model"},
    "no name": {"_target_": ["os.system"]},
    "a dict for a name": {"_target_": {"_target_": "os.system"}},
    "a line break": {"_target_": "torch.nn.Linear\nos.system"},
    "trailing dot": {"_target_": "torch.nn."},
    "module": {"_target_": "torch.nn"},
    "unknown": {"_target_": "torch.nn.NoSuchThing"},
    "unknown special key": {"_target_": "torch.nn.ReLU", "_call_": "os.system"},
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_configs_are_refused_and_nothing_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for foreign in ("this", "timm", "hydra.utils"):
        monkeypatch.delitem(sys.modules, foreign, raising=False)
    with pytest.raises(UserError, match="trust=true") as caught:
        check_targets({"model": EVIL[name]}, "evil.ckpt")
    assert str(caught.value).startswith("evil.ckpt: model"), "the message names file and key"
    assert not list(tmp_path.iterdir()), "nothing was written"
    assert not {"this", "timm", "hydra.utils"} & set(sys.modules), "nothing foreign was imported"
    assert capfd.readouterr().out == ""


# -- whole files: nothing in them is run, whatever command opens them --------------------------------------------------

SHELL = {"_target_": "os.system", "_args_": ["touch {}"]}
PLACES = {
    "the model": ("model", SHELL),
    "a layer": ("model", {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.ReLU"}, SHELL]}),
    "the loss": ("task.loss", SHELL),
    "a metric": ("task.metrics", {"harm": {"_target_": "torch.hub.load", "_args_": ["{}", "x"], "source": "local"}}),
    "the optimizer": ("optimizer", {**SHELL, "_partial_": True}),
    "an optimizer's argument": ("optimizer.params", SHELL),
    "the schedule": ("scheduler.build", SHELL),
    "the data": ("data._target_", "torchvision.datasets.FakeData"),
    "the data's argument": ("data.root", SHELL),
    "a transform": ("data.transform", SHELL),
    "a transform that calls": ("data.transform", {"_target_": "torchvision.transforms.v2.Lambda", "lambd": SHELL}),
    "an augmentation": ("augment.batch", {"harm": SHELL}),
    "a callback": ("callbacks.harm", SHELL),
    "a callback of Lightning": ("callbacks.harm", {"_target_": "lightning.pytorch.callbacks.LambdaCallback"}),
    "another trainer": ("trainer._target_", "os.system"),
    "the trainer's plugins": ("trainer.plugins", [SHELL]),
    "the trainer's logger": ("trainer.logger", {"_target_": "builtins.exec", "_args_": ["open('{}', 'w')"]}),
    "the data's address": ("data.url", "http://127.0.0.1:9/secret"),
    "an unknown key": ("anything", [[{"deep": SHELL}]]),
    "a reference": ("seed", "${oc.env:HOME}"),
    "a reference in a path": ("paths.outputs", "${oc.decode:${oc.env:HOME}}"),
    "a reference that composes a name": ("model._target_", "${oc.select:name}.system"),
}


def hostile(config: dict[str, Any], place: str, canary: Path) -> dict[str, Any]:
    """The config with the harm that `place` says, which would make the canary file."""
    key, harm = PLACES[place]
    changed = json.loads(json.dumps(config))
    *parents, last = key.split(".")
    node = changed
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[last] = json.loads(json.dumps(harm).replace("{}", str(canary)))
    return changed


@pytest.fixture
def opened(digits_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Opens a hostile file by a command and sees that it is refused in one line."""

    def open_(command: str, *words: str) -> str:
        capfd.readouterr()
        places = [f"paths.outputs={tmp_path / 'outputs'}"]
        assert main([command, *words, *places]) == 2
        message = capfd.readouterr().err.strip()
        assert len(message.splitlines()) == 1, message
        assert not (tmp_path / "canary").exists(), "it was run"
        return message

    return open_


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_run_folder_is_refused(place: str, digits_run: Path, tmp_path: Path, opened: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, ignore=shutil.ignore_patterns("checkpoints", "events*"))
    config = hostile(yaml.safe_load((run / "config.yaml").read_text()), place, tmp_path / "canary")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    message = opened("rerun", f"run={run}")
    assert "config.yaml: " in message
    assert "trust=true" in message


class Harm:
    """What pickle calls when it reads one of these."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


TAGS = ["!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/object/apply:subprocess.run"]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml"])
def test_tags_of_yaml_are_refused(tag: str, name: str, digits_run: Path, tmp_path: Path, opened: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, ignore=shutil.ignore_patterns("checkpoints", "events*"))
    with (run / name).open("a") as file:
        file.write(f"harm: {tag} [touch {tmp_path / 'canary'}]\n" if name == "config.yaml" else f"- {tag} [x]\n")
    assert f"{name} is damaged or unsafe" in opened("rerun", f"run={run}")


@pytest.mark.parametrize("place", ["the model", "a layer", "the loss", "a metric", "a reference that composes a name"])
def test_a_hostile_config_in_a_checkpoint_is_refused(place: str, digits_run: Path, tmp_path: Path, opened: Any) -> None:
    content = torch.load(digits_run / "checkpoints" / "best.ckpt", weights_only=True)
    config = hostile(json.loads(content["lightbed"]["config_json"]), place, tmp_path / "canary")
    content["lightbed"]["config_json"] = json.dumps(config)
    torch.save(content, tmp_path / "evil.ckpt")
    assert "evil.ckpt: " in opened("test", f"run={tmp_path / 'evil.ckpt'}")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    assert "trust=true" in opened("predict", f"run={tmp_path / 'evil.ckpt'}", f"source={tmp_path / 'photo.png'}")


@pytest.mark.parametrize("place", ["the data", "the data's argument", "the data's address"])
def test_hostile_data_in_a_checkpoint_is_refused(place: str, digits_run: Path, tmp_path: Path, opened: Any) -> None:
    content = torch.load(digits_run / "checkpoints" / "best.ckpt", weights_only=True)
    config = hostile(json.loads(content["lightbed"]["config_json"]), place, tmp_path / "canary")
    content["lightbed"]["config_json"] = json.dumps(config)
    torch.save(content, tmp_path / "evil.ckpt")
    assert "trust=true" in opened("test", f"run={tmp_path / 'evil.ckpt'}")


CALLED = [eval, exec, functools.partial, torch.hub.load, torch.load]


@pytest.mark.parametrize(
    ("where", "function"),
    [
        *(("epoch", called) for called in CALLED),
        *((place, os.system) for place in ("state_dict", "lightbed", "everything")),
    ],
)
def test_pickles_that_call_are_refused(
    where: str, function: Any, digits_run: Path, tmp_path: Path, opened: Any
) -> None:
    """Whatever they call, and wherever in the file they stand; also with trust=true, which is about classes."""
    canary = tmp_path / "canary"
    text = f"touch {canary}" if function is os.system else f"open({str(canary)!r}, 'w')"
    args = (os.system, text) if function is functools.partial else (text,)
    content = torch.load(digits_run / "checkpoints" / "best.ckpt", weights_only=True)
    content = Harm(function, *args) if where == "everything" else {**content, where: Harm(function, *args)}
    torch.save(content, tmp_path / "evil.ckpt")
    for trust in ("false", "true") if where == "lightbed" else ("false",):
        message = opened("test", f"run={tmp_path / 'evil.ckpt'}", f"trust={trust}")
        assert "evil.ckpt cannot be read as a checkpoint" in message


def test_old_pickles_and_scripts_are_refused(digits_run: Path, tmp_path: Path, opened: Any) -> None:
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(Harm(os.system, f"touch {tmp_path / 'canary'}")))
    torch.save(
        Harm(os.system, f"touch {tmp_path / 'canary'}"), tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False
    )
    for name in ("old", "legacy"):
        assert f"{name}.ckpt cannot be read" in opened("test", f"run={tmp_path / name}.ckpt")


def test_a_whole_run_of_ours_is_trusted(digits_run: Path) -> None:
    check_config(yaml.safe_load((digits_run / "config.yaml").read_text()), "config.yaml")


@pytest.mark.parametrize("name", MODELS)
def test_the_catalogue_is_trusted(name: str) -> None:
    text = (CONF / "model" / f"{name}.yaml").read_text()
    node = yaml.safe_load(text.replace("${paths.cache}", "cache"))  # checkpoints have resolved configurations
    if "torchvision" in node.get("defaults", []):
        node = {**yaml.safe_load((CONF / "model" / "torchvision.yaml").read_text()), **node}
    check_targets({"model": node}, "a.ckpt")


@pytest.mark.parametrize(
    "target",
    [
        "lightbed.tasks.Classifier",
        "torch.nn.Linear",
        "torch.nn.modules.linear.Linear",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.OneCycleLR",
        "torchvision.models.resnet18",
        "torchvision.models.resnet.resnet18",
        "torchvision.models.detection.maskrcnn_resnet50_fpn",
        "torchvision.ops.FeaturePyramidNetwork",
        "torchmetrics.Accuracy",
        "torchmetrics.classification.MulticlassCalibrationError",
    ],
)
def test_networks_optimizers_and_metrics_are_trusted(target: str) -> None:
    check_targets({"part": [{"_target_": target, "_partial_": True}]}, "a.ckpt")


def test_a_caller_may_ask_for_other_classes() -> None:
    from lightbed.data.base import DataModule

    check_targets({"data": {"_target_": "lightbed.data.digits.Digits"}}, "a.ckpt", (DataModule,))
    with pytest.raises(UserError, match=r"data\._target_"):
        check_targets({"data": {"_target_": "lightbed.data.digits.Digits"}}, "a.ckpt", (nn.Module,))
    with pytest.raises(UserError, match="zoo"):
        check_targets({"data": {"_target_": "lightbed.models.zoo.classifier"}}, "a.ckpt", (DataModule,))
