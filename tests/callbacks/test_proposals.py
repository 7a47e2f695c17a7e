"""What proposals cost and cover: sums of a real fit and test, of both kinds of detectors."""

from functools import partial
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torchvision.models.detection.image_list import ImageList

from lightbed.callbacks.proposals import Proposals, as_fractions
from lightbed.data.digit_scenes import DigitScenes
from lightbed.errors import UserError
from lightbed.models.cnn import CNN
from lightbed.models.rcnn import FasterRCNN
from lightbed.models.rcnn_2014 import RCNN
from lightbed.monitor import is_time, mode_of
from lightbed.tasks import Classifier, Detector

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
SEARCH = {"engine": "own", "width": 32, "scale": 30, "most": 12}


def networks(data: DigitScenes) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    normal = {"mean": data.preprocess.mean, "std": data.preprocess.std}
    small = {"crop_size": 8, "context": 1, "box_grid": 2, "box_batch_size_per_image": 4}
    light: dict[str, Any] = {"backbone": "mobilenet_v3_small", "pyramid_channels": 32, "levels": [1, 2]}
    light |= {"anchor_sizes": [[12], [24], [48]], "representation_size": 8, "rpn_post_nms_top_n_test": 20}
    return {
        "rcnn": RCNN(10, classifier=CNN(3, 2, [4]), **normal, proposals=SEARCH, **small),
        "faster_rcnn": FasterRCNN(10, **light),
    }


@pytest.mark.parametrize("name", ["rcnn", "faster_rcnn"])
def test_seconds_of_a_fit_and_a_test_and_recall(name: str) -> None:
    data = DigitScenes(
        images={"train": 4, "val": 2, "test": 3}, targets=["boxes", "labels"], batch_size=2, mean=0.5, std=0.25
    )
    data.setup()
    task = Detector(networks(data)[name], 10, optimizer=partial(SGD, lr=0.001), preprocess=data.preprocess)
    callback = Proposals()
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", callbacks=[callback], **QUIET)
    trainer.fit(task, datamodule=data)
    trained = trainer.callback_metrics
    assert all(float(trained[f"train/seconds_{part}"]) > 0 for part in ("proposals", "network", "rest"))
    assert callback.training["images"] == 8
    per_image = sum(float(trained[f"train/seconds_{part}"]) for part in ("proposals", "network", "rest"))
    spent = sum(callback.training[part] for part in ("proposals", "network", "rest"))
    assert per_image == pytest.approx(spent / 4, rel=1e-4), "of both epochs, over the images of one"
    (found,) = trainer.test(task, datamodule=data, verbose=False)
    assert all(found[f"test/seconds_{part}"] > 0 for part in ("proposals", "network", "rest"))
    assert 0 < found["test/proposals"] <= 20
    assert 0 <= found["test/proposal_recall"] <= 1
    if name == "rcnn":
        assert bool(task.model.second.settled), "the second stage has come before the validation"
        boxes = task.model.proposals([data.preprocess(data.splits["test"][i][0]) for i in range(3)])
        assert found["test/proposals"] == pytest.approx(sum(map(len, boxes)) / 3)
    assert not task.model._forward_hooks, "hooks are gone at the end"


def test_proposals_are_fractions_of_the_image_that_they_are_told_in() -> None:
    box = torch.tensor([[10.0, 20.0, 20.0, 40.0]])
    plain = as_fractions([torch.zeros(3, 80, 40)], [box])
    scaled = as_fractions(ImageList(torch.zeros(1, 3, 96, 96), [(80, 40)]), ([box], {}))
    for (found,) in (plain, scaled):
        assert found.tolist() == [[0.25, 0.25, 0.5, 0.5]]


def test_times_are_better_short_and_never_the_same_twice() -> None:
    assert mode_of("test/seconds_network") == "min"
    assert is_time("train/seconds_rest")
    assert not is_time("test/map")


def test_models_without_proposals_are_told() -> None:
    task = Classifier(CNN(3, 2, [4]), num_classes=2)
    with pytest.raises(UserError, match=r"callbacks\.proposals: CNN has none"):
        Proposals().setup(None, task, "fit")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"callbacks\.proposals\.iou=0"):
        Proposals(0)
