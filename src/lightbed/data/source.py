"""Where samples come from: an array in memory (or mapped from disk), or any data set read one sample at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightbed.chance import derive, seed_all
from lightbed.data.order import Keys
from lightbed.errors import UserError
from lightbed.types import Target

Sample = tuple[Tensor, Target]
Batch = tuple[Any, Any]


class Source(Protocol):
    """A split of a data set: a length, and a sample `(image, target)` for each index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class ArraySource:
    """Samples held as arrays and fetched a batch at a time, without a Python call per sample.

    Args:
        images: uint8 (N, C, H, W), a tensor in memory or a NumPy memory map.
        target: tensors with a leading N each, e.g. `{"label": int64 (N,)}`.
        paths: the files that the images came from, if any.
    """

    def __init__(
        self, images: Tensor | np.ndarray, target: dict[str, Tensor], paths: Sequence[str] | None = None
    ) -> None:
        lengths = {len(images), *(len(value) for value in target.values())}
        if len(lengths) != 1:
            raise ValueError(f"images and targets differ in length: {sorted(lengths)}")
        self.images, self.target, self.paths = images, target, paths

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        target: Any = {name: values[index] for name, values in self.target.items()}
        if self.paths is not None:
            target["path"] = self.paths[index]
        image = self.images[index]
        return (torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image), target

    def take(self, indices: Tensor) -> Batch:
        """The samples at `indices`, int64 (n,), as one batch: images uint8 (n, C, H, W) and stacked targets."""
        mapped = isinstance(self.images, np.ndarray)
        images = torch.from_numpy(self.images[indices.numpy()]) if mapped else self.images[indices]
        return images, {name: values[indices] for name, values in self.target.items()}


class Subset:
    """Some samples of a source, by position; keeps the fast way of reading where the source has it."""

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.source, self.indices = source, indices
        if hasattr(source, "take"):
            self.take = lambda positions: source.take(self.indices[positions])
        paths = getattr(source, "paths", None)
        self.paths = [paths[i] for i in indices.tolist()] if paths is not None else None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[index])]


class KeyedReader(Dataset[Batch]):
    """Reads whole batches named by `Keys`; each sample's transform draws from a generator keyed by (seed, epoch, index).

    Args:
        source: where samples come from.
        seed: the run's seed.
        transform: a torchvision v2 transform `(image, target) -> (image, target)`, per sample in the loader; or None.
        collate: list of samples -> batch.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        transform: Callable[..., Sample] | None,
        collate: Callable[[list[Sample]], Batch],
    ) -> None:
        self.source, self.seed, self.transform, self.collate = source, seed, transform, collate
        self.fast = transform is None and hasattr(source, "take")

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, keys: Keys) -> Batch:
        if self.fast:
            images, target = self.source.take(keys.indices)  # type: ignore[attr-defined]
        else:
            images, target = self.collate([self._read(keys.epoch, index) for index in keys.indices.tolist()])
        if isinstance(target, dict):
            target["index"] = keys.indices
        return images, target

    def _read(self, epoch: int, index: int) -> Sample:
        if self.transform is not None:
            seed_all(derive(self.seed, "sample", epoch, index))
        try:
            sample = self.source[index]
            return sample if self.transform is None else self.transform(*sample)
        except UserError:
            raise
        except Exception as error:
            where = f"sample {index} of {type(self.source).__name__}"
            raise RuntimeError(f"{where} (epoch {epoch}) failed: {type(error).__name__}: {error}") from error


def stack(samples: list[Sample]) -> Batch:
    """Samples of one size -> images (N, C, H, W) and a dict of stacked targets; paths stay a list."""
    images = torch.stack([image for image, _ in samples])
    names = samples[0][1].keys()
    columns: dict[str, Any] = {name: [target[name] for _, target in samples] for name in names}  # type: ignore[literal-required]
    return images, {
        name: torch.stack([torch.as_tensor(value) for value in values])
        for name, values in columns.items()
        if name != "path"
    }


def as_batch(batch: Batch) -> Batch:
    """The loader's collate function: a `KeyedReader` has collated already."""
    return batch
