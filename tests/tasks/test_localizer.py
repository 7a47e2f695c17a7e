"""The localizer: box arithmetic by hand, losses, scores, and data of other tasks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import AdamW

from lightbed.data.digit_scenes import DigitScenes
from lightbed.errors import UserError
from lightbed.metrics.localization import LocalizationScores, paired_iou
from lightbed.models.cnn import CNN
from lightbed.models.two_heads import TwoHeads
from lightbed.tasks import Localizer
from lightbed.tasks.localizer import to_boxes, to_fractions
from lightbed.transforms.preprocess import Preprocess


class Fixed(nn.Module):
    """Says the same of every image: class 1, and a box of half the image's sides in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        ones = torch.ones(len(images), 1)
        return torch.cat([0 * ones, 2 * ones], 1) + self.bias, torch.tensor([[0.5, 0.5, 0.5, 0.5]]) * ones + self.bias


def test_fractions_by_hand() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 80.0, 100.0]])
    fractions = to_fractions(boxes, (100, 80))  # height, width
    assert torch.allclose(fractions, torch.tensor([[0.25, 0.4, 0.25, 0.4], [0.5, 0.5, 1.0, 1.0]]))
    assert torch.allclose(to_boxes(fractions, (100, 80)), boxes, atol=1e-5)
    outside = to_boxes(torch.tensor([[0.0, 1.0, 0.5, 0.5]]), (40, 40))
    assert outside.tolist() == [[0.0, 30.0, 10.0, 40.0]], "cut at the borders"


side = st.floats(0, 1, width=32)


@given(st.lists(st.tuples(side, side, side, side), min_size=1, max_size=8), st.integers(1, 500), st.integers(1, 500))
def test_boxes_come_back_from_their_fractions(values: list[tuple[float, ...]], height: int, width: int) -> None:
    corners = torch.tensor(values).view(-1, 2, 2).sort(1).values.flatten(1) * torch.tensor([width, height] * 2)
    again = to_boxes(to_fractions(corners, (height, width)), (height, width))
    assert torch.allclose(again, corners, atol=1e-3)


def test_losses_and_scores_by_hand() -> None:
    task = Localizer(Fixed(), 2, loss={"label": 2.0, "box": 10.0})
    images = torch.zeros(2, 1, 40, 40)
    # its box is 10..30: the first truth is it, the second overlaps it by a ninth of the union
    target = {"label": torch.tensor([1, 0]), "box": torch.tensor([[10.0, 10, 30, 30], [0.0, 0, 20, 20]])}
    step = task.step((images, target), "train")
    logits = torch.tensor([[0.0, 2.0]]).log_softmax(1)[0]
    assert float(step.losses["label"].detach()) == pytest.approx(2 * float(-(logits[1] + logits[0]) / 2))
    assert float(step.losses["box"].detach()) == pytest.approx(10 * (2 * 0.25**2) / 8)
    metric = LocalizationScores(2)
    metric.update(step.predictions, step.targets)
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values["accuracy"] == 0.5
    assert values["iou"] == pytest.approx((1 + 100 / 700) / 2)
    assert values["accuracy_50"] == 0.5


def test_a_box_counts_only_with_its_class_and_over_one_half() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    half = torch.tensor([[0.0, 0, 10, 5]])
    assert paired_iou(box, half).tolist() == [0.5]
    assert paired_iou(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [0.0]
    for logits, truth, hits in (([0.0, 1.0], box, 1), ([1.0, 0.0], box, 0), ([0.0, 1.0], half, 0)):
        metric = LocalizationScores(2)
        metric.update((torch.tensor([logits]), box), (torch.tensor([1]), truth))
        assert int(metric.hits) == hits


def test_predictions_have_label_scores_and_box_in_pixels() -> None:
    (seen,) = Localizer(Fixed(), 2, classes=["cat", "dog"]).predict(torch.zeros(1, 1, 40, 80))
    assert int(seen["label"]) == 1
    assert float(seen["scores"].sum()) == pytest.approx(1)
    assert seen["box"].tolist() == [20.0, 10.0, 60.0, 30.0]


def test_a_classifiers_network_is_given_a_second_head() -> None:
    preprocess = Preprocess(1, [16, 16])
    task = Localizer(CNN(1, 3, channels=[4]), 3, preprocess=preprocess, hidden=8)
    assert isinstance(task.model, TwoHeads)
    own = Fixed()
    assert Localizer(own, 2, preprocess=preprocess).model is own
    with pytest.raises(UserError, match=r"of one size: give data.image_size"):
        Localizer(CNN(1, 3, channels=[4]), 3, preprocess=Preprocess(1, None))
    with pytest.raises(UserError, match=r"the model cannot take images of 1x3x3 \(.*\): set data.image_size"):
        Localizer(CNN(1, 3, channels=[4, 4, 4]), 3, preprocess=Preprocess(1, 3))
    with pytest.raises(UserError, match=r"the model cannot take images of 3x16x16"):
        Localizer(CNN(1, 3, channels=[4]), 3, preprocess=Preprocess(3, 16))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": {"class": 1.0}}, r"task\.loss\.class is not known"),
        ({"loss": {"box": -1.0}}, "must not be negative"),
        ({"loss": {"label": 0.0, "box": 0.0}}, "cannot both be 0"),
        ({"classes": ["a"]}, "1 class names for num_classes=2"),
    ],
)
def test_wrong_options_are_told(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Localizer(Fixed(), 2, **options)


def test_data_and_networks_of_other_tasks_are_told() -> None:
    task = Localizer(Fixed(), 2)
    with pytest.raises(UserError, match=r"needs one object an image, .* but the data has label: try"):
        task.step((torch.zeros(1, 1, 4, 4), {"label": torch.zeros(1)}), "train")
    with pytest.raises(UserError, match=r"but the data has boxes, labels: try .* data.objects=largest"):
        task.step(([torch.zeros(1, 4, 4)], [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}]), "train")
    task.model = nn.Flatten()
    target = {"label": torch.zeros(1).long(), "box": torch.zeros(1, 4)}
    with pytest.raises(UserError, match=r"output is a Tensor; a localizer's network returns \(logits, boxes\)"):
        task.step((torch.zeros(1, 1, 4, 4), target), "train")


def test_it_learns_where_a_digit_is() -> None:
    data = DigitScenes(
        images={"train": 24, "val": 1, "test": 1}, digits=[1, 1], sides=[12, 20], targets=["label", "box"],
        image_size=[32, 32], batch_size=24,
    )  # fmt: skip
    data.setup()
    torch.manual_seed(0)
    task = Localizer(CNN(3, 10, channels=[8, 16]), 10, preprocess=data.preprocess)
    optimizer = AdamW(task.parameters(), lr=0.003)
    batches = [(data.preprocess(images), target) for images, target in data.train_dataloader()]
    for _ in range(60):
        task.metric("train").reset()
        for batch in batches:
            step = task.step(batch, "train")
            optimizer.zero_grad()
            sum(step.losses.values()).backward()
            optimizer.step()
            task.metric("train").update(step.predictions, step.targets)
    assert float(task.metric("train").compute()["iou"]) > 0.4, "a box in the middle has 0.2"
