"""The moving average of weights: its formula, and where it is what counts."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightbed.callbacks.checkpoint import Checkpoints
from lightbed.callbacks.ema import Ema
from lightbed.errors import UserError
from lightbed.tasks import Classifier

STEPS = 6


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4 * STEPS, 1, 4, 4, generator=generator)
    return DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), 4)


class Watch(L.Callback):
    """Notes the weights at the beginning and after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def note(self, model: nn.Module) -> None:
        self.seen.append({name: value.clone() for name, value in model.state_dict().items()})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.note(pl_module.model)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.note(pl_module.model)


def fit(folder: Path, ema: Ema, *more: L.Callback) -> tuple[Classifier, L.Trainer, Watch]:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    task, watch = Classifier(net, 2, optimizer=partial(SGD, lr=0.3)), Watch()
    task.provenance = {"config_json": "{}"}
    trainer = L.Trainer(
        max_epochs=2, default_root_dir=folder, callbacks=[watch, ema, *more], logger=False, accelerator="cpu",
        enable_checkpointing=bool(more), enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, loader(), loader())
    return task, trainer, watch


@pytest.mark.parametrize(("every", "warmup"), [(1, False), (3, False), (1, True)])
def test_it_is_the_exponential_average(tmp_path: Path, every: int, warmup: bool) -> None:
    task, _, watch = fit(tmp_path, Ema(0.8, every, warmup))
    average = dict(watch.seen[0])
    for step, weights in enumerate(watch.seen[1:], 1):
        if step % every == 0:
            decay = min(0.8, (1 + step) / (10 + step)) if warmup else 0.8
            for name, value in weights.items():
                average[name] = decay * average[name] + (1 - decay) * value if value.is_floating_point() else value
    assert len(watch.seen) == 2 * STEPS + 1
    for name, value in task.model.state_dict().items():
        torch.testing.assert_close(value, average[name], msg=name)
        if value.is_floating_point():
            assert not torch.equal(value, watch.seen[-1][name]), "the average, not the weights"


def test_weights_that_share_their_memory_go_on_as_they_were_after_a_validation(tmp_path: Path) -> None:
    layer = nn.Linear(16, 16)
    task = Classifier(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer), 16, optimizer=partial(SGD, lr=0.3))
    watch, ema = Watch(), Ema(0.8)
    trainer = L.Trainer(
        max_epochs=1, default_root_dir=tmp_path, callbacks=[watch, ema], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, loader(), loader())
    average = {name: value.clone() for name, value in task.model.state_dict().items()}
    ema._swap(task.model)  # as at the end of a validation
    assert not torch.equal(average["1.weight"], watch.seen[-1]["1.weight"])
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, watch.seen[-1][name]), name


def test_validation_checkpoint_and_what_follows_have_the_average(tmp_path: Path) -> None:
    saved = Checkpoints("val/loss", "min")
    task, trainer, watch = fit(tmp_path, Ema(0.8), saved)
    last = torch.load(saved.path(trainer, "last"), weights_only=True)
    for name, value in task.model.state_dict().items():
        assert torch.equal(last["state_dict"][f"model.{name}"], value)
        assert torch.equal(last["trained"][f"model.{name}"], watch.seen[-1][name])
    logged = trainer.callback_metrics["val/loss"].item()
    assert trainer.validate(task, loader(), verbose=False)[0]["val/loss"] == logged
    best = trainer.validate(task, loader(), ckpt_path=saved.path(trainer, "best"), weights_only=True, verbose=False)
    assert best[0]["val/loss"] == pytest.approx(saved.best)


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": 0.0}, {"every_n_steps": 0}])
def test_wrong_settings(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=f"callbacks.ema.{name}={value}"):
        Ema(**options)
