"""The arithmetic of R-CNN, Fast R-CNN and Faster R-CNN on cases small enough to do by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import roi_pool

from lightbed.errors import UserError
from lightbed.models.cnn import CNN
from lightbed.models.fast_rcnn import FastRCNN, Pooled
from lightbed.models.rcnn import FasterRCNN
from lightbed.models.rcnn_2014 import RCNN, warp
from lightbed.proposals.second_stage import Fitting, SecondStage
from lightbed.proposals.svm import OneVersusRest

SEARCH = {"engine": "own", "scale": 30, "most": 40}
PLAIN = {"mean": [0.5] * 3, "std": [0.25] * 3, "proposals": SEARCH}


def rcnn(**options: Any) -> RCNN:
    torch.manual_seed(0)
    sizes = {"crop_size": 16, "context": 2, "box_grid": 2, "svm_cost": 0.1, "box_ridge": 1.0}
    return RCNN(2, 3, classifier=CNN(3, 2, [4, 8], 0.0), **{**PLAIN, **sizes, **options})


def scenes(count: int = 4) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of a red square (label 1) and a wide green bar (label 2) on dark ground."""
    images, targets = [], []
    for i in range(count):
        image = torch.full((3, 48, 64), -1.5)
        image[0, 8 + i : 24 + i, 6:22] = 1.5
        image[1, 28:38, 26 + 2 * i : 56] = 1.5
        images.append(image)
        boxes = torch.tensor([[6.0, 8 + i, 22, 24 + i], [26.0 + 2 * i, 28, 56, 38]])
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 2])})
    return images, targets


# -- R-CNN: warped crops -----------------------------------------------------------------------------------------------


def test_a_box_of_the_squares_size_is_cut_out_as_it_is() -> None:
    image = torch.arange(48.0).view(1, 6, 8)
    crop = warp(image, torch.tensor([[2.0, 1.0, 6.0, 5.0]]), 4, 0)
    torch.testing.assert_close(crop[0], image[:, 1:5, 2:6])


def test_context_shows_what_is_around_at_the_same_scale_and_the_mean_outside() -> None:
    image = torch.arange(1.0, 49.0).view(1, 6, 8)
    crop = warp(image, torch.tensor([[2.0, 1.0, 6.0, 5.0]]), 6, 1)  # the box fills 4 x 4 of 6 x 6
    torch.testing.assert_close(crop[0], image[:, 0:6, 1:7])
    (corner,) = warp(image, torch.tensor([[0.0, 0.0, 4.0, 4.0]]), 6, 1)
    torch.testing.assert_close(corner[:, 1:, 1:], image[:, :5, :5])
    assert corner[:, 0].abs().max() < 1e-3
    assert corner[:, :, 0].abs().max() < 1e-3


def test_a_box_of_any_shape_is_stretched_to_the_square() -> None:
    image = torch.zeros(1, 8, 8)
    image[:, 2:4] = 1.0  # a bar 2 high, over the whole width
    (crop,) = warp(image, torch.tensor([[0.0, 2.0, 8.0, 4.0]]), 4, 0)
    assert crop.shape == (1, 4, 4)
    torch.testing.assert_close(crop[0, 1:3], torch.ones(2, 4))


# -- boxes -------------------------------------------------------------------------------------------------------------


def test_boxes_are_told_as_the_paper_says() -> None:
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    proposal = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 x 40
    truth = torch.tensor([[20.0, 20.0, 60.0, 40.0]])  # centre (40, 30), 40 x 20
    expected = [(40 - 20) / 20, (30 - 40) / 40, math.log(40 / 20), math.log(20 / 40)]
    code = coder.encode_single(truth, proposal)
    assert code[0].tolist() == pytest.approx(expected)
    torch.testing.assert_close(coder.decode_single(code, proposal), truth)


sides = st.floats(1, 60)  # torchvision lets no box grow to more than 62.5 times its side


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(sides, sides, sides, sides, sides, sides), min_size=1, max_size=5))
def test_moving_undoes_telling(numbers: list[tuple[float, ...]]) -> None:
    x, y, w, h, w2, h2 = torch.tensor(numbers).T
    proposals, truth = torch.stack([x, y, x + w, y + h], 1), torch.stack([y, x, y + w2, x + h2], 1)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(
        coder.decode_single(coder.encode_single(truth, proposals), proposals), truth, rtol=1e-3, atol=1e-2
    )


def test_a_regression_of_each_class_moves_a_proposal() -> None:
    model = rcnn()
    stage, box = model.second, torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    stage.box_weight[0, -1] = torch.tensor([0.5, 0.0, 0.0, math.log(2)])  # biases alone
    places = torch.zeros(1, stage.box_weight.shape[1] - 1)
    assert torch.equal(stage.move(places, box)[0], box.expand(2, -1)), "of another network's features"
    stage.settled.fill_(1)
    (moved,) = stage.move(places, box)
    torch.testing.assert_close(moved, torch.tensor([[15.0, 5.0, 25.0, 25.0], [10.0, 10.0, 20.0, 20.0]]))


# -- Fast R-CNN: pooling -----------------------------------------------------------------------------------------------


def snapped(features: Tensor, box: list[float], scale: float, size: int) -> Tensor:
    """RoI pooling as Girshick's code has it: corners rounded, both inside; cells from floor to ceil of their edges."""
    left, top, right, bottom = (math.floor(side * scale + 0.5) for side in box)
    wide, high = max(right - left + 1, 1), max(bottom - top + 1, 1)
    pooled = torch.zeros(features.shape[0], size, size)
    for i in range(size):
        for j in range(size):
            rows = [top + math.floor(i * high / size), top + math.ceil((i + 1) * high / size)]
            columns = [left + math.floor(j * wide / size), left + math.ceil((j + 1) * wide / size)]
            (y1, y2), (x1, x2) = (
                [min(max(v, 0), n) for v in pair]
                for pair, n in ((rows, features.shape[1]), (columns, features.shape[2]))
            )
            if y2 > y1 and x2 > x1:
                pooled[:, i, j] = features[:, y1:y2, x1:x2].amax((1, 2))
    return pooled


def test_pooling_snaps_boxes_to_whole_places() -> None:
    features = torch.arange(64.0).view(1, 1, 8, 8)  # of an image 32 x 32, padded to that: stride 4
    pool = Pooled("max", 2, 2)
    # 7 to 17 pixels are places 1.75 to 4.25, snapped to 2 to 4: three of them, in cells of 2 with the middle in both
    found = pool({"0": features}, [torch.tensor([[7.0, 7.0, 17.0, 17.0]])], [(32, 32)])
    assert found[0, 0].tolist() == [[27.0, 28.0], [35.0, 36.0]]
    near = pool({"0": features}, [torch.tensor([[8.0, 8.0, 16.0, 16.0]])], [(32, 32)])
    assert torch.equal(near, found), "a pixel more on each side is the same to it"
    align = Pooled("align", 2, 2)
    one, other = (
        align({"0": features}, [torch.tensor([box])], [(32, 32)]) for box in ([7.0, 7, 17, 17], [8.0, 8, 16, 16])
    )
    assert not torch.equal(one, other), "RoI align sees it"


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(1, 40), st.floats(1, 40)), st.integers(1, 4))
def test_pooling_is_torchvisions_and_the_papers(numbers: tuple[float, ...], size: int) -> None:
    x, y, w, h = numbers
    box = torch.tensor([[x, y, x + w, y + h]])
    scaled = box * 0.25
    if ((scaled + 0.5) % 1).min() < 1e-3 or ((scaled + 0.5) % 1).max() > 1 - 1e-3:
        return  # what is rounded up or down by the last bit
    features = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = Pooled("max", size, 2)({"0": features}, [box], [(90, 90)])  # padded to 96
    torch.testing.assert_close(found, roi_pool(features, [box], size, 0.25))
    torch.testing.assert_close(found[0], snapped(features[0], box[0].tolist(), 0.25, size))


# -- Faster R-CNN: anchors ---------------------------------------------------------------------------------------------


def test_for_k_anchors_a_place_the_head_has_k_scores_and_4k_numbers() -> None:
    """The paper counts 2k scores, a softmax over two for each anchor, and names one logistic output as the same."""
    for anchors in (3, 9):
        scores, boxes = RPNHead(16, anchors)([torch.zeros(1, 16, 5, 6)])
        assert scores[0].shape == (1, anchors, 5, 6)
        assert boxes[0].shape == (1, 4 * anchors, 5, 6)
    model = FasterRCNN(
        2, backbone="mobilenet_v3_small", levels=[1, 2], pyramid_channels=8, anchor_sizes=[[8, 16, 32]] * 3
    )
    assert model.rpn.head.cls_logits.out_channels == 9
    assert model.rpn.head.bbox_pred.out_channels == 36
    logits = torch.tensor([0.3, -2.0])
    pair = torch.stack([torch.zeros(2), logits], 1)
    torch.testing.assert_close(pair.softmax(1)[:, 1], logits.sigmoid())  # why one number is enough


# -- the models --------------------------------------------------------------------------------------------------------


def test_a_box_learns_the_object_that_it_covers_best() -> None:
    model = rcnn()
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 20]]), "labels": torch.tensor([2, 1])}
    boxes = torch.tensor([[0.0, 0, 10, 11], [0.0, 0, 10, 18], [0.0, 0, 10, 4.9], [50.0, 50, 60, 60]])
    assert model.labels(boxes, target).tolist() == [2, 1, 0, 0]
    assert model.labels(boxes, {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)}).tolist() == [0] * 4


def test_the_second_stage_finds_what_an_untrained_network_shows_it_and_lies_in_the_weights() -> None:
    model = rcnn().eval()
    images, targets = scenes()
    with torch.no_grad():
        before = model(images)
    model.settle(lambda: [(images[:2], targets[:2]), (images[2:], targets[2:])])
    with torch.no_grad():
        after = model(images)
    for found, target in zip(after, targets, strict=True):
        order = [found["labels"].tolist().index(label) for label in (1, 2)]  # the best of each class
        torch.testing.assert_close(found["boxes"][order], target["boxes"], rtol=0, atol=3)
        assert (found["scores"][order] > 0.5).all()
        assert torch.equal(found["scores"], found["scores"].sort(descending=True).values)
    again = rcnn().eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images)[0]["scores"], after[0]["scores"])
    assert not torch.equal(before[0]["scores"][:1], after[0]["scores"][:1])
    first = {name: value.clone() for name, value in model.state_dict().items()}
    model.settle(lambda: [(images, targets)])
    assert torch.equal(model.second.svm_platt, first["second.svm_platt"]), "again, it is the same, whatever the batches"
    model.train()(images, targets)
    assert not model.second.ready, "a step in training undoes it: features are others now"
    model.second.settled.fill_(0.9)
    assert not model.second.ready, "nor is an average of weights before and after it"


def test_objects_of_later_images_are_known_to_the_first_svms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = rcnn().eval()
    images, targets = scenes()
    shown: list[list[int]] = []

    def show(svms: OneVersusRest, features: np.ndarray, negative: np.ndarray) -> None:
        shown.append([len(own) for own in svms.positives])
        assert negative.shape == (len(features), 2)

    monkeypatch.setattr(OneVersusRest, "show", show)
    model.settle(lambda: [(images, targets)])
    assert shown == [[4, 4]] * 4


def test_negatives_are_what_overlaps_each_object_of_the_class_by_less_than_0_3() -> None:
    stage = SecondStage(2, 1, 1, svm_cost=1.0, svm_bg_iou_thresh=0.3, box_ridge=1.0, box_reg_iou_thresh=0.6)
    truth = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]])
    fitting = Fitting(stage, torch.tensor([[1.0], [3.0]]), torch.tensor([1, 2]))
    assert fitting.scale == pytest.approx(20 / 2), "objects' features have a mean norm of 20"
    # IoU with the first object: 0.29, 0.3, 0.61 and 0; with the second: 0, 0, 0 and 1
    boxes = torch.tensor([[0.0, 0, 10, 2.9], [0.0, 0, 10, 3], [0.0, 0, 10, 6.1], [20.0, 0, 30, 10]])
    features = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    fitting.show(features, features, boxes, {"boxes": truth, "labels": torch.tensor([1, 2])})
    kept = [np.concatenate(own).ravel().tolist() for own in fitting.svms.negatives]
    assert kept == [[10, 40], [10, 20, 30]]
    near = [np.concatenate([places for places, _ in own]).ravel().tolist() for own in fitting.moves]
    assert near == [[3], [4]]
    (down, up) = fitting.moves[0][-1][1][0][[1, 3]]
    assert (down, up) == pytest.approx(((5 - 3.05) / 6.1, math.log(10 / 6.1)))
    fitting.show(features, features, boxes, {"boxes": truth[:0], "labels": torch.zeros(0, dtype=torch.int64)})
    assert [len(np.concatenate(own)) for own in fitting.svms.negatives] == [6, 7], "without objects all are negatives"


def test_images_without_objects_and_classes_without_any_find_nothing() -> None:
    model = rcnn(box_score_thresh=0.0).eval()
    images, targets = scenes(2)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert torch.isfinite(model.train()(images, [empty, empty])["loss_classifier"])
    only = [{name: values[:1] for name, values in target.items()} for target in targets]  # label 1
    model.eval().settle(lambda: [(images, only), (images, [empty, empty])])
    assert {label for found in model(images) for label in found["labels"].tolist()} == {1}
    model.settle(lambda: [(images, [empty, empty])])
    assert not any(len(found["boxes"]) for found in model(images))


def test_at_most_a_quarter_of_the_proposals_in_the_loss_are_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    model = rcnn(box_batch_size_per_image=8)
    image = torch.zeros(3, 40, 40)
    found = [torch.tensor([[0.0, 0, 10, 10]] * 9 + [[20.0, 20, 30, 30]] * 9)]
    monkeypatch.setattr(model.proposals, "forward", lambda images: found)
    target = {"boxes": torch.tensor([[0.0, 0, 10, 12]]), "labels": torch.tensor([2])}
    seen: list[Tensor] = []
    monkeypatch.setattr(F, "cross_entropy", lambda logits, labels: seen.append(labels) or logits.sum())
    model([image], [target])
    assert sorted(seen[0].tolist()) == [0] * 6 + [2] * 2


def test_softmax_can_stay_the_scorer() -> None:
    model = rcnn(scorer="softmax").eval()
    model.second.settled.fill_(1)
    features = torch.randn(3, 8)
    torch.testing.assert_close(model.scores(features), model.softmax(features).softmax(1)[:, 1:])


def test_the_classifier_loses_its_last_layer_alone() -> None:
    model = rcnn()
    crops = torch.randn(2, 3, 16, 16)
    features, places = model.describe(crops)
    torch.testing.assert_close(features, model.classifier.features(crops).mean((2, 3)))
    assert places.shape == (2, 8 * 2 * 2)
    assert features.shape == (2, model.softmax.in_features)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"classifier": nn.Conv2d(3, 2, 1)}, "Conv2d has no linear layer"),
        ({"box_features": "layer4"}, r"model\.box_features=layer4: the classifier has features, head"),
        ({"context": 8}, r"model\.context=8"),
        ({"box_features": "head"}, r"model\.box_features=head gives no map"),
        ({"svm_cost": 0.0}, r"model\.svm_cost=0\.0 must be more than 0"),
        ({"box_ridge": -1.0}, r"model\.box_ridge=-1\.0 must be more than 0"),
        ({"box_reg_iou_thresh": 1.5}, r"model\.box_reg_iou_thresh=1\.5 must lie in 0\.\.1"),
        ({"box_batch_size_per_image": 0}, r"model\.box_batch_size_per_image=0 must be at least 1"),
        ({"scorer": "svn"}, r"model\.scorer=svn is not known: did you mean svm"),
        ({"box_detections_per_img": 101}, "101 must lie in 1..100"),
    ],
)
def test_contradictions_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        RCNN(2, 3, **{**PLAIN, "classifier": CNN(3, 2, [4]), "crop_size": 16, "context": 2, **options})


def test_every_option_of_fast_rcnn_takes_effect() -> None:
    chosen = {"box_score_thresh": 0.2, "box_nms_thresh": 0.4, "box_detections_per_img": 7, "box_fg_iou_thresh": 0.6}
    more = {"box_bg_iou_thresh": 0.3, "box_batch_size_per_image": 12, "box_positive_fraction": 0.5}
    model = FastRCNN(
        2,
        **PLAIN,
        **chosen,
        **more,
        level=2,
        pool="align",
        box_pool_size=5,
        box_sampling_ratio=3,
        bbox_reg_weights=[1.0, 2.0, 3.0, 4.0],
        representation_size=9,
    )
    heads = model.roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.2, 0.4, 7)
    assert (heads.proposal_matcher.high_threshold, heads.proposal_matcher.low_threshold) == (0.6, 0.3)
    assert (heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction) == (12, 0.5)
    assert heads.box_coder.weights == (1.0, 2.0, 3.0, 4.0)
    assert (heads.box_roi_pool.kind, heads.box_roi_pool.size, heads.box_roi_pool.sampling_ratio) == ("align", 5, 3)
    assert heads.box_head.fc6.in_features == 128 * 25
    assert heads.box_head.fc7.out_features == 9
    with pytest.raises(UserError, match=r"model\.pool=mean"):
        FastRCNN(2, **PLAIN, pool="mean")
