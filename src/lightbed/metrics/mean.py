"""Mean losses of an epoch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class LossMean(Metric):
    """The mean of each named loss over all images of an epoch, on all devices.

    Batches count by their number of images, so a smaller last batch does not weigh as much as a whole one. NaN or
    infinite losses stay in the mean: a diverged epoch must not look healthy.
    """

    full_state_update = False
    higher_is_better = False
    carried = ("names",)  # what a checkpoint in the middle of an epoch holds besides the states
    total: Tensor
    rest: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names: list[str] = []
        # float32 with what it rounded off beside it: some devices have no float64
        self.add_state("total", torch.zeros(0), dist_reduce_fx="sum")
        self.add_state("rest", torch.zeros(0), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Add a batch's losses (0-d tensors, means over its images) and its number of images."""
        if self.names != (names := list(losses)):
            self.names = names
        if not len(self.total):
            self.total, self.rest = torch.zeros(2, len(losses), device=self.device)
        # in place, because a Metric's attributes are slow to set
        values = torch.stack(list(losses.values())).float() * images
        total = self.total + values
        self.rest.add_(values.sub_(total - self.total))  # Kahan's summation
        self.total.copy_(total)
        self.count.add_(images)

    def compute(self) -> dict[str, Tensor]:
        """Mean by name, float32; NaN in an epoch all of whose batches were left out."""
        if not len(self.total):
            return dict.fromkeys(self.names, torch.tensor(torch.nan))
        mean = (self.total.cpu().double() + self.rest.cpu().double()) / self.count.cpu()
        return dict(zip(self.names, mean.float(), strict=True))
