"""OverFeat: a slid classifier equals one on cut-out windows; boxes merged by hand; what windows learn."""

import numpy as np
import pytest
import torch
from torch import nn

from lightbed.errors import UserError
from lightbed.models.overfeat import OverFeat, convolutional, merge, windows
from lightbed.tasks import Detector
from lightbed.tasks.judging import losses_and_detections


def paper() -> tuple[nn.Sequential, nn.Sequential]:
    """The network of the paper's figure 5, in double precision: 14x14 -> conv 5x5 -> pool 2x2 -> Linear 400-64-64-4."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)).double()
    last = nn.Sequential(nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return features, last.double()


def test_14_gives_1_and_16_gives_2x2_each_equal_to_its_own_window() -> None:
    features, last = paper()
    slid = nn.Sequential(features, convolutional(last, (16, 5, 5)).double())
    patch = torch.rand(3, 1, 14, 14).double()
    assert slid(patch).shape == (3, 4, 1, 1)
    assert torch.allclose(slid(patch)[:, :, 0, 0], last(features(patch)), atol=1e-5)
    image = torch.rand(2, 1, 16, 16).double()
    found = slid(image)
    assert found.shape == (2, 4, 2, 2)
    for row in range(2):
        for column in range(2):
            window = image[:, :, 2 * row : 2 * row + 14, 2 * column : 2 * column + 14]
            assert torch.allclose(found[:, :, row, column], last(features(window)), atol=1e-5)


def test_a_map_of_the_whole_network_equals_all_windows_cut_out() -> None:
    torch.manual_seed(0)
    net = OverFeat(3, channels=[4, 6, 8], hidden=16, margin=0).eval()
    assert (net.window, net.stride) == (32, 4)
    images = torch.rand(2, 3, 40, 48)
    scores, boxes = net.maps(images)
    assert scores.shape == (2, 4, 3, 5)
    cut = windows(images, net.window, net.stride)
    assert cut.shape == (2, 3, 5, 3, 32, 32)
    alone = net.maps(cut.flatten(0, 2))
    for whole, single in zip((scores, boxes), alone, strict=True):
        single = single[:, :, 0, 0].view(2, 3, 5, -1).permute(0, 3, 1, 2)
        assert torch.allclose(whole, single, atol=1e-5)


def test_only_linear_layers_are_slid() -> None:
    with pytest.raises(UserError, match="a BatchNorm1d among a patch classifier's last layers cannot be slid"):
        convolutional(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8)), (2, 2, 2))


def test_boxes_that_agree_become_their_weighted_mean_and_add_up() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [2, 0, 12, 10], [40, 40, 50, 50]])
    merged, scores = merge(boxes, np.array([0.9, 0.3, 0.8]), 0.8)
    assert merged.tolist() == [pytest.approx([0.5, 0, 10.5, 10]), [40, 40, 50, 50]]
    assert scores.tolist() == pytest.approx([1 - np.exp(-1.2), 1 - np.exp(-0.8)])
    apart, _ = merge(boxes, np.array([0.9, 0.3, 0.8]), 0.0)
    assert len(apart) == 3
    # the two differ by 2 / 10 of a side and by 1 - 80 / 120
    limit = 0.2 + 1 / 3
    assert [len(merge(boxes, np.ones(3), limit + step)[0]) for step in (-1e-6, 1e-6)] == [3, 2]
    assert merge(np.zeros((0, 4)), np.zeros(0), 0.8)[0].shape == (0, 4)


def test_three_boxes_are_merged_the_nearest_two_first() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [3, 0, 13, 10], [4, 0, 14, 10]])
    # the last two differ by 1 / 10 and 1 - 90 / 110: their mean by scores 1 and 3 is 3.75..13.75, with a score of 4;
    # from the first it differs by 3.75 / 10 and 1 - 62.5 / 137.5, and they make (0 + 4 * 3.75) / 5 = 3
    limit = 0.375 + 1 - 62.5 / 137.5
    merged, scores = merge(boxes, np.array([1.0, 1, 3]), limit + 1e-9)
    assert merged.tolist() == [pytest.approx([3, 0, 13, 10])]
    assert scores.tolist() == pytest.approx([1 - np.exp(-5)])
    merged, scores = merge(boxes, np.array([1.0, 1, 3]), limit - 1e-9)
    assert merged.tolist() == [pytest.approx([3.75, 0, 13.75, 10]), [0, 0, 10, 10]]
    assert scores.tolist() == pytest.approx([1 - np.exp(-4), 1 - np.exp(-1)])


def as_defined(boxes: np.ndarray, weights: np.ndarray, threshold: float) -> list[list[float]]:
    """Merged boxes in any order, each pair compared anew after each step."""
    found = [(list(box), float(weight)) for box, weight in zip(boxes, weights, strict=True)]

    def differ(one: list[float], other: list[float]) -> float:
        area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
        wide, high = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
        both = max(wide, 0) * max(high, 0)
        apart = np.hypot(*((one[i] + one[i + 2] - other[i] - other[i + 2]) / 2 for i in (0, 1)))
        side = sum(box[2] - box[0] + box[3] - box[1] for box in (one, other)) / 4
        return float(apart / side + 1 - both / (sum(area) - both))

    while len(found) > 1:
        pairs = [(differ(found[i][0], found[j][0]), i, j) for i in range(len(found)) for j in range(i)]
        least, i, j = min(pairs)
        if least >= threshold:
            break
        (one, much), (other, more) = found[i], found[j]
        mean = [(a * much + b * more) / (much + more) for a, b in zip(one, other, strict=True)]
        found = [pair for place, pair in enumerate(found) if place not in (i, j)] + [(mean, much + more)]
    return [box for box, _ in found]


@pytest.mark.parametrize("threshold", [0.4, 0.8, 1.5])
def test_merging_is_as_it_is_defined(threshold: float) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 25, (25, 2))
    boxes, scores = np.concatenate([corners, corners + rng.uniform(1, 40, (25, 2))], 1), rng.uniform(0.1, 1, 25)
    merged, _ = merge(boxes, scores, threshold)
    assert sorted(merged.tolist()) == [pytest.approx(box) for box in sorted(as_defined(boxes, scores, threshold))]
    assert len(merged) < 25


def test_only_the_best_windows_of_a_class_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightbed.models.overfeat._MERGED", 3)
    net = OverFeat(1, channels=[4, 4, 4], score_thresh=0.2, merge_thresh=0.0)
    scores, corner = np.array([[0.5, 0.3, 0.9, 0.1, 0.4]]), np.arange(5.0)[:, None]
    found = net._merged(scores, np.concatenate([corner, corner, corner + 1, corner + 1], 1), (9, 9))
    assert found["boxes"][:, 0].tolist() == [2, 0, 4], "of the four over the threshold, the three best"


def test_windows_learn_what_lies_at_their_centre() -> None:
    net = OverFeat(2, channels=[4, 4, 4], margin=0)
    # windows of 32 pixels, 4 apart: on 40x40 their centres are 16, 20, 24; the second object counts as at (24, 24)
    boxes = torch.tensor([[14.0, 12, 26, 28], [30.0, 30, 40, 40]])
    shown, which = net.assign(boxes[:1], torch.tensor([2]), 3, 3)
    assert shown.tolist() == [[2, 2, 2]] * 3, "all are one step away"
    net.reach = 0.5
    shown, _ = net.assign(boxes[:1], torch.tensor([2]), 3, 3)
    assert shown.tolist() == [[-1, -1, -1], [-1, 2, -1], [-1, -1, -1]]
    shown, which = net.assign(boxes, torch.tensor([2, 1]), 3, 3)
    assert shown.tolist() == [[-1, -1, -1], [-1, 2, -1], [-1, -1, 1]]
    assert int(which[2, 2]) == 1
    assert net.assign(boxes[:0], torch.zeros(0, dtype=torch.int64), 3, 3)[0].tolist() == [[0] * 3] * 3


def test_it_learns_one_image_and_keeps_the_contract_of_a_detector() -> None:
    torch.manual_seed(0)
    net = OverFeat(2, 1, channels=[8, 8, 8], hidden=32).train()
    image = torch.randn(1, 48, 48) * 0.1
    image[:, 4:22, 6:18], image[:, 26:44, 28:42] = 1.0, -1.0
    target = {"boxes": torch.tensor([[6.0, 4, 18, 22], [28, 26, 42, 44]]), "labels": torch.tensor([1, 2])}
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        losses = net([image], [target])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    losses, (found,) = losses_and_detections(net, [image], [target])
    assert set(losses) == {"loss_classifier", "loss_box"}
    assert found["labels"][:2].sort().values.tolist() == [1, 2]
    order = found["labels"][:2].argsort()
    assert torch.allclose(found["boxes"][:2][order], target["boxes"], atol=4)
    assert found["score_map"].shape == (48, 48)
    assert float(found["score_map"][13, 12]) > 0.5 > float(found["score_map"][44, 4])
    seen = Detector(net, 2).predict([image])[0]
    assert seen["labels"].tolist() == (found["labels"] - 1).tolist()
    net.most = 1
    assert len(net.eval()([image])[0]["boxes"]) == 1, "localization: the best one"


def test_images_without_objects_and_too_small_ones() -> None:
    net = OverFeat(2, 1, channels=[4, 4, 4]).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = net([torch.rand(1, 32, 32)] * 2, [empty, empty])
    assert float(losses["loss_box"]) == 0
    assert float(losses["loss_classifier"].detach()) > 0
    with pytest.raises(UserError, match="an image of 8x8 is smaller than a window of 32 pixels"):
        net([torch.rand(1, 8, 8)], [empty])
