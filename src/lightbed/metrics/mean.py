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
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names: list[str] = []
        self.add_state("total", torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Add a batch's losses (0-d tensors, means over its images) and its number of images."""
        if not len(self.total):
            self.names = list(losses)
            self.total = torch.zeros(len(losses), dtype=torch.float64, device=self.device)
        values = [value.double() * images for value in losses.values()]
        self.total += torch.stack(values)
        self.count += images

    def compute(self) -> dict[str, Tensor]:
        """Mean by name, float32."""
        return dict(zip(self.names, (self.total / self.count).float(), strict=True))
