"""torchvision's detectors: the same networks as its own builders make, and every option takes effect."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from lightbed.build import fill_auto, make
from lightbed.errors import UserError
from lightbed.models.fcos import FCOS
from lightbed.models.pyramid import Sizes, anchor_generator, norm_layer, pyramid
from lightbed.models.rcnn import FasterRCNN, MaskRCNN
from lightbed.models.retinanet import RetinaNet
from lightbed.models.ssd import SSD, SSDLite

CONF = Path(__file__).parents[2] / "conf" / "model"
MODELS = sorted(path.stem for path in CONF.glob("*.yaml") if "override /task@_global_.task: det" in path.read_text())
MODELS = sorted({*MODELS, "mask_rcnn"})  # it is Faster R-CNN with something added
FRESH = {"weights": None, "weights_backbone": None, "num_classes": 4}
LIGHT = {"backbone": "mobilenet_v3_small", "pyramid_channels": 32}
SEARCH = {"engine": "own", "width": 32, "scale": 30, "sigma": 0.8, "least": 4, "most": 10}
SMALL: dict[str, dict[str, Any]] = {
    "fast_rcnn": {"backbone": "mobilenet_v3_small", "level": 1, "representation_size": 16, "proposals": SEARCH},
    "overfeat": {"channels": [4, 8, 8], "hidden": 8, "score_thresh": 0.0},
    "rcnn": {"crop_size": 12, "context": 1, "box_grid": 2, "proposals": SEARCH},
    "faster_rcnn": {**LIGHT, "levels": [1, 2], "anchor_sizes": [[16], [32], [64]], "representation_size": 16},
    "fcos": {**LIGHT, "pyramid_channels": 64, "levels": [1, 2, 3], "strides": [4, 8, 16, 32, 64], "score_thresh": 0.0},
    "retinanet": {**LIGHT, "levels": [1, 2, 3]},
    "ssd": {},
    "ssdlite": {"size": [96, 96]},
}
SMALL["mask_rcnn"] = {**SMALL["faster_rcnn"], "mask_layers": [16], "mask_dim_reduced": 8}


def node(name: str) -> dict[str, Any]:
    """The model's config as Hydra composes it."""
    found: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    for base in found.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found = {**node(base), **found}
        elif isinstance(base, dict):
            ((group, name),) = base.items()
            place = group.removeprefix("/model@")  # as `/model@classifier: cnn` puts it there
            found |= {place: node(name)} if place != group else {}
    return found


def build(name: str, channels: int = 3, **options: Any) -> nn.Module:
    """The network of a config for 3 classes."""
    facts = {"num_classes": 3, "in_channels": channels, "mean": [0.5] * channels, "std": [0.25] * channels}
    return make(fill_auto({**node(name), **SMALL[name], **options}, facts, "model"), "model")


def batch(channels: int = 3, *, empty: bool = False) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes; the second one has no object, or neither of them has."""
    torch.manual_seed(0)
    images = [torch.randn(channels, 64, 80), torch.randn(channels, 72, 64)]
    boxes = torch.tensor([[4.0, 8.0, 40.0, 50.0], [30.0, 10.0, 60.0, 44.0]])[: 0 if empty else 2]
    targets = []
    for image, found in ((images[0], boxes), (images[1], boxes[:0])):
        masks = torch.zeros(len(found), *image.shape[1:], dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, found.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        targets.append({"boxes": found, "labels": torch.tensor([1, 3])[: len(found)], "masks": masks})
    return images, targets


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


# -- the same as torchvision's own -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "parameters"),
    [
        (lambda: FasterRCNN(3, backbone="resnet50"), detection.fasterrcnn_resnet50_fpn, 41_362_531),
        (lambda: MaskRCNN(3, backbone="resnet50"), detection.maskrcnn_resnet50_fpn, 43_986_279),
        (lambda: RetinaNet(3, backbone="resnet50"), detection.retinanet_resnet50_fpn, 32_263_304),
        (lambda: FCOS(3, backbone="resnet50"), detection.fcos_resnet50_fpn, 32_122_185),
        (lambda: SSD(3), detection.ssd300_vgg16, 24_013_232),
        (lambda: SSDLite(3), detection.ssdlite320_mobilenet_v3_large, 2_234_240),
    ],
    ids=["faster_rcnn", "mask_rcnn", "retinanet", "fcos", "ssd", "ssdlite"],
)
def test_weights_have_the_names_and_shapes_of_torchvisions_own_builder(ours: Any, theirs: Any, parameters: int) -> None:
    # torchvision's SSDlite computes its channels with numbers, for which the meta device has none
    with torch.device("cpu" if theirs is detection.ssdlite320_mobilenet_v3_large else "meta"):
        model, reference = ours(), theirs(**FRESH)
    assert shapes(model) == shapes(reference)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_mobilenet_pyramid_is_torchvisions() -> None:
    sizes = ((32, 64, 128, 256, 512),) * 3
    with torch.device("meta"):
        model = FasterRCNN(3, backbone="mobilenet_v3_large", levels=[4, 5], anchor_sizes=sizes)
        assert shapes(model) == shapes(detection.fasterrcnn_mobilenet_v3_large_fpn(**FRESH))


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "retinanet", "fcos"])
def test_configs_for_weights_of_coco_are_torchvisions_network(name: str) -> None:
    config = fill_auto({**node(f"{name}_coco"), "weights": None}, {"num_classes": 3, "in_channels": 3}, "model")
    builder = getattr(detection, f"{name.replace('faster_', 'faster').replace('mask_', 'mask')}_resnet50_fpn")
    with torch.device("meta"):
        model, reference = make(config, "model"), builder(**FRESH)
    theirs = {name: shape for name, shape in shapes(reference).items() if "num_batches_tracked" not in name}
    assert shapes(model) == theirs  # torchvision has frozen norms only where it loads weights
    ours, expected = (net.rpn if "rcnn" in name else net for net in (model, reference))
    assert ours.anchor_generator.sizes == expected.anchor_generator.sizes
    assert ours.anchor_generator.aspect_ratios == expected.anchor_generator.aspect_ratios
    assert model.transform.min_size == list(reference.transform.min_size)
    assert model.transform.max_size == reference.transform.max_size


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(FasterRCNN, detection.FasterRCNN), (RetinaNet, detection.RetinaNet)],
    ids=["faster_rcnn", "retinanet"],
)
def test_with_the_same_weights_detections_are_torchvisions(ours: Any, theirs: Any) -> None:
    """Defaults of all thresholds included; torchvision normalises inside, where ours takes normalised images."""
    torch.manual_seed(0)
    score = {"box_score_thresh": 0.0} if ours is FasterRCNN else {"score_thresh": 0.0}
    model = ours(3, backbone="mobilenet_v3_small", levels=[1, 2, 4, 5] if ours is FasterRCNN else [1, 2, 3], **score)
    reference = theirs(model.backbone, 4, min_size=64, max_size=96, image_mean=[0.4] * 3, image_std=[0.5] * 3, **score)
    reference.load_state_dict(model.state_dict())
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        (expected,), (found,) = reference.eval()([image]), model.eval()([(image - 0.4) / 0.5])
    count = min(len(expected["boxes"]), 100)
    assert count > 0
    for name in ("boxes", "scores", "labels"):
        torch.testing.assert_close(found[name], expected[name][:count], rtol=1e-4, atol=1e-4)


# -- one contract for all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"ssd"}))
def test_contract(name: str, channels: int) -> None:
    check_contract(name, channels)


@pytest.mark.slow
def test_contract_of_vgg() -> None:
    check_contract("ssd", 3)


def check_contract(name: str, channels: int) -> None:
    torch.manual_seed(0)
    model = build(name, channels).train()
    # a batch without any object trains, too, and one of one image
    whole = [batch(channels, empty=empty) for empty in (False, True)]
    for images, targets in (*whole, tuple(part[:1] for part in whole[0])):
        model.zero_grad()
        losses = model(images, targets)
        total = torch.stack(list(losses.values())).sum()
        assert total.isfinite()
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        found = model(images)
    for image, one in zip(images, found, strict=True):
        height, width = image.shape[-2:]
        assert len(one["boxes"]) <= 100
        assert one["boxes"].shape == (len(one["scores"]), 4)
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert torch.equal(one["scores"], one["scores"].sort(descending=True).values)
        if name == "mask_rcnn":
            assert one["masks"].shape == (len(one["scores"]), 1, height, width)


@pytest.mark.parametrize("name", MODELS)
def test_configs_name_every_parameter(name: str) -> None:
    """Of our class, and of torchvision's that it hands the rest to."""
    from lightbed.build import locate, parameters

    composed = node(name)
    made = {"transform", "rpn", "roi_heads", "image_mean", "image_std", "rpn_anchor_generator", "rpn_head"}
    made |= {"box_roi_pool", "box_head", "box_predictor"}  # objects that ours makes of its own arguments
    takes = set(parameters(locate(composed["_target_"], "")) or []) - made
    assert takes - set(composed) == set()
    assert set(composed) - takes == {"_target_"}


# -- parts -------------------------------------------------------------------------------------------------------------


def test_anchors_are_sizes_times_ratios_of_plain_or_other_lists() -> None:
    made = anchor_generator([[8, 12], [16, 24]], [0.5, 1.0, 2.0], 2)
    assert made.num_anchors_per_location() == [6, 6]
    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
    (anchors,) = made(images, [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)])
    assert len(anchors) == 6 * 16 + 6 * 4
    wide = anchors[:6, 2] - anchors[:6, 0]
    tall = anchors[:6, 3] - anchors[:6, 1]
    assert (tall / wide).sort().values.tolist() == pytest.approx([0.5, 0.5, 1, 1, 2, 2], rel=0.2)  # rounded to pixels
    each = anchor_generator(((8, 12), (16, 24)), ((0.5, 1.0, 2.0), (1.0, 2.0, 3.0)), 2)
    assert torch.equal(each.cell_anchors[0], made.cell_anchors[0])
    assert not torch.equal(each.cell_anchors[1], made.cell_anchors[1])


def test_images_keep_their_size_unless_they_are_given_another() -> None:
    images, targets = batch()
    same, moved = Sizes()(images, targets)
    assert same.image_sizes == [(64, 80), (72, 64)]
    assert same.tensors.shape == (2, 3, 96, 96)
    assert torch.equal(same.tensors[0, :, :64, :80], images[0])
    assert moved[0]["masks"].dtype == torch.bool
    scaled, moved = Sizes(128, 200)(images, targets)
    assert scaled.image_sizes == [(128, 160), (144, 128)]
    torch.testing.assert_close(moved[0]["boxes"], 2 * targets[0]["boxes"])
    assert moved[0]["masks"].shape == (2, 128, 160)
    for side in (1, 2, 7):  # of a thin image a pixel is left
        thin, moved = Sizes(64, 96)([torch.zeros(3, side, 9000)], [{"boxes": torch.tensor([[0.0, 0.0, 9000.0, side]])}])
        assert thin.image_sizes[0][0] == 1
        torch.testing.assert_close(moved[0]["boxes"], torch.tensor([[0.0, 0.0, float(thin.image_sizes[0][1]), 1.0]]))
    stretched, _ = Sizes(size_divisible=1, size=(50, 70))(images)
    assert stretched.tensors.shape == (2, 3, 50, 70)


def test_predictions_go_back_to_the_images_own_size() -> None:
    torch.manual_seed(0)
    model = build("faster_rcnn", min_size=128, box_score_thresh=0.0).eval()
    with torch.no_grad():
        (found,) = model([torch.randn(3, 64, 64)])
    assert 0 < found["boxes"].max() <= 64


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)])
def test_norm_layers_are_of_the_chosen_kind(norm: str, kind: type) -> None:
    model = build("retinanet", norm=norm, norm_pyramid=True, norm_head=True)
    norms = [part for name, part in model.backbone.named_modules() if isinstance(part, nn.BatchNorm2d | nn.GroupNorm)]
    assert norms
    assert all(isinstance(part, kind) for part in norms)
    assert any(isinstance(part, nn.GroupNorm) for part in model.head.modules())
    assert norm_layer("batch", 0.5, 0.25)(8).momentum == 0.25
    assert norm_layer("frozen", 0.5)(8).eps == 0.5
    assert norm_layer("group")(40).num_groups == 8


def test_a_value_alone_is_normalised_by_what_was_seen_before() -> None:
    torch.manual_seed(0)
    norm, theirs = norm_layer("batch")(4).train(), nn.BatchNorm2d(4).train()
    images = torch.randn(2, 4, 3, 3)
    assert torch.equal(norm(images), theirs(images))
    statistics = norm.running_mean.clone()
    alone = torch.randn(1, 4, 1, 1)
    assert torch.equal(norm(alone), theirs.eval()(alone))
    assert torch.equal(norm.running_mean, statistics)


@pytest.mark.parametrize(
    ("backbone", "trainable", "expected"),
    [
        ("resnet18", 5, "conv1.weight"),
        ("resnet18", 4, "layer1.0.conv1.weight"),
        ("resnet18", 1, "layer4.0.conv1.weight"),
        ("resnet18", 0, None),
        ("mobilenet_v3_small", 6, "0.0.weight"),
        ("mobilenet_v3_small", 1, "12.0.weight"),
    ],
)
def test_the_first_stages_are_frozen(backbone: str, trainable: int, expected: str | None) -> None:
    levels = [1, 2, 3, 4] if backbone == "resnet18" else [2, 3, 5]
    if backbone != "resnet18" and trainable == 6:
        levels = [1, 2, 4]
    made = pyramid(backbone, 3, levels, norm=nn.BatchNorm2d, trainable_layers=trainable)
    learning = [name for name, weight in made.body.named_parameters() if weight.requires_grad]
    assert (learning[0] if learning else None) == expected
    assert all(weight.requires_grad for weight in made.fpn.parameters())


def test_every_option_of_faster_rcnn_takes_effect() -> None:
    model = build(
        "mask_rcnn",
        rpn_conv_depth=2,
        box_pool_size=5,
        box_sampling_ratio=3,
        mask_pool_size=6,
        mask_sampling_ratio=1,
        mask_dilation=2,
        box_detections_per_img=7,
        bbox_reg_weights=[1.0, 2.0, 3.0, 4.0],
        rpn_pre_nms_top_n_train=11,
        rpn_pre_nms_top_n_test=12,
        rpn_post_nms_top_n_train=13,
        rpn_post_nms_top_n_test=14,
        rpn_nms_thresh=0.61,
        rpn_fg_iou_thresh=0.62,
        rpn_bg_iou_thresh=0.21,
        rpn_batch_size_per_image=15,
        rpn_positive_fraction=0.22,
        rpn_score_thresh=0.23,
        box_score_thresh=0.24,
        box_nms_thresh=0.63,
        box_fg_iou_thresh=0.64,
        box_bg_iou_thresh=0.25,
        box_batch_size_per_image=16,
        box_positive_fraction=0.26,
        size_divisible=16,
        max_size=77,
        min_size=[32, 48],
    )
    rpn, heads = model.rpn, model.roi_heads
    assert rpn._pre_nms_top_n == {"training": 11, "testing": 12}
    assert rpn._post_nms_top_n == {"training": 13, "testing": 14}
    assert len(rpn.head.conv) == 2
    assert (rpn.nms_thresh, rpn.score_thresh) == (0.61, 0.23)
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.62, 0.21)
    assert (rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction) == (15, 0.22)
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.24, 0.63, 7)
    assert (heads.proposal_matcher.high_threshold, heads.proposal_matcher.low_threshold) == (0.64, 0.25)
    assert (heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction) == (16, 0.26)
    assert tuple(heads.box_coder.weights) == (1.0, 2.0, 3.0, 4.0)
    assert (heads.box_roi_pool.output_size, heads.box_roi_pool.sampling_ratio) == ((5, 5), 3)
    assert (heads.mask_roi_pool.output_size, heads.mask_roi_pool.sampling_ratio) == ((6, 6), 1)
    assert heads.mask_head[0][0].dilation == (2, 2)
    assert (model.transform.size_divisible, model.transform.max_size, model.transform.min_size) == (16, 77, [32, 48])


def test_every_option_of_the_single_stage_detectors_takes_effect() -> None:
    shared = {"score_thresh": 0.3, "nms_thresh": 0.41, "detections_per_img": 9, "topk_candidates": 21}
    for name in ("retinanet", "fcos", "ssdlite"):
        model = build(name, **shared)
        assert {key: getattr(model, key) for key in shared} == shared
    retina = build("retinanet", box_loss="giou", fg_iou_thresh=0.7, bg_iou_thresh=0.2)
    assert retina.head.regression_head._loss_type == "giou"
    assert (retina.proposal_matcher.high_threshold, retina.proposal_matcher.low_threshold) == (0.7, 0.2)
    fcos = build("fcos", num_convs=2, center_sampling_radius=2.5)
    assert sum(isinstance(part, nn.Conv2d) for part in fcos.head.classification_head.conv) == 2
    assert fcos.center_sampling_radius == 2.5
    ssd = build(
        "ssdlite", iou_thresh=0.6, positive_fraction=0.5, width_mult=0.5, scales=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    )
    assert ssd.proposal_matcher.high_threshold == 0.6
    assert ssd.neg_to_pos_ratio == 1.0
    assert ssd.anchor_generator.scales[:2] == [0.1, 0.2]
    assert ssd.backbone.extra[0][2][0].out_channels == 256


# -- weights -----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_begins_another_detector_but_for_its_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = build("retinanet")
    torch.save({"state_dict": {f"model.{k}": v for k, v in first.state_dict().items()}}, tmp_path / "a.ckpt")
    second = build("retinanet", num_classes=5, weights=str(tmp_path / "a.ckpt"))
    same = [name for name, value in first.state_dict().items() if torch.equal(value, second.state_dict()[name])]
    fresh = set(first.state_dict()) - set(same)
    assert fresh == {"head.classification_head.cls_logits.weight", "head.classification_head.cls_logits.bias"}


def test_a_classifiers_checkpoint_becomes_the_backbone(tmp_path: Path) -> None:
    from lightbed.models.zoo import classifier

    torch.manual_seed(0)
    trained = classifier("mobilenet_v3_small", 7)
    state = {f"model.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "classifier.ckpt")
    model = build("faster_rcnn", weights_backbone=str(tmp_path / "classifier.ckpt"))
    assert torch.equal(model.backbone.body["0"][0].weight, trained.features[0][0].weight)
    with pytest.raises(UserError, match=r"another network's: it lacks .*a classifier's: model\.weights_backbone"):
        build("faster_rcnn", weights=str(tmp_path / "classifier.ckpt"))


def test_faults_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean resnet18"):
        FasterRCNN(3, backbone="resnet19")
    with pytest.raises(UserError, match=r"model\.levels=\[2, 1\]: resnet18 has stages 1 to 4"):
        FasterRCNN(3, levels=[2, 1])
    with pytest.raises(UserError, match=r"2 lists of model\.anchor_sizes .* has 5 levels"):
        build("faster_rcnn", levels=[1, 2, 3, 4], anchor_sizes=[[16], [32]])
    with pytest.raises(UserError, match="as many anchors on every level"):
        build("faster_rcnn", anchor_sizes=[[16], [32], [64, 128]])
    with pytest.raises(UserError, match=r"model\.box_detections_per_img=300 must lie in 1\.\.100"):
        FasterRCNN(3, box_detections_per_img=300)
    with pytest.raises(UserError, match=r"model\.trainable_layers=7 must lie in 0\.\.6"):
        build("faster_rcnn", trainable_layers=7)
    with pytest.raises(UserError, match=r"model\.norm=layer is not known"):
        FasterRCNN(3, norm="layer")
    with pytest.raises(UserError, match="torchvision has none for this backbone"):
        build("faster_rcnn", weights="DEFAULT")
    with pytest.raises(UserError, match=r"model\.strides=\[8, 16\] must be 5 numbers"):
        build("fcos", strides=[8, 16])
    with pytest.raises(UserError, match="multiple of 32"):
        FCOS(3, pyramid_channels=48)
    with pytest.raises(UserError, match="at least 64"):
        FCOS(3, pyramid_channels=32)
    with pytest.raises(UserError, match=r"model\.scales has 2 values: 6 levels need 7"):
        SSDLite(3, scales=[0.1, 0.2])
    with pytest.raises(UserError, match=r"model\.aspect_ratios has 5 lists, the network 6 levels"):
        SSDLite(3, aspect_ratios=[[2]] * 5)
    first = build("retinanet")
    torch.save(first.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"does not fit the model's other options: backbone\.fpn"):
        build("retinanet", weights=str(tmp_path / "a.pth"), pyramid_channels=16)
