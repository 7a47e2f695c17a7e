"""The detector's step, losses in evaluation, predictions, threshold, frozen parts."""

from functools import partial
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from lightbed.data.digit_scenes import DigitScenes
from lightbed.errors import UserError
from lightbed.models.cnn import CNN
from lightbed.models.fast_rcnn import FastRCNN
from lightbed.models.fcos import FCOS
from lightbed.models.rcnn import FasterRCNN, MaskRCNN
from lightbed.models.rcnn_2014 import RCNN
from lightbed.models.retinanet import RetinaNet
from lightbed.models.ssd import SSDLite
from lightbed.tasks import Detector
from lightbed.tasks.judging import losses_and_detections, shared
from lightbed.transforms.preprocess import Preprocess

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
LIGHT: dict[str, Any] = {"backbone": "mobilenet_v3_small", "pyramid_channels": 32}
REGIONS: dict[str, Any] = {
    **LIGHT,
    "levels": [1, 2],
    "anchor_sizes": [[12], [24], [48]],
    "representation_size": 16,
    "rpn_post_nms_top_n_train": 50,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size_per_image": 16,
}
PLAIN: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3, "proposals": {"engine": "own", "width": 32, "most": 12}}


def settled() -> RCNN:
    """An R-CNN whose SVMs, all weights 0, are half sure of everything."""
    sizes = {"crop_size": 8, "context": 1, "box_grid": 2, "box_batch_size_per_image": 4}
    network = RCNN(3, classifier=CNN(3, 2, [4]), **PLAIN, **sizes, box_score_thresh=0.0)
    network.second.settled.fill_(1)
    return network


NETWORKS = {
    "rcnn": settled,
    "fast_rcnn": lambda: FastRCNN(
        3, backbone="mobilenet_v3_small", level=1, representation_size=16, **PLAIN, box_score_thresh=0.0
    ),
    "faster_rcnn": lambda: FasterRCNN(3, **REGIONS, box_score_thresh=0.0),
    "mask_rcnn": lambda: MaskRCNN(3, **REGIONS, box_score_thresh=0.0, mask_layers=[16], mask_dim_reduced=8),
    "retinanet": lambda: RetinaNet(3, **LIGHT, levels=[1, 2, 3], score_thresh=0.0),
    "fcos": lambda: FCOS(
        3, **{**LIGHT, "pyramid_channels": 64}, levels=[1, 2, 3], strides=[4, 8, 16, 32, 64], score_thresh=0.0
    ),
    "ssdlite": lambda: SSDLite(3, size=[96, 96], score_thresh=0.0),
}
LOSSES = {
    "rcnn": {"classifier"},
    "fast_rcnn": {"classifier", "box_reg"},
    "faster_rcnn": {"classifier", "box_reg", "objectness", "rpn_box_reg"},
    "mask_rcnn": {"classifier", "box_reg", "objectness", "rpn_box_reg", "mask"},
    "retinanet": {"classification", "bbox_regression"},
    "fcos": {"classification", "bbox_regression", "bbox_ctrness"},
    "ssdlite": {"classification", "bbox_regression"},
}


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes; the first has two objects and a crowd, the second has none."""
    torch.manual_seed(0)
    images = [torch.randn(3, 64, 80), torch.randn(3, 72, 64)]
    boxes = torch.tensor([[4.0, 8.0, 40.0, 50.0], [30.0, 10.0, 60.0, 44.0], [0.0, 0.0, 80.0, 64.0]])
    masks = torch.zeros(3, 64, 80, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    crowd = torch.tensor([False, False, True])
    full = {"boxes": boxes, "labels": torch.tensor([0, 2, 1]), "masks": masks, "crowd": crowd}
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 72, 64, dtype=torch.bool),
        "crowd": torch.zeros(0, dtype=torch.bool),
    }
    return images, [full, empty]


@pytest.fixture(scope="module", params=NETWORKS)
def task(request: pytest.FixtureRequest) -> Detector:
    torch.manual_seed(0)
    made = Detector(NETWORKS[request.param](), 3)
    made.kind = request.param
    return made


def first_part(model: nn.Module) -> nn.Module:
    return getattr(model, "backbone", None) or model.classifier


def test_training_gives_losses_by_name_and_no_predictions(task: Detector) -> None:
    step = task.train().step(batch(), "train")
    assert set(step.losses) == LOSSES[task.kind]
    assert step.predictions is None
    total = torch.stack(list(step.losses.values())).sum()
    assert total.isfinite()
    total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in first_part(task.model).parameters())


def test_losses_in_evaluation_are_those_of_training_with_still_norms(task: Detector) -> None:
    """To the bit: with the same draws, which proposals are sampled included."""
    images, targets = batch()
    objects = [task.objects(target) for target in targets]
    losses, _ = losses_and_detections(task.model, images, objects)
    task.model.train()
    for part in task.model.modules():
        if isinstance(part, nn.BatchNorm2d | nn.Dropout):
            part.eval()
    with torch.no_grad():
        torch.manual_seed(0)
        expected = task.model(images, objects)
    assert {name: float(value) for name, value in losses.items()} == {k: float(v) for k, v in expected.items()}


def test_predictions_of_a_step_are_those_of_predict(task: Detector) -> None:
    images, targets = batch()
    step = task.eval().step((images, targets), "val")
    assert step.targets is targets
    for found, alone in zip(step.predictions, task.predict(images), strict=True):
        assert found.keys() == alone.keys()
        assert all(torch.equal(found[name], alone[name]) for name in found)
        assert found["labels"].dtype == torch.int64
        assert ((found["labels"] >= 0) & (found["labels"] < 3)).all()
    if task.kind == "mask_rcnn":
        assert [one["masks"].shape[1:] for one in step.predictions] == [(64, 80), (72, 64)]
        assert step.predictions[0]["masks"].dtype == torch.bool


def test_evaluation_leaves_weights_statistics_modes_and_chance_alone(task: Detector) -> None:
    task.eval()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    modes = [part.training for part in task.model.modules()]
    state = torch.get_rng_state()
    task.step(batch(), "val")
    assert all(torch.equal(before[name], value) for name, value in task.model.state_dict().items())
    assert [part.training for part in task.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_the_backbone_and_the_search_run_once(task: Detector) -> None:
    calls: list[str] = []
    parts = {name: part for name in ("backbone", "proposals") if (part := getattr(task.model, name, None))}
    handles = [part.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, part in parts.items()]
    task.step(batch(), "test")
    for handle in handles:
        handle.remove()
    assert sorted(calls) == sorted(parts)
    assert parts
    with shared(task.model):
        pass
    assert "Remembered" not in {type(part).__name__ for part in task.model.modules()}


def test_objects_have_labels_from_one_on_and_no_crowds_or_boxes_without_area(task: Detector) -> None:
    _, (full, empty) = batch()
    found = task.objects(full)
    assert found["labels"].tolist() == [1, 3]
    assert torch.equal(found["boxes"], full["boxes"][:2])
    assert ("masks" in found) == (task.kind == "mask_rcnn")
    assert len(task.objects(empty)["boxes"]) == 0
    flat = {
        "boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0], [float("nan")] * 4, [1.0, 1.0, 2.0, 2.0]]),
        "labels": torch.arange(3),
    }
    if task.kind != "mask_rcnn":
        assert task.objects(flat)["labels"].tolist() == [3]


class Fixed(nn.Module):
    """Finds what it was made with, and has a loss of 2 for each box that it is shown."""

    def __init__(self, *found: dict[str, Tensor]) -> None:
        super().__init__()
        self.found = list(found)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if not self.training:
            return self.found[: len(images)]
        return {"loss_boxes": 2 * self.weight * sum(len(target["boxes"]) for target in targets)}


def test_what_a_network_calls_background_is_left_out() -> None:
    found = {"boxes": torch.rand(3, 4), "labels": torch.tensor([2, 0, 1]), "scores": torch.tensor([0.9, 0.8, 0.7])}
    (seen,) = Detector(Fixed(found), 2).predict(torch.zeros(1, 3, 8, 8))
    assert seen["labels"].tolist() == [1, 0]
    assert seen["scores"].tolist() == pytest.approx([0.9, 0.7])


def test_networks_that_are_not_torchvisions_have_losses_in_evaluation_too() -> None:
    found = {"boxes": torch.rand(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    step = Detector(Fixed(found, found), 3).step(batch(), "val")
    assert {name: float(value) for name, value in step.losses.items()} == {"boxes": 4.0}


def scenes(**options: Any) -> DigitScenes:
    counts = {"train": 32, "val": 16, "test": 16}
    return DigitScenes(images=counts, targets=["boxes", "labels"], batch_size=8, **options)


def test_a_model_can_be_used_without_configs_and_learns() -> None:
    torch.manual_seed(0)
    network = FasterRCNN(10, **{**REGIONS, "norm_pyramid": True, "anchor_ratios": [1.0, 2.0]})
    data = scenes()
    digits = [str(digit) for digit in range(10)]
    optimizer = partial(Adam, lr=0.003)
    task = Detector(network, 10, classes=digits, preprocess=data.preprocess, optimizer=optimizer)
    trainer = L.Trainer(max_epochs=6, accelerator="cpu", num_sanity_val_steps=0, **QUIET)
    trainer.fit(task, datamodule=data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"train/loss", "train/loss_objectness", "val/loss_classifier", "val/map", "val/map_50"} <= logged.keys()
    assert "train/map" not in logged
    parts = [logged[f"train/loss_{name}"] for name in LOSSES["faster_rcnn"]]
    assert logged["train/loss"] == pytest.approx(sum(parts), rel=1e-4)
    assert logged["train/loss"] < 2.5  # 3.1 at the beginning
    (found,) = trainer.test(task, datamodule=data, verbose=False)
    assert found["test/recall"] >= 0
    assert any(name.startswith("test/map/") for name in found)
    assert not any(name.startswith("val/map/") for name in logged)


class Sure(Fixed):
    """Finds the first scene's digits, its own scores, and one digit that is not there."""

    def __init__(self, boxes: Tensor, labels: Tensor) -> None:
        scores = torch.linspace(0.9, 0.8, len(boxes) + 1)
        more = torch.cat([boxes, torch.tensor([[0.0, 0.0, 3.0, 3.0]])])
        super().__init__({"boxes": more, "labels": torch.cat([labels, labels[:1]]) + 1, "scores": scores})


def test_the_threshold_is_chosen_on_validation_saved_and_used_in_the_test() -> None:
    data = scenes()
    data.images = {"train": 4, "val": 1, "test": 1}
    data.setup()
    target = data.splits["val"][0][1]
    network = Sure(torch.as_tensor(target["boxes"]), target["labels"])
    task = Detector(network, 10, preprocess=data.preprocess, optimizer=partial(SGD, lr=0.0))
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, **QUIET)
    trainer.fit(task, datamodule=data)
    lowest_right = float(network.found[0]["scores"][-2])
    assert float(task.threshold) == pytest.approx(lowest_right)
    assert float(task.state_dict()["threshold"]) == pytest.approx(lowest_right)
    trainer.test(task, datamodule=data, verbose=False)
    assert task.metric("test").threshold == pytest.approx(lowest_right)
    assert f"score from {lowest_right:.2f}" in task.averaging("f1")


@pytest.mark.parametrize("part", ["backbone", "roi_heads", "rpn"])
def test_a_frozen_part_stays_and_the_others_still_get_their_gradients(part: str) -> None:
    torch.manual_seed(0)
    data = scenes()
    network = FasterRCNN(10, **REGIONS)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    task = Detector(network, 10, preprocess=data.preprocess, optimizer=partial(SGD, lr=0.01), rates={part: 0.0})
    limits = {"limit_train_batches": 1, "limit_val_batches": 0}
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, **limits, **QUIET)
    trainer.fit(task, datamodule=data)
    same = {name for name, value in network.state_dict().items() if torch.equal(before[name], value)}
    frozen = {name for name in before if name.startswith(f"{part}.")}
    assert frozen <= same
    moved = {name.split(".")[0] for name in before.keys() - same}
    assert moved == {"backbone", "rpn", "roi_heads"} - {part}
    assert len([name for name in trainer.callback_metrics if name.startswith("train/loss_")]) == 4


@pytest.mark.parametrize("name", ["faster_rcnn", "fcos"])
def test_a_network_that_has_diverged_finds_nothing_and_does_not_fail(name: str) -> None:
    torch.manual_seed(0)
    task = Detector(NETWORKS[name](), 3)
    with torch.no_grad():
        for weight in task.model.parameters():
            weight.fill_(float("nan"))
    step = task.eval().step(batch(), "val")
    assert all(len(found["scores"]) == 0 for found in step.predictions)
    task.metric("val").update(step.predictions, step.targets)
    assert float(task.metric("val").compute()["map"]) == 0


class Settling(Fixed):
    """Notes how many images it is settled on, and in which mode."""

    def __init__(self) -> None:
        super().__init__(
            {"boxes": torch.rand(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
        )
        self.seen: list[int] = []

    def settle(self, batches: Any) -> None:
        assert not self.training
        counts = [sum(len(images) for images, _ in batches()) for _ in range(2)]
        assert counts[0] == counts[1], "as often as it likes"
        self.seen.append(counts[0])


LIMITS = {
    "each epoch": ({}, [32, 32]),
    "every second epoch": ({"check_val_every_n_epoch": 2}, [32]),
    "without a validation": ({"limit_val_batches": 0}, [32, 32]),
    "short epochs": ({"limit_train_batches": 2}, [10, 10]),
}


@pytest.mark.parametrize(("limits", "seen"), LIMITS.values(), ids=LIMITS)
def test_a_network_is_settled_on_all_training_images_before_it_is_judged_or_saved(
    limits: dict[str, Any], seen: list[int]
) -> None:
    data = scenes(eval_batch_size=5)
    data.images["val"] = 1
    network = Settling()
    moved: list[int] = []

    def augment(images: Any, target: Any, epoch: int, then: Any) -> Any:
        moved.append(len(images))
        return [then(image) for image in images], target

    task = Detector(network, 10, preprocess=data.preprocess, optimizer=partial(SGD, lr=0.0), augment=augment)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", num_sanity_val_steps=0, **limits, **QUIET)
    trainer.fit(task, datamodule=data)
    assert network.seen == seen
    assert task.training
    assert len(moved) == trainer.global_step, "what it is settled on is not augmented"


def test_images_of_different_sizes_are_normalised_each() -> None:
    task = Detector(Fixed(), 3, preprocess=Preprocess(mean=0.5, std=0.25))
    images = [torch.full((3, 4, 6), 255, dtype=torch.uint8), torch.zeros(3, 5, 5, dtype=torch.uint8)]
    moved, _ = task.on_after_batch_transfer((images, [{}, {}]), 0)
    assert [image.shape for image in moved] == [(3, 4, 6), (3, 5, 5)]
    assert [float(image.mean()) for image in moved] == pytest.approx([2.0, -2.0])


def test_faults_are_told() -> None:
    images, targets = batch()
    with pytest.raises(
        UserError, match="a detector needs boxes, labels, but the data has label: try data=digit_scenes"
    ):
        Detector(Fixed(), 3).step(
            (torch.zeros(2, 3, 8, 8), {"label": torch.zeros(2), "index": torch.arange(2)}), "train"
        )
    network = MaskRCNN(3, **REGIONS)
    bare = [{**{name: target[name] for name in ("boxes", "labels")}, "path": "a.png"} for target in targets]
    with pytest.raises(
        UserError, match=r"predicts masks and needs masks, but the data has boxes, labels: .*faster_rcnn"
    ):
        Detector(network, 3).step((images, bare), "train")
    with pytest.raises(UserError, match=r"task\.mask_threshold=1 must lie between 0 and 1"):
        Detector(Fixed(), 3, mask_threshold=1)
    with pytest.raises(UserError, match="1 class names for num_classes=3"):
        Detector(Fixed(), 3, classes=["a"])
    with pytest.raises(UserError, match=r"torch\.uint8: give floating point"):
        Detector(Fixed(), 3).on_after_batch_transfer(([torch.zeros(3, 4, 4, dtype=torch.uint8)], [{}]), 0)
