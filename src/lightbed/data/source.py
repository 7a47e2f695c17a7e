"""Where samples come from: an array in memory (or mapped from disk), or files read one sample at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from lightbed.chance import derive, seed_all
from lightbed.data.images import read_image
from lightbed.data.order import Keys
from lightbed.errors import UserError
from lightbed.runs.log import tell
from lightbed.transforms.boxes import transform_objects, transform_one
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import Target

Sample = tuple[Tensor, Target]
Batch = tuple[Any, Any]

_STAND_INS = 8  # images that are tried in place of a batch of which none can be read


class Source(Protocol):
    """A split of a data set: a length, and a sample `(image, target)` for each index.

    A source whose attribute `batched` is true also has `take(indices)`, which gives a whole batch at once.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class ArraySource:
    """Samples held as arrays and fetched a batch at a time, without a Python call per sample.

    Args:
        images: uint8 (N, C, H, W), a tensor in memory or a NumPy array, also one mapped from disk.
        target: tensors with a leading N each, e.g. `{"label": int64 (N,)}`.
        paths: the files that the images came from, if any.
    """

    batched = True

    def __init__(
        self, images: Tensor | np.ndarray, target: dict[str, Tensor], paths: Sequence[str] | None = None
    ) -> None:
        lengths = {len(images), *(len(value) for value in target.values())}
        if len(lengths) != 1:
            raise ValueError(f"images and targets differ in length: {sorted(lengths)}")
        # NumPy copies rows without waking torch's threads, which costs more than the copy where cores are busy
        self.images = images.numpy() if isinstance(images, Tensor) else images
        self.target, self.paths = target, paths

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return torch.from_numpy(np.array(self.images[index])), _target(self.target, self.paths, index)

    def take(self, indices: Tensor) -> Batch:
        """The samples at `indices`, int64 (n,), as one batch: images uint8 (n, C, H, W) and stacked targets."""
        images = torch.from_numpy(np.take(self.images, indices.numpy(), axis=0))
        return images, {name: values[indices] for name, values in self.target.items()}


class FileSource:
    """Samples whose images are read from their files each time: for data too large to be kept decoded.

    Args:
        paths: image files.
        target: tensors with a leading N each.
        preprocess: says channels and size.
    """

    batched = False

    def __init__(self, paths: Sequence[str], target: dict[str, Tensor], preprocess: Preprocess) -> None:
        self.paths, self.target, self.preprocess = paths, target, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        image = read_image(self.paths[index], self.preprocess.channels)
        return self.preprocess.fit(image), _target(self.target, self.paths, index)


def _target(target: dict[str, Tensor], paths: Sequence[str] | None, index: int) -> Target:
    one: Any = {name: values[index] for name, values in target.items()}
    if paths is not None:
        one["path"] = paths[index]
    return one  # type: ignore[no-any-return]


class Subset:
    """Some samples of a source, by position; keeps the fast way of reading where the source has it."""

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.source, self.indices = source, indices
        self.batched = getattr(source, "batched", False)
        paths = getattr(source, "paths", None)
        self.paths = [paths[i] for i in indices.tolist()] if paths is not None else None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[index])]

    def take(self, positions: Tensor) -> Batch:
        """See `ArraySource.take`; only where `batched`."""
        return self.source.take(self.indices[positions])  # type: ignore[attr-defined, no-any-return]


class KeyedReader(Dataset[Batch]):
    """Reads whole batches named by `Keys`; what a sample's transform draws is keyed by (seed, epoch, index).

    Args:
        source: where samples come from.
        seed: the run's seed.
        transform: a torchvision v2 transform `(image, target) -> (image, target)`, per sample in the loader; or None.
        collate: list of samples -> batch.
        split: what the source is called, for titles.
        skip: leave out what cannot be read any more, and name it; else that ends the run.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        transform: Callable[..., Sample] | None,
        collate: Callable[[list[Sample]], Batch],
        split: str = "",
        *,
        skip: bool = False,
    ) -> None:
        self.source, self.seed, self.transform, self.collate = source, seed, transform, collate
        self.split, self.skip = split, skip
        self.left_out: set[int] = set()
        self.fast = transform is None and getattr(source, "batched", False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, keys: Keys) -> Batch:
        indices = keys.indices
        if self.fast:
            images, target = self.source.take(indices)  # type: ignore[attr-defined]
        else:
            samples, indices = self.read(keys.epoch, indices)
            images, target = self.collate(samples)
        if isinstance(target, dict):
            target["index"] = indices
        elif isinstance(target, list):
            for one, index in zip(target, indices, strict=True):
                one["index"] = index
        return images, target

    def read(self, epoch: int, indices: Tensor) -> tuple[list[Sample], Tensor]:
        """The samples at `indices`, int64 (n,), and the indices of those that could be read.

        Where they are skipped and none is left, as in a batch of one image, the next one that can be read stands in.

        Raises:
            UserError: a sample cannot be read; where they are skipped, none of these can.
        """
        samples: list[Sample] = []
        kept: list[int] = []
        count, last = len(indices), int(indices[-1])
        stand_ins = [(last + i) % len(self) for i in range(1, _STAND_INS + 1)] if self.skip else []
        for place, index in enumerate([*indices.tolist(), *stand_ins]):
            if place >= count and samples:
                break
            try:
                sample = self._guarded(epoch, index, self.source.__getitem__, index)
            except UserError as error:
                if not self.skip:
                    raise
                self._tell(index, error)
                continue
            if self.transform is not None:
                sample = self._guarded(epoch, index, self._vary, epoch, index, *sample)
            samples.append(sample)
            kept.append(index)
        if not samples:
            raise UserError(f"none of the {count} images of a batch can be read any more: is the folder gone?")
        return samples, indices if kept == indices.tolist() else torch.tensor(kept)

    def _tell(self, index: int, error: UserError) -> None:
        if index not in self.left_out:  # once a reading process
            tell(f"left out from now on: {error}")
            self.left_out.add(index)

    def _vary(self, epoch: int, index: int, image: Tensor, target: Target) -> Sample:
        """A sample as training's transform makes it."""
        seed = derive(self.seed, "sample", epoch, index)
        image, target = self._transformed(tv_tensors.Image(image), target, seed)
        if image.dtype != torch.uint8:
            raise UserError(
                f"augment.sample gives {str(image.dtype).removeprefix('torch.')} images where uint8 goes on to the "
                "device, which scales and normalises: leave out ToDtype and Normalize"
            )
        return image, target

    def _guarded(self, epoch: int, index: int, function: Callable[..., Sample], *args: Any) -> Sample:
        try:
            return function(*args)
        except UserError:
            raise
        except Exception as error:
            paths = getattr(self.source, "paths", None)
            where = f"sample {index}" + (f" ({paths[index]})" if paths is not None else "")
            raise RuntimeError(f"{where} of epoch {epoch} failed: {type(error).__name__}: {error}") from error

    def _transformed(self, image: Tensor, target: Target, key: int) -> Sample:
        transform: Callable[..., Sample] = self.transform  # type: ignore[assignment]  # only called where there is one
        if "boxes" in target:
            return transform_objects(transform, image, {**target}, lambda: seed_all(key))
        if "box" in target:
            return transform_one(transform, image, {**target}, lambda: seed_all(key))
        seed_all(key)
        return transform(image, target)


def stack(samples: list[Sample]) -> Batch:
    """Samples of one size -> images (N, C, H, W) and a dict of stacked targets, without their paths."""
    images = torch.stack([image for image, _ in samples])
    names = [name for name in samples[0][1] if name != "path"]
    columns: dict[str, list[Any]] = {name: [target[name] for _, target in samples] for name in names}  # type: ignore[literal-required]
    return images, {name: torch.stack([torch.as_tensor(value) for value in columns[name]]) for name in names}


def listed(samples: list[Sample]) -> Batch:
    """Samples of any sizes -> a list of images uint8 (C, h, w) and a list of targets, of plain tensors."""
    images = [image.as_subclass(Tensor) for image, _ in samples]
    return images, [{name: _plain(value) for name, value in target.items()} for _, target in samples]


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, Tensor) else value


def as_batch(batch: Batch) -> Batch:
    """The loader's collate function: a `KeyedReader` has collated already."""
    return batch
