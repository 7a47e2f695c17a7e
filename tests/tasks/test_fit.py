"""Tasks in a plain Lightning Trainer, as a library user has them: options that show only in training."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightbed.errors import UserError
from lightbed.tasks import Classifier
from lightbed.transforms.preprocess import Preprocess

COUNT, CLASSES = 40, 3


def images_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
    return torch.randn(COUNT, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1), labels


class Dicts(Dataset[Any]):
    """Samples with a target dict."""

    def __init__(self) -> None:
        self.images, self.labels = images_and_labels()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return self.images[index], {"label": self.labels[index]}


def loader(batch_size: int = 10, *, dicts: bool = False) -> DataLoader[Any]:
    return DataLoader(Dicts() if dicts else TensorDataset(*images_and_labels()), batch_size)


def net(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential()
    model.features, model.head = nn.Sequential(*layers), nn.Linear(64, CLASSES)
    return model


def fit(task: L.LightningModule, folder: Path, epochs: int = 1, data: Any = None, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "log_every_n_steps": 1}
    options = {"enable_checkpointing": False, "accelerator": "cpu", "devices": 1, **quiet, **options}
    trainer = L.Trainer(max_epochs=epochs, default_root_dir=folder, **options)
    trainer.fit(task, data or loader(), loader(20))
    return trainer


class Watch(L.Callback):
    """Notes the rates and the gradient's norm at each step of the optimizer."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.norms: list[float] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.norms.append(torch.cat([g.flatten() for g in grads]).norm().item())

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.mark.parametrize("dicts", [False, True])
def test_a_plain_trainer_and_loader_are_enough(tmp_path: Path, dicts: bool) -> None:
    task = Classifier(net(), num_classes=CLASSES, optimizer=partial(Adam, lr=1e-2))
    best = ModelCheckpoint(tmp_path, "best", monitor="val/accuracy", mode="max")
    trainer = fit(task, tmp_path, 8, loader(dicts=dicts), callbacks=[best], enable_checkpointing=True)
    assert trainer.callback_metrics["val/accuracy"] > 0.8
    names = {"loss", "accuracy", "precision", "recall", "f1"}
    assert {f"{stage}/{name}" for stage in ("train", "val") for name in names} <= set(trainer.callback_metrics)
    content = torch.load(best.best_model_path, weights_only=True)
    again = Classifier(net(), num_classes=CLASSES)
    again.load_state_dict(content["state_dict"])
    found = trainer.validate(again, loader(20), verbose=False)[0]
    assert found["val/accuracy"] == pytest.approx(best.best_model_score.item())
    assert content["lightbed"]["classes"] == ["0", "1", "2"]


def test_training_is_the_plain_loop(tmp_path: Path) -> None:
    task = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.05))
    trainer = fit(task, tmp_path, 3)
    model = net()
    optimizer = SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        losses = []
        for images, labels in loader():
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    for one, other in zip(task.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(sum(losses) / len(losses))


def test_two_accumulated_batches_are_one_of_double_size(tmp_path: Path) -> None:
    pairs = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1))
    double = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1))
    fit(pairs, tmp_path, 2, loader(5), accumulate_grad_batches=2)
    fit(double, tmp_path, 2, loader(10))
    for one, other in zip(pairs.parameters(), double.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    free, bound = Watch(), Watch()
    fit(Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.01)), tmp_path, callbacks=[free])
    task = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.01))
    fit(task, tmp_path, callbacks=[bound], gradient_clip_val=0.05, gradient_clip_algorithm="norm")
    assert min(free.norms) > 0.05
    assert bound.norms == pytest.approx([0.05] * len(bound.norms), rel=1e-4)


@pytest.mark.parametrize(
    ("scheduler", "interval", "rate"),
    [
        (partial(StepLR, step_size=2, gamma=0.1), "epoch", lambda i: 0.1 * 0.1 ** (i // 4 // 2)),
        (
            partial(CosineAnnealingLR, T_max="auto:total_steps"),
            "step",
            lambda i: 0.05 * (1 + torch.tensor(i / 16 * torch.pi).cos().item()),
        ),
    ],
)
def test_schedules_move_as_their_formulas_say(tmp_path: Path, scheduler: Any, interval: str, rate: Any) -> None:
    watch = Watch()
    optimizer = partial(SGD, lr=0.1)
    task = Classifier(net(), CLASSES, optimizer=optimizer, scheduler=scheduler, interval=interval)
    fit(task, tmp_path, 4, callbacks=[watch])
    assert [row[0] for row in watch.rates] == pytest.approx([rate(i) for i in range(16)], abs=1e-7)


def test_one_cycle_over_accumulated_steps_ends_at_the_last(tmp_path: Path) -> None:
    watch = Watch()
    scheduler = partial(OneCycleLR, max_lr="auto", total_steps="auto")
    options = {"optimizer": partial(SGD, lr=0.1, momentum=0.9), "rates": {"features": 0.01, "head": 0.2}}
    task = Classifier(net(), CLASSES, scheduler=scheduler, interval="step", **options)
    fit(task, tmp_path, 5, accumulate_grad_batches=2, callbacks=[watch])
    plain = SGD([nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
    expected, schedule = [], OneCycleLR(plain, max_lr=0.2, total_steps=10)
    for _ in range(10):
        expected.append(plain.param_groups[0]["lr"])
        plain.step()
        schedule.step()
    assert [row[1] for row in watch.rates][::2] == pytest.approx(expected)
    assert [row[0] for row in watch.rates] == pytest.approx([row[1] / 20 for row in watch.rates])


@pytest.mark.parametrize("monitor", ["val/loss", "train/loss"])
def test_plateau_follows_the_monitored_value(tmp_path: Path, monitor: str) -> None:
    scheduler = partial(ReduceLROnPlateau, mode="auto", factor=0.5, patience=0, threshold=10.0)  # never good enough
    task = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1), scheduler=scheduler, monitor=monitor)
    watch = Watch()
    trainer = fit(task, tmp_path, 4, callbacks=[watch])
    assert [row[0] for row in watch.rates][::4] == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    schedule = trainer.lr_scheduler_configs[0].scheduler
    assert (schedule.mode, schedule.last_epoch) == ("min", 4)


def test_plateau_waits_for_the_next_validation(tmp_path: Path) -> None:
    scheduler = partial(ReduceLROnPlateau, mode="auto", factor=0.5, patience=0, threshold=10.0)
    task = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1), scheduler=scheduler)
    trainer = fit(task, tmp_path, 4, check_val_every_n_epoch=2)
    schedule = trainer.lr_scheduler_configs[0].scheduler
    assert (schedule.mode, schedule.last_epoch) == ("max", 2)


def test_a_monitored_name_that_is_not_there_is_told(tmp_path: Path) -> None:
    scheduler = partial(ReduceLROnPlateau, mode="auto")
    task = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1), scheduler=scheduler, monitor="val/acuracy")
    with pytest.raises(UserError, match=r"task\.monitor=val/acuracy is not logged: did you mean val/accuracy"):
        fit(task, tmp_path)


def test_a_frozen_part_stays_with_its_statistics(tmp_path: Path) -> None:
    task = Classifier(net(norm=True), CLASSES, optimizer=partial(SGD, lr=0.1), rates={"features": 0})
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    trainer = fit(task, tmp_path, 2)
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("features."), name
    assert [group["name"] for group in trainer.optimizers[0].param_groups] == ["rest"]


def test_mixed_precision_trains_with_full_losses(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    task = Classifier(net(), CLASSES, optimizer=partial(Adam, lr=1e-2), class_weights=[1, 2, 1])
    task.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer = fit(task, tmp_path, 8, precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16}, "the network computes in half precision"
    assert trainer.callback_metrics["val/accuracy"] > 0.8
    assert trainer.callback_metrics["val/loss"].dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in task.parameters())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_true_precisions_train(tmp_path: Path, precision: str) -> None:
    task = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.05), class_weights=[1, 2, 1])
    assert fit(task, tmp_path, 2, precision=precision).callback_metrics["val/loss"].isfinite()


def test_channels_last_reaches_the_network_and_changes_no_value(tmp_path: Path) -> None:
    layouts: list[bool] = []
    found = []
    for wanted in (False, True):
        task = Classifier(net(norm=True), CLASSES, optimizer=partial(SGD, lr=0.05), channels_last=wanted)
        task.model[0][1].register_forward_hook(
            lambda m, inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
        )
        fit(task, tmp_path, 2)
        found.append(task.state_dict())
        assert all(layouts) is wanted
        layouts.clear()
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_training_gives_the_same_weights_under_the_same_names(tmp_path: Path) -> None:
    found = []
    for wanted in (False, True):
        task = Classifier(net(norm=True), CLASSES, optimizer=partial(SGD, lr=0.05), compile=wanted)
        fit(task, tmp_path, 2)
        assert (task.model._compiled_call_impl is not None) is wanted
        found.append(task.state_dict())
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)


def test_further_metrics_are_logged_beside_the_tasks_own(tmp_path: Path) -> None:
    metrics = {"top2": MulticlassAccuracy(CLASSES, top_k=2, average="micro")}
    task = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.01), metrics=metrics, monitor="val/top2")
    logged = fit(task, tmp_path).callback_metrics
    with torch.no_grad():
        images, labels = images_and_labels()
        hits = task.model(images).topk(2).indices.eq(labels[:, None]).any(1).float().mean()
    assert logged["val/top2"].item() == pytest.approx(hits.item())
    assert {"train/top2", "val/accuracy"} <= set(logged)


def test_values_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    task = Classifier(net(), CLASSES)
    trainer = fit(Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1)), tmp_path)
    found = [trainer.test(task, loader(size), verbose=False)[0] for size in (7, 40)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    with torch.no_grad():
        images, labels = images_and_labels()
        assert found[0]["test/loss"] == pytest.approx(F.cross_entropy(task.model(images), labels).item(), rel=1e-5)
    assert task.curve.counts.sum() == COUNT * CLASSES


def test_whole_numbers_need_preprocessing(tmp_path: Path) -> None:
    images, labels = images_and_labels()
    whole = DataLoader(TensorDataset((images * 20 + 100).clamp(0, 255).to(torch.uint8), labels), 10)
    with pytest.raises(UserError, match=r"images are torch\.uint8: give floating point, or .*preprocess"):
        fit(Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1)), tmp_path, data=whole)
    task = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1), preprocess=Preprocess(1, 6, 0.5, 0.5))
    fit(task, tmp_path, data=whole)


def test_missing_parts_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="built without an optimizer"):
        fit(Classifier(net(), CLASSES), tmp_path)
    scheduler = partial(OneCycleLR, max_lr="auto", total_steps="auto")
    endless = Classifier(net(), CLASSES, optimizer=partial(SGD, lr=0.1), scheduler=scheduler)
    with pytest.raises(UserError, match=r"set trainer\.max_epochs"):
        fit(endless, tmp_path, -1)
