"""Parts that begin to train later: weights, statistics, and what is wrong with their names."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset

from lightbed.callbacks.unfreezing import Unfreezing
from lightbed.errors import UserError
from lightbed.tasks import Classifier


class Watch(L.Callback):
    """Notes all weights and statistics at the start of each epoch, and at the end."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    on_train_end = on_train_epoch_start


def fit(folder: Path, parts: dict[str, Any], rates: dict[str, float] | None = None) -> list[dict[str, torch.Tensor]]:
    images = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), 4)
    net = nn.Sequential()
    net.trunk = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    net.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    task, watch = Classifier(net, 2, optimizer=partial(AdamW, lr=0.1, weight_decay=0.1), rates=rates), Watch()
    trainer = L.Trainer(
        max_epochs=4, default_root_dir=folder, callbacks=[Unfreezing(parts), watch], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, data, data)
    return watch.seen


def test_a_part_stays_until_its_epoch_and_trains_from_then_on(tmp_path: Path) -> None:
    first = {"trunk.0": 2, "trunk.1": 1, "head": 0}
    seen = fit(tmp_path, {"trunk": 2, "trunk.1": 1})
    for epoch in range(4):
        for name, before in seen[epoch].items():
            part = next(part for part in first if name.startswith(part))
            moved = not torch.equal(before, seen[epoch + 1][name])
            assert moved == (epoch >= first[part]), f"{name} in epoch {epoch}"


@pytest.mark.parametrize(
    ("parts", "rates", "said"),
    [
        ({"trnk": 1}, None, r"names trnk, but the model's parts are \['trunk', 'head'\]"),
        ({"trunk": -1}, None, "trunk=-1 must be an epoch"),
        ({"trunk": 1.5}, None, "trunk=1.5 must be an epoch"),
        ({"trunk.0": 1}, {"trunk": 0.0}, "a rate of 0 in task.rates freezes it for good"),
    ],
)
def test_wrong_parts_are_told(tmp_path: Path, parts: dict[str, Any], rates: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fit(tmp_path, parts, rates)
