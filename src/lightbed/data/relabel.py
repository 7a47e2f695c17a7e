"""Data whose classes stand in another order than a model's."""

from typing import Any

import torch
from torch import Tensor

from lightbed.data.base import DataModule
from lightbed.data.source import Batch, Sample, Source
from lightbed.errors import UserError, one_of

_LISTED = 5  # class names in a message


class Relabelled:
    """A source in which class i of the data is class `order[i]` of the model.

    Args:
        source: samples with `label`, `labels` or `mask`.
        order: int64 (K,).
    """

    def __init__(self, source: Source, order: Tensor) -> None:
        self.source, self.order = source, order
        self.paths = getattr(source, "paths", None)
        self.batched = getattr(source, "batched", False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self._renamed(self.source[index])

    def take(self, indices: Tensor) -> Batch:
        """See `ArraySource.take`; only where `batched`."""
        return self._renamed(self.source.take(indices))  # type: ignore[attr-defined]

    def _renamed(self, sample: Any) -> Batch:
        image, target = sample
        if "labels" in target and "mask" not in target:
            return image, {**target, "labels": self.order[target["labels"]]}
        if "mask" in target:
            numbers = torch.arange(256, dtype=torch.uint8)  # what is no class, such as void, stays
            numbers[: len(self.order)] = self.order.to(torch.uint8)
            return image, {**target, "mask": numbers[target["mask"].long()]}
        label = torch.as_tensor(target["label"])
        if label.is_floating_point():  # several labels an image: columns move
            return image, {**target, "label": label.index_select(-1, self.order.argsort())}
        return image, {**target, "label": self.order[label]}


def match_classes(data: DataModule, classes: list[str], by: str) -> bool:
    """Give the data the model's `classes`; returns whether labels had to be renumbered.

    Args:
        data: set up.
        classes: the model's.
        by: 'names': the same names in any order; 'order': names may differ, the i-th is the i-th.

    Raises:
        UserError: they are not the same classes; both sides are named.
    """
    one_of(by, ("names", "order"), "classes")
    if len(data.classes) != len(classes):
        raise UserError(
            f"the data has {len(data.classes)} classes ({_list(data.classes)}), "
            f"the model {len(classes)} ({_list(classes)}): a test needs the same"
        )
    if data.classes == classes:
        return False
    theirs = [name for name in data.classes if name not in classes]
    if by == "names" and theirs:
        ours = [name for name in classes if name not in data.classes]
        raise UserError(
            f"the data's classes {_list(theirs)} are not among the model's, which has {_list(ours)} instead: "
            "rename them, or take them by position with classes=order"
        )
    if by == "names":
        order = torch.tensor([classes.index(name) for name in data.classes])
        data.splits = {split: Relabelled(source, order) for split, source in data.splits.items()}
    data.classes = list(classes)
    return by == "names"


def _list(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", ... ({len(names)})" if len(names) > _LISTED else "")
