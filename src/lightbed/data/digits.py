"""The embedded data set: real handwritten digits that need no network."""

from typing import Any

import torch

from lightbed.data.base import DataModule, Loading
from lightbed.data.source import ArraySource


class Digits(DataModule):
    """scikit-learn's 1,797 handwritten digits, 8x8 grey (E. Alpaydin, C. Kaynak, UCI 1998).

    The set has no splits of its own; `test_fraction` and `val_fraction` are cut off by the keyed permutation.
    Pixels are 0..16 in the source and 0..255 here.

    Args:
        common: the arguments of `DataModule`.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**{"channels": 1, "image_size": [8, 8], **common})

    def load(self) -> Loading:
        from sklearn.datasets import load_digits  # half a second that other data sets need not pay

        raw = load_digits()
        images = (torch.from_numpy(raw.images) * (255 / 16)).round().to(torch.uint8)[:, None]
        images = torch.stack([self.preprocess.fit(image) for image in images])
        source = ArraySource(images, {"label": torch.from_numpy(raw.target).long()})
        return Loading({"train": source}, [str(digit) for digit in range(10)])
