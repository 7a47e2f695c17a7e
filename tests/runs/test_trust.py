"""Configs from somebody else's file: what is refused, without running or importing it, and what is not."""

import sys
from pathlib import Path

import pytest
import yaml
from torch import nn

from lightbed.errors import UserError
from lightbed.runs.trust import check_targets

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


@pytest.mark.parametrize("name", MODELS)
def test_the_catalogue_is_trusted(name: str) -> None:
    node = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
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
