"""From configs to objects: the notation, the facts of the data, and one line for each mistake."""

import inspect
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightbed import build, folders
from lightbed.build import Config
from lightbed.commands import train
from lightbed.data.digits import Digits
from lightbed.errors import UserError
from lightbed.make import locate, make, parameters
from lightbed.runs import sharded
from lightbed.tasks.optim import make_optimizer, make_scheduler

CONF = Path(__file__).parents[1] / "conf"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def config(*overrides: str) -> Config:
    """The resolved config of `lightbed train` with these overrides."""
    folders.register([])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build.resolve(compose("train", list(overrides)))


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits()
    data.setup()
    return data


# -- make --------------------------------------------------------------------------------------------------------------


def test_nodes_are_made_from_the_inside_out_with_plain_containers() -> None:
    made = make(
        {
            "_target_": "builtins.dict",
            "a": [1, {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}],
            "b": {"c": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}},
            "d": {"_target_": "builtins.tuple", "_args_": [[1, 2]]},
            "_convert_": "all",
        },
        "x",
        given=nn.ReLU,
    )
    assert type(made["a"]) is list
    assert made["a"][1].weight.shape == (3, 2)
    assert isinstance(made["b"]["c"], partial)
    assert made["b"]["c"].keywords == {"lr": 0.5}
    assert made["d"] == (1, 2)
    assert made["given"] is nn.ReLU


def test_nodes_inside_stay_configs_where_recursion_is_off() -> None:
    node = {"_target_": "builtins.dict", "_recursive_": False, "inner": {"_target_": "torch.nn.ReLU"}}
    assert make(node, "x")["inner"] == {"_target_": "torch.nn.ReLU"}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, r"^x needs a _target_"),
        (
            {"_target_": "torch.nn.Linaer"},
            r"^x\._target_=torch\.nn\.Linaer: torch\.nn has no Linaer: did you mean Linear",
        ),
        ({"_target_": "torch.nn.Linear.nope"}, r"torch\.nn\.Linear has no nope"),
        ({"_target_": "nowhere.Net"}, r"^x\._target_=nowhere\.Net: there is no package or module nowhere"),
        ({"_target_": "Net"}, "must be a dotted name"),
        ({"_target_": None}, "must be a dotted name"),
        ({"_target_": "torch.nn"}, "is a module, not a class or function"),
        ({"_target_": "torch.nn.ReLU", "_partial": True}, r"x\._partial: torch\.nn\.ReLU takes no argument _partial"),
        ({"_target_": "torch.nn.ReLU", "_part_": True}, r"x\._part_ is not known: did you mean _partial_"),
        ({"_target_": "torch.nn.Dropout", "prob": 1}, r"^x\.prob: torch\.nn\.Dropout takes no argument prob: .*p"),
        ({"_target_": "torch.optim.SGD", "_partial_": True, "momemtum": 1}, r"^x\.momemtum: .*did you mean momentum"),
        ({"_target_": "torch.nn.Linear", "in_features": 3}, r"^x: torch\.nn\.Linear cannot be made: TypeError.*out_f"),
        (
            {"_target_": "torch.nn.Linear", "in_features": "a", "out_features": 2},
            r"^x\.in_features=a: Linear takes a whole number",
        ),
        (
            {"_target_": "torch.nn.Dropout", "p": 3},
            r"^x: torch\.nn\.Dropout cannot be made: ValueError: dropout prob.* \(dropout\.py:\d+\)$",
        ),
        (
            {"_target_": "torch.nn.Sequential", "_args_": [[{"a": {"_target_": "torch.nn.Dropout", "q": 1}}]]},
            r"^x\._args_\[0\]\[0\]\.a\.q: ",
        ),
    ],
)
def test_mistakes_are_told_in_one_line_with_their_place(node: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(node, "x")
    assert "\n" not in str(caught.value)


def test_users_errors_pass_as_they_are() -> None:
    with pytest.raises(UserError, match=r"^data\.batch_size=0"):
        make({"_target_": "lightbed.data.digits.Digits", "batch_size": 0}, "data")


def test_arguments_that_a_class_hands_to_its_base_are_known() -> None:
    assert {"batch_size", "val_fraction"} <= set(parameters(Digits) or [])
    with pytest.raises(UserError, match=r"data\.batchsize: .*did you mean batch_size"):
        make({"_target_": "lightbed.data.digits.Digits", "batchsize": 3}, "data")
    assert parameters(dict) is None


def test_a_file_beside_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_build.py").write_text("import torch\nclass Net(torch.nn.Linear): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("mine_for_build.Net", "model._target_").__name__ == "Net"
    with pytest.raises(UserError, match="mine_for_build has no Nett: did you mean Net"):
        locate("mine_for_build.Nett", "model._target_")
    (tmp_path / "mine_broken.py").write_text("import numpyy\n")
    with pytest.raises(UserError, match="mine_broken needs the package numpyy, which is missing"):
        locate("mine_broken.Net", "model._target_")
    (tmp_path / "mine_wrong.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"mine_wrong cannot be imported: ZeroDivisionError.*\(mine_wrong\.py:1\)"):
        locate("mine_wrong.Net", "model._target_")


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # what Python itself does for a package that must not be found
    with pytest.raises(UserError, match=r"there is no package or module timm: pip install 'lightbed\[timm\]'"):
        locate("timm.create_model", "model._target_")


# -- facts of the data -------------------------------------------------------------------------------------------------


def test_facts_fill_auto(digits: Digits) -> None:
    found = build.with_facts(config("model=dnn"), digits)["model"]
    assert (found["in_features"], found["num_classes"]) == (64, 10)
    found = build.with_facts(config("model=timm"), digits)["model"]
    assert (found["in_chans"], found["num_classes"]) == (1, 10)
    found = build.with_facts(config("model=resnet18"), digits)["model"]
    assert (found["in_channels"], found["image_size"]) == (1, [8, 8])
    with pytest.raises(UserError, match=r"model\.hidden=auto:widths: the data knows .*num_classes.* not widths"):
        build.with_facts(config("model=dnn", "model.hidden=auto:widths"), digits)


class Net(nn.Module):
    """A user's network that asks for the number of classes alone."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.head = nn.Linear(width, num_classes)


def test_a_network_is_given_only_the_facts_that_it_asks_for(digits: Digits) -> None:
    mine = f"model._target_={__name__}.Net"
    found = build.with_facts(config("model=custom", mine, "+model.width=5"), digits)["model"]
    assert found == {"_target_": f"{__name__}.Net", "num_classes": 10, "width": 5}
    assert build.make_model({"model": found}).head.weight.shape == (10, 5)
    function = build.with_facts(config("model=custom", "model._target_=torchvision.models.resnet18"), digits)["model"]
    assert function == {"_target_": "torchvision.models.resnet18", "num_classes": 10}
    with pytest.raises(UserError, match=r"model\.channels: .*there is num_classes, width; model=custom begins without"):
        build.with_facts(config("model=cnn", mine), digits)


def test_a_model_that_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\._target_=builtins\.dict gives a dict, not an nn\.Module"):
        build.make_model({"model": {"_target_": "builtins.dict"}})


def test_balanced_weights_are_scikit_learns(digits: Digits) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    found = build.with_facts(config("task.class_weights=balanced"), digits)["task"]["class_weights"]
    labels = torch.cat([torch.full((int(n),), k) for k, n in enumerate(digits.class_counts())]).numpy()
    expected = compute_class_weight("balanced", classes=np.arange(10), y=labels)
    assert found == pytest.approx(expected.tolist())


def test_further_metrics_get_the_number_of_classes(digits: Digits) -> None:
    top = "{_target_: torchmetrics.classification.MulticlassAccuracy, num_classes: auto, top_k: 5}"
    filled = build.with_facts(config(f"task.metrics={{top5: {top}}}"), digits)
    task = build.make_task(filled, digits.classes, digits.preprocess)
    assert task.extra_metrics["top5"].num_classes == 10


def test_one_output_for_two_classes(digits: Digits) -> None:
    filled = build.with_facts(config("task.kind=binary"), digits)
    assert filled["model"]["num_classes"] == 1


def test_layers_without_shapes_take_them_from_a_first_image(digits: Digits) -> None:
    layers = "[{_target_: torch.nn.Flatten}, {_target_: torch.nn.LazyLinear, out_features: 'auto:num_classes'}]"
    words = ("model=custom", "model._target_=torch.nn.Sequential", f"+model._args_={layers}")
    task = train.make_task(build.with_facts(config(*words), digits), digits, {})
    assert task.model[1].weight.shape == (10, 64)  # type: ignore[index]
    assert task.model.training


# -- the parts of a run ------------------------------------------------------------------------------------------------


def named(group: str) -> list[str]:
    """Options of a group that name a class of their own."""
    return [name for name in options(group) if name != "custom"]


def test_any_optimizer_and_schedule_by_its_name(digits: Digits) -> None:
    words = [
        "optimizer=custom",
        "optimizer._target_=torch.optim.LBFGS",
        "optimizer.lr=0.5",
        "+optimizer.max_iter=3",
        "scheduler=custom",
        "scheduler.build._target_=torch.optim.lr_scheduler.PolynomialLR",
        "+scheduler.build.total_iters=auto:epochs",
    ]
    task = build.make_task(build.with_facts(config(*words), digits), digits.classes, digits.preprocess)
    made = make_optimizer(task.model, task.optimizer, None)  # type: ignore[arg-type]
    assert isinstance(made, torch.optim.LBFGS)
    assert (made.param_groups[0]["lr"], made.param_groups[0]["max_iter"]) == (0.5, 3)
    schedule = make_scheduler(task.scheduler, made, {"epochs": 7})  # type: ignore[arg-type]
    assert schedule.total_iters == 7
    with pytest.raises(UserError, match=r"please give optimizer\._target_=\.\.\."):
        config("optimizer=custom")


@pytest.mark.parametrize("optimizer", named("optimizer"))
@pytest.mark.parametrize("scheduler", named("scheduler"))
def test_every_optimizer_steps_with_every_schedule(optimizer: str, scheduler: str) -> None:
    parts = {group: yaml_node(group, name) for group, name in (("optimizer", optimizer), ("scheduler", scheduler))}
    weight = nn.Parameter(torch.ones(3))
    made = make(parts["optimizer"], "optimizer")([weight])
    if parts["scheduler"]["build"] is not None:
        facts = {"total_steps": 6, "epochs": 3, "mode": "min"}
        schedule: Any = make_scheduler(make(parts["scheduler"]["build"], "scheduler.build"), made, facts)
        assert isinstance(schedule, LRScheduler)
    for i in range(5):
        made.zero_grad()
        weight.square().sum().backward()
        made.step()
        if parts["scheduler"]["build"] is not None:
            schedule.step(*([float(i)] if isinstance(schedule, ReduceLROnPlateau) else []))
    assert (weight < 1).all()


def yaml_node(group: str, name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf  # its YAML reads 1e-3 as a number

    found: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("group", ["optimizer", "scheduler"])
def test_listed_keys_are_arguments_of_their_class(group: str) -> None:
    for name in named(group):
        node = yaml_node(group, name)
        node = node.get("build", node)
        if node is not None:
            takes = parameters(locate(node["_target_"], name)) or []
            assert set(node) - {"_target_", "_partial_"} <= set(takes), name


@pytest.mark.parametrize("name", [name for name in options("trainer") if name != "gpu"])
def test_every_trainer_is_made_with_all_its_keys(name: str, tmp_path: Path) -> None:
    node = config(f"trainer={name}")["trainer"]
    own = {"nan": "stop", "batch_size_on_oom": "stop"}  # the only ones that are ours, see `trainer.make_trainer`
    assert {key: node.pop(key) for key in own} == own
    node["strategy"] = sharded.make_strategy(node.get("strategy", "auto"))
    trainer = make({**node, "accelerator": "cpu"}, "trainer", default_root_dir=str(tmp_path), logger=False)
    assert set(node) - {"_target_"} <= set(inspect.signature(L.Trainer).parameters)
    assert trainer.max_epochs == node["max_epochs"]
    assert trainer.accumulate_grad_batches == node["accumulate_grad_batches"]
    assert trainer.gradient_clip_val == node["gradient_clip_val"]
    if name == "debug":
        assert (trainer.max_epochs, trainer.limit_train_batches, trainer.limit_test_batches) == (1, 2, 2)


def test_the_gpu_trainer_asks_for_one_gpu_and_mixed_precision() -> None:
    node = config("trainer=gpu")["trainer"]
    assert (node["accelerator"], node["devices"], node["precision"]) == ("gpu", 1, "bf16-mixed")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"^trainer: .*No supported gpu backend found"):
            make({key: value for key, value in node.items() if key not in ("nan", "batch_size_on_oom")}, "trainer")


def test_every_task_option_reaches_the_task(digits: Digits) -> None:
    overrides = {
        "kind": "multiclass",
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "aux_weight": 0.5,
        "average": "weighted",
        "monitor": "val/f1",
        "rates": "{features: 0.001}",
        "compile": "true",
        "channels_last": "true",
    }
    node = yaml.safe_load((CONF / "task" / "classifier.yaml").read_text())
    assert set(node) == {"_target_", "name", "metrics", *overrides}
    filled = build.with_facts(config(*(f"task.{key}={value}" for key, value in overrides.items())), digits)
    task: Any = build.make_task(filled, digits.classes, digits.preprocess)
    assert (task.label_smoothing, task.aux_weight, task.average, task.monitor) == (0.1, 0.5, "weighted", "val/f1")
    assert (task.rates, task.compiled, task.channels_last) == ({"features": 0.001}, True, True)
    assert task.class_weights.shape == (10,)
    assert task.model.features[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_checkpoints_network_is_built_without_fetching_weights(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    filled = build.with_facts(config("model=shufflenet_v2_x0_5", "model.weights=DEFAULT"), digits)
    with pytest.raises(UserError, match="cannot be reached"):
        build.make_task(filled, digits.classes, digits.preprocess)
    build.make_task(filled, digits.classes, digits.preprocess, training=False)
    assert filled["model"]["weights"] == "DEFAULT", "the config keeps what it says"


def test_what_must_be_given_is_named() -> None:
    with pytest.raises(UserError, match=r"please give model\._target_=\.\.\."):
        config("model=custom")
    with pytest.raises(UserError, match=r"please give model\.name=\.\.\."):
        config("model=torchvision")


def test_a_network_from_a_file_in_the_users_folder_trains(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, in_features, width=2):\n"
        "        layers = nn.Linear(in_features, width), nn.Linear(width, num_classes)\n"
        "        super().__init__(nn.Flatten(), *layers)\n"
    )
    words = ["model=custom", "model._target_=mine.Net", "+model.width=9", "trainer=debug", "trainer.accelerator=cpu"]
    script = Path(sys.executable).with_name("lightbed")  # unlike `python -m` it does not look into the folder
    done = subprocess.run(
        [script, "train", *words, "hydra.run.dir=run"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    weights = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert weights["model.1.weight"].shape == (9, 64)
