"""What R-CNN and Fast R-CNN have in common: external proposals, and which detections are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightbed.errors import UserError
from lightbed.models.pyramid import at_most_100
from lightbed.proposals.selective_search import make_search


class ProposalDetector(nn.Module):
    """A detector on proposals of selective search.

    In training it takes images and targets, whose labels begin at 1, and gives losses by name; in evaluation it takes
    images and gives boxes, labels and scores, best first. Images come normalised and keep their size.

    Args:
        mean: that images were normalised with, see `SelectiveSearch`; as for `std`.
        proposals: arguments of `SelectiveSearch`.
        box_score_thresh: detections that score no more are left out.
        box_nms_thresh: IoU over which the worse of two detections of a class is left out.
        box_detections_per_img: at most 100.
        box_fg_iou_thresh: IoU with an object from which a proposal is one.
        box_batch_size_per_image: proposals of an image that the loss is computed on.
        box_positive_fraction: share of objects among them, at most.

    Raises:
        UserError: one of them is out of its range, or the search's are, see there.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        proposals: Mapping[str, Any] | None = None,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.3,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 64,
        box_positive_fraction: float = 0.25,
    ) -> None:
        super().__init__()
        at_most_100(box_detections_per_img, "box_detections_per_img")
        shares = {
            "box_score_thresh": box_score_thresh,
            "box_nms_thresh": box_nms_thresh,
            "box_fg_iou_thresh": box_fg_iou_thresh,
            "box_positive_fraction": box_positive_fraction,
        }
        for name, value in shares.items():
            share(value, name)
        at_least(box_batch_size_per_image, 1, "box_batch_size_per_image")
        self.proposals: nn.Module = make_search(mean, std, proposals)
        self.box_score_thresh, self.box_nms_thresh = box_score_thresh, box_nms_thresh
        self.box_detections_per_img, self.box_fg_iou_thresh = box_detections_per_img, box_fg_iou_thresh
        self.box_batch_size_per_image, self.box_positive_fraction = box_batch_size_per_image, box_positive_fraction


def share(value: float, name: str) -> float:
    """`value`, if it lies in 0..1.

    Raises:
        UserError: it does not.
    """
    if not 0 <= value <= 1:
        raise UserError(f"model.{name}={value} must lie in 0..1")
    return value


def at_least(value: float, least: float, name: str) -> None:
    """Refuse a value below `least`.

    Raises:
        UserError: it is.
    """
    if not value >= least:
        raise UserError(f"model.{name}={value} must be at least {least}")


def positive(value: float, name: str) -> float:
    """`value`, if it is more than 0: nothing of no strength can be fitted.

    Raises:
        UserError: it is not.
    """
    if not value > 0:
        raise UserError(f"model.{name}={value} must be more than 0")
    return value
