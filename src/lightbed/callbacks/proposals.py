"""What a detector's proposals cost and cover: seconds an image by what they are spent on, and recall."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightbed.errors import UserError
from lightbed.proposals.selective_search import recall

_PARTS = ("proposals", "network", "rest")
_NAMES = ("proposals", "rpn")  # how models call the part that gives proposals


class Proposals(Callback):
    """Logs `seconds_proposals`, `seconds_network` and `seconds_rest` of an image, in training and in the test.

    Of training these are the seconds of all epochs so far over the images of one: what it costs to train, an image. The
    network's are forward, backward and the optimizer's step, and what a model fits besides (`Detector.settle`); the
    rest is reading and augmenting. Proposals that were kept by an earlier run count with the seconds that they once
    took. In the test the network's are its forward pass with non-maximum suppression, the rest reading and judging.

    The test also has `proposals`, the mean number in an image, and `proposal_recall`, the share of all objects that one
    of them covers.

    Args:
        iou: from which an object is covered.
    """

    def __init__(self, iou: float = 0.5) -> None:
        if not 0 < iou <= 1:
            raise UserError(f"callbacks.proposals.iou={iou} must lie in 0..1")
        self.iou = iou
        self.training = dict.fromkeys((*_PARTS, "images", "epochs"), 0.0)
        self.testing = dict.fromkeys((*_PARTS, "images", "count", "covered", "objects"), 0.0)
        self.handles: list[Any] = []
        self.stage = ""  # train, settle or test, while one is measured
        self.device = torch.device("cpu")
        self.mark = self.begun = self.searched = self.own = self.aside = 0.0
        self.losing = False  # whether the model is asked for losses
        self.found: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        model: Any = pl_module.model
        part = next(
            (getattr(model, name) for name in _NAMES if isinstance(getattr(model, name, None), nn.Module)), None
        )
        if part is None:
            raise UserError(f"callbacks.proposals: {type(model).__name__} has none: leave it out, or use a model with")
        self.handles = [
            model.register_forward_pre_hook(self._before),
            model.register_forward_hook(self._after),
            part.register_forward_pre_hook(self._before_search),
            part.register_forward_hook(self._after_search),
        ]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        for handle in self.handles:
            handle.remove()
        self.handles, self.found = [], []

    def state_dict(self) -> dict[str, float]:
        return dict(self.training)

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.training = dict(state_dict)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else the work is still under way
        return time.perf_counter()

    # -- the model's parts ---------------------------------------------------------------------------------------------

    def _before(self, model: nn.Module, inputs: Any) -> None:  # noqa: ARG002
        now = self._now()
        self.losing = model.training
        if self.stage == "train":
            self.training["rest"] += now - self.mark
        if self.stage in ("train", "test"):
            self.begun, self.own = now, 0.0

    def _after(self, model: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG002
        if self.stage != "test":
            return
        seconds = self._now() - self.begun
        self.aside += seconds
        if not model.training:  # the pass for the losses is no part of inference
            self.testing["network"] += seconds - self.own

    def _before_search(self, part: nn.Module, inputs: Any) -> None:  # noqa: ARG002
        self.searched = self._now()

    def _after_search(self, part: nn.Module, inputs: Any, output: Any) -> None:
        seconds = self._now() - self.searched
        self.own += seconds
        if self.stage == "test" and not self.losing:
            self.testing["proposals"] += getattr(part, "seconds", seconds)
            self.found = as_fractions(inputs[0], output)
        elif self.stage in ("train", "settle"):
            first = self.stage == "train" and not self.training["epochs"]
            self.training["proposals"] += getattr(part, "seconds", seconds) if first else seconds

    # -- training ------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.device = pl_module.device
        self.stage, self.mark = "train", self._now()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        if self.stage != "train":  # a run that goes on in the middle of an epoch
            self.on_train_epoch_start(trainer, pl_module)
            return
        self.mark = self._now()
        self.training["network"] += self.mark - self.begun - self.own
        self.training["images"] += len(batch[0])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.state.fn is TrainerFn.FITTING:
            self.stage, self.begun, self.own = "settle", self._now(), 0.0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.stage == "settle":
            self.training["network"] += self._now() - self.begun - self.own
            self.stage = ""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stage = ""
        self.training["epochs"] += 1
        summed = total(trainer, self.training, ("epochs",))
        images = max(summed["images"] / summed["epochs"], 1)
        pl_module.log_dict({f"train/seconds_{part}": summed[part] / images for part in _PARTS}, rank_zero_only=False)

    # -- test ----------------------------------------------------------------------------------------------------------

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.testing = dict.fromkeys(self.testing, 0.0)
        self.device = pl_module.device
        self.stage, self.mark, self.aside = "test", self._now(), 0.0

    def on_test_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        self.testing["rest"] += self._now() - self.mark - self.aside
        images, targets = batch
        task: Any = pl_module
        boxes = [task.objects(target)["boxes"] for target in targets]
        proposals = [
            found * found.new_tensor([image.shape[-1], image.shape[-2]] * 2)
            for found, image in zip(self.found, images, strict=True)
        ]
        covered, objects = recall(proposals, boxes, self.iou)
        counted = {"images": len(images), "count": sum(map(len, proposals)), "covered": covered, "objects": objects}
        for name, value in counted.items():
            self.testing[name] += value
        self.mark, self.aside = self._now(), 0.0

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stage = ""
        summed = total(trainer, self.testing)
        images = max(summed["images"], 1)
        values = {f"test/seconds_{part}": summed[part] / images for part in _PARTS}
        values["test/proposals"] = summed["count"] / images
        values["test/proposal_recall"] = summed["covered"] / max(summed["objects"], 1)
        pl_module.log_dict(values, rank_zero_only=False)


def as_fractions(images: Any, output: Any) -> list[Tensor]:
    """Proposals as fractions of their images' width and height, of what a part for proposals took and gave.

    Args:
        images: a list of images (C, h, w), or torchvision's ImageList of scaled ones.
        output: boxes of each, or torchvision's pair of boxes and losses.
    """
    boxes = output[0] if isinstance(output, tuple) else output
    sizes = getattr(images, "image_sizes", None) or [tuple(image.shape[-2:]) for image in images]
    return [found / found.new_tensor([size[1], size[0]] * 2) for found, size in zip(boxes, sizes, strict=True)]


def total(trainer: Trainer, values: Mapping[str, float], same: tuple[str, ...] = ()) -> dict[str, float]:
    """The sums over all processes of a run; of what is the `same` in all of them, one's own."""
    if trainer.world_size == 1:
        return dict(values)
    told = torch.tensor(list(values.values()), device=trainer.strategy.root_device)
    summed = trainer.strategy.reduce(told, reduce_op="sum").tolist()
    return {**dict(zip(values, summed, strict=True)), **{name: values[name] for name in same}}
