"""The three waists that all of Lightbed meets at: the sample, the step and the prediction.

Sample: `(image, target)`. The image is uint8 (C, H, W) until the device scales it; the target is a `Target`.
Batch: images (N, C, H, W) and a `Target` of stacked tensors; a detector's batch is a list of images and a list
of dicts.
"""

from typing import Any, NamedTuple, TypedDict

from torch import Tensor

STAGES = ("train", "val", "test")


class Target(TypedDict, total=False):
    """What is known of one image, or of a batch with a leading N. Only the keys that the data has are there."""

    label: Tensor  # int64 (): the class; for multi-label data float32 (K,) of 0 and 1
    box: Tensor  # float32 (4,): xyxy in pixels, of the one object that counts
    boxes: Tensor  # float32 (n, 4): xyxy in pixels, also (0, 4) for an image without objects
    labels: Tensor  # int64 (n,): class of each box
    masks: Tensor  # bool (n, H, W): one instance each
    crowd: Tensor  # bool (n,): a group that is no single object; not learnt, and detections on it do not count
    area: Tensor  # float32 (n,) in pixels, as the labels say it; where absent that of the mask or box
    mask: Tensor  # int64 (H, W): class of each pixel, 255 = ignore
    index: Tensor  # int64 (): position in its split; augmentation is keyed by it
    path: str  # where the image came from, when it is a file


class Prediction(TypedDict, total=False):
    """What a task says of one image; torchvision's detectors return this form and torchmetrics reads it."""

    label: Tensor  # int64 (), the most probable class; for multi-label tasks bool (K,)
    scores: Tensor  # float32 (K,) per class, or (n,) per box; probabilities in 0..1
    box: Tensor  # float32 (4,): xyxy in pixels
    boxes: Tensor  # float32 (n, 4): xyxy in pixels
    labels: Tensor  # int64 (n,)
    masks: Tensor  # bool (n, H, W)
    mask: Tensor  # uint8 (H, W): class of each pixel
    score_map: Tensor  # float32 (H, W): what a slid classifier says around each pixel, probability of the best class
    image: Tensor  # uint8 (C, H, W): what was made of two images


class Step(NamedTuple):
    """What a task's `step` returns: named losses that sum to the training loss, and what its metrics compare."""

    losses: dict[str, Tensor]
    predictions: Any  # detached; the form that the task's metrics take; None where there are losses alone
    targets: Any
    weight: Tensor | None = None  # sum of the weights that the losses are means by; None: as many as there are images


class Share(NamedTuple):
    """What one of several processes has of a training step."""

    images: int  # that count; 0: it reads one only to take the step with the others
    gradient: Tensor | float  # to multiply the loss by, so that the mean over processes is the loss of all images
    logged: Tensor | float  # to multiply logged losses by, whose mean goes by numbers of images
