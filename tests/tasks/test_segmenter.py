"""The segmenter's step, losses, predictions and metrics."""

from functools import partial

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from lightbed.data.digit_scenes import DigitScenes
from lightbed.errors import UserError
from lightbed.losses.pixels import LOSSES
from lightbed.models.single_convolution import SingleConvolution
from lightbed.models.unet import UNet
from lightbed.tasks import Segmenter

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden:UserWarning")  # the task's hook is meant
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Fixed(nn.Module):
    """Gives the logits that it was made with, as torchvision does."""

    def __init__(self, out: Tensor, aux: Tensor | None = None) -> None:
        super().__init__()
        self.out, self.aux = nn.Parameter(out), None if aux is None else nn.Parameter(aux)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = {"out": self.out[: len(images)]}
        return outputs if self.aux is None else {**outputs, "aux": self.aux[: len(images)]}


def batch(count: int = 2, classes: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    mask = torch.randint(classes, (count, 6, 8), dtype=torch.uint8)
    mask[:, 0] = 255
    return torch.randn(count, 3, 6, 8), {"mask": mask}


def test_loss_is_cross_entropy_without_void() -> None:
    images, target = batch()
    logits = torch.randn(2, 3, 6, 8)
    step = Segmenter(Fixed(logits), 3).step((images, target), "train")
    expected = F.cross_entropy(logits, target["mask"].long(), ignore_index=255)
    torch.testing.assert_close(step.losses, {"cross_entropy": expected}, check_stride=False)


def test_losses_are_weighted_and_summed_and_the_auxiliary_one_only_in_training() -> None:
    images, target = batch()
    network = Fixed(torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8))
    task = Segmenter(network, 3, loss={"cross_entropy": 0.5, "dice": 2.0, "focal": 0.0}, aux_weight=0.1)
    losses = task.train().step((images, target), "train").losses
    assert list(losses) == ["cross_entropy", "dice", "aux"]
    alone = task.loss(network.aux, target["mask"].long())
    torch.testing.assert_close(losses["aux"], 0.1 * (alone["cross_entropy"] + alone["dice"]))
    assert list(task.eval().step((images, target), "val").losses) == ["cross_entropy", "dice"]


def test_one_loss_can_be_named_alone() -> None:
    images, target = batch()
    logits = torch.randn(2, 3, 6, 8)
    for name in LOSSES:
        losses = Segmenter(Fixed(logits), 3, loss=name).step((images, target), "train").losses
        torch.testing.assert_close(losses, {name: LOSSES[name](logits, target["mask"].long())})


def test_predictions_are_the_most_probable_classes() -> None:
    logits = torch.randn(2, 3, 6, 8)
    seen = Segmenter(Fixed(logits), 3).predict(batch()[0])
    assert all(torch.equal(one["mask"], row.argmax(0).to(torch.uint8)) for one, row in zip(seen, logits, strict=True))


def test_a_model_can_be_used_without_configs_and_learns() -> None:
    torch.manual_seed(0)
    data = DigitScenes(images={"train": 96, "val": 8, "test": 8}, batch_size=16)
    network = UNet(11, 3, (8, 16), padded=True, batch_norm=True)
    names = ["background", *(str(digit) for digit in range(10))]
    task = Segmenter(network, 11, classes=names, preprocess=data.preprocess, optimizer=partial(Adam, lr=0.01))
    trainer = L.Trainer(max_epochs=4, accelerator="cpu", num_sanity_val_steps=0, **QUIET)
    trainer.fit(task, datamodule=data)
    (found,) = trainer.test(task, datamodule=data, verbose=False)
    assert found["test/loss"] < 0.8  # 2.4 at the beginning
    assert found["test/pixel_accuracy"] == pytest.approx(found["test/accuracy"])  # no void: images count alike
    assert {"test/iou/background", "test/precision/background", "test/recall/background"} <= found.keys()
    assert "val/iou/background" not in trainer.callback_metrics


def test_validation_on_its_own_tells_of_each_class() -> None:
    data = DigitScenes(images={"train": 8, "val": 8})
    data.test_fraction = 0
    task = Segmenter(SingleConvolution(3, 11), 11, classes=[str(k) for k in range(11)], preprocess=data.preprocess)
    (found,) = L.Trainer(accelerator="cpu", **QUIET).validate(task, datamodule=data, verbose=False)
    assert "val/iou/0" in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "dize"}, r"task\.loss\.dize is not known: did you mean dice"),
        ({"loss": {"dize": 1}}, r"task\.loss\.dize is not known: did you mean dice"),
        ({"loss": {"dice": -1}}, "must not be negative"),
        ({"loss": {"dice": 0}}, "no loss with a weight over 0"),
        ({"class_weights": [1, 2]}, "has 2 values for 3 classes"),
        ({"classes": ["a"]}, "1 class names for num_classes=3"),
        ({"focal_gamma": -1}, r"task\.focal_gamma=-1 must not be negative"),
    ],
)
def test_faults_of_the_options_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Segmenter(Fixed(torch.zeros(2, 3, 6, 8)), 3, **options)


def test_faults_of_network_and_data_are_told() -> None:
    images, target = batch()
    with pytest.raises(UserError, match=r"output is \(2, 4, 6, 8\); a segmenter's network returns logits"):
        Segmenter(Fixed(torch.zeros(2, 4, 6, 8)), 3).step((images, target), "train")
    with pytest.raises(UserError, match=r"output is \(2, 3, 3, 4\), but the masks are \(2, 6, 8\)"):
        Segmenter(Fixed(torch.zeros(2, 3, 3, 4)), 3).step((images, target), "train")
    with pytest.raises(UserError, match="a segmenter needs masks, but the data has label"):
        Segmenter(Fixed(torch.zeros(2, 3, 6, 8)), 3).step((images, {"label": torch.zeros(2)}), "train")
