"""Learning rates by part, schedules with the run's own numbers."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from lightbed.errors import UserError
from lightbed.tasks import Classifier
from lightbed.tasks.optim import frozen_modules, make_optimizer, make_scheduler, parameter_groups


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3))
    model.head = nn.Linear(2, 3)
    model.features2 = nn.Linear(2, 2)  # a name that only begins alike
    return model


def sizes(groups: list[dict[str, Any]]) -> dict[str, tuple[float | None, int]]:
    return {g["name"]: (g.get("lr"), sum(p.numel() for p in g["params"])) for g in groups}


def test_one_group_without_rates() -> None:
    assert sizes(parameter_groups(net(), None)) == {"all": (None, sum(p.numel() for p in net().parameters()))}


def test_the_longest_prefix_wins_and_prefixes_end_at_dots() -> None:
    found = sizes(parameter_groups(net(), {"features": 0.001, "features.2": 0.01, "head": 0.1}))
    assert found == {
        "features": (0.001, 20 + 4),  # convolution 9 * 2 + 2, batch norm 2 + 2
        "features.2": (0.01, 38),
        "head": (0.1, 9),
        "rest": (None, 6),
    }


def test_a_rate_of_zero_freezes() -> None:
    model = net()
    optimizer = make_optimizer(model, partial(Adam, lr=0.5), {"features": 0, "features.2": 0.01})
    assert [(group["name"], group["lr"]) for group in optimizer.param_groups] == [("features.2", 0.01), ("rest", 0.5)]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        *("features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias")
    ]
    frozen = {id(module) for module in frozen_modules(model, {"features": 0, "features.2": 0.01})}
    assert frozen == {id(model.features), id(model.features[0]), id(model.features[1])}


def test_a_task_freezes_before_its_processes_agree_on_gradients() -> None:
    task = Classifier(net(), 3, rates={"features": 0, "head": 0.1})
    assert all(parameter.requires_grad for parameter in task.parameters())
    task.configure_model()
    assert {name.split(".")[1] for name, p in task.named_parameters() if p.requires_grad} == {"head", "features2"}


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"backbone": 0.1}, r"task.rates names \['backbone'\].*\['features', 'head', 'features2'\]"),
        ({"head": -1}, "task.rates.head=-1 must be 0 or more"),
        ({"head": 0, "features": 0, "features2": 0}, "freezes the whole model"),
    ],
)
def test_wrong_rates_are_told(rates: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parameter_groups(net(), rates)


def test_wrong_arguments_of_optimizers_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match="optimizer: Invalid learning rate: -1"):
        make_optimizer(net(), partial(Adam, lr=-1), None)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, RMSprop])
def test_rates_reach_the_weights(kind: type) -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, partial(kind, lr=0.1, weight_decay=0.1), {"features": 0, "head": 0.001})
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.state_dict().items()}
    assert all(moved[name] == 0 for name in moved if name.startswith("features."))
    assert 0 < moved["head.weight"] < 0.05 < moved["features2.weight"]


def rates_over(schedule: Any, optimizer: Any, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


def test_one_cycle_peaks_at_each_groups_own_rate() -> None:
    optimizer = make_optimizer(net(), partial(SGD, lr=0.1, momentum=0.9), {"features": 0.001, "head": 0.5})
    scheduler = partial(OneCycleLR, max_lr="auto", total_steps="auto")
    found = rates_over(make_scheduler(scheduler, optimizer, {"total_steps": 20}), optimizer, 20)
    peaks = [max(column) for column in zip(*found, strict=True)]
    assert peaks == pytest.approx([0.001, 0.5, 0.1])
    plain = make_optimizer(net(), partial(SGD, lr=0.1, momentum=0.9), None)
    expected = rates_over(OneCycleLR(plain, max_lr=0.1, total_steps=20), plain, 20)
    assert [row[2] for row in found] == pytest.approx([row[0] for row in expected])


def test_one_cycle_with_one_number_for_several_groups_is_refused() -> None:
    optimizer = make_optimizer(net(), partial(SGD, lr=0.1), {"head": 0.5})
    with pytest.raises(UserError, match=r"max_lr=0\.3 would give all parts.*leave it auto"):
        make_scheduler(partial(OneCycleLR, max_lr=0.3, total_steps=5), optimizer, {})


def test_auto_is_filled_in() -> None:
    optimizer = make_optimizer(net(), partial(SGD, lr=0.1), None)
    schedule = make_scheduler(partial(CosineAnnealingLR, T_max="auto:total_steps"), optimizer, {"total_steps": 7})
    assert schedule.T_max == 7
    plateau = make_scheduler(partial(ReduceLROnPlateau, mode="auto"), optimizer, {"mode": "max"})
    assert plateau.mode == "max"


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            partial(CosineAnnealingLR, T_max="auto"),
            "T_max=auto: the run knows max_lr, total_steps by itself, not T_max",
        ),
        (partial(CosineAnnealingLR, T_max="auto:total_steps"), "needs an end of training: set trainer.max_epochs"),
        (partial(StepLR, gamma=0.1), "scheduler.build: .*step_size"),
        (partial(ReduceLROnPlateau, factor=2), "scheduler.build: Factor should be < 1.0"),
    ],
)
def test_wrong_schedules_are_told_in_one_line(scheduler: Any, message: str) -> None:
    optimizer = make_optimizer(net(), partial(SGD, lr=0.1), None)
    with pytest.raises(UserError, match=message):
        make_scheduler(scheduler, optimizer, {"total_steps": None})
