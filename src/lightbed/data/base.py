"""The DataModule that every data set builds on: splits, loaders, keyed order, facts for the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader, Sampler

from lightbed.chance import permutation
from lightbed.data.files import Contents, contents
from lightbed.data.loader import Loader
from lightbed.data.order import EvalOrder, Keys, TrainOrder
from lightbed.data.source import Batch, KeyedReader, Sample, Source, Subset, as_batch, stack
from lightbed.errors import UserError
from lightbed.runs.signals import patient_worker
from lightbed.transforms.preprocess import Preprocess


@dataclass
class Loading:
    """What a data set found: a source for each split that it has, class names, and what was wrong with it."""

    splits: dict[str, Source]
    classes: list[str]
    skipped: list[str] | None = None  # one line a file that could not be read and was left out
    label_faults: dict[str, int] | None = None  # how many faults of each kind the label files have
    category_ids: list[Any] | None = None  # COCO's id of each class


class DataModule(L.LightningDataModule):
    """Splits of a data set as loaders; a subclass says what it holds (`load`) and, if need be, fetches it (`download`).

    Args:
        seed: the run's seed: order and per-sample chance of training.
        batch_size: images a training step and device.
        eval_batch_size: images a step in validation and test; None for the same as `batch_size`.
        num_workers: reading processes; 0 reads in the main process, which is fastest for data in memory.
        drop_last: leave out the last training batch where it is not full.
        channels: 1 grey or 3 RGB; files are converted to it.
        image_size: (height, width), or one number for both, that images are resized to; None for the data's own.
        resize: 'stretch' or 'crop', see `Preprocess`.
        mean: of pixels in 0..1, per channel or one for all.
        std: likewise.
        val_fraction: share of the training split that becomes the validation split where the data has none; 0: none.
        test_fraction: the same for the test split, where the data has none.
        split_seed: chooses which images are cut off; apart from `seed`, so that runs of several seeds are compared
            on the same images.
        limit: train on so many images of the training split, chosen by `split_seed`, once the other splits are cut
            off it; None for all.
        test_seen: test on so many of the images trained on, the first ones, instead of any others: what was learnt by
            heart; None for the test split.
        cache_dir: folder for what is made from the data and can be made again: decoded images, hashes of files.
        transform: per-sample torchvision v2 transform `(image, target) -> (image, target)` for training, in the
            loader; set by the augment group.
    """

    holds: tuple[str, ...] = ("label",)
    """Keys that a target has: what tasks can be trained on it."""

    colours: Mapping[str, Sequence[int]] = MappingProxyType({})
    """RGB of classes by name, for pictures, where the data says them."""

    multilabel: bool = False
    """Whether `label` is float32 (K,) of 0 and 1, for tasks of kind multilabel."""

    broken: str = "error"
    """What becomes of files that cannot be read, and of reading processes that are killed: 'error', or 'skip'."""

    def __init__(
        self,
        *,
        seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
        channels: int = 3,
        image_size: Sequence[int] | int | None = None,
        resize: str = "stretch",
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.5,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        limit: int | None = None,
        test_seen: int | None = None,
        cache_dir: str | Path = "~/.cache/lightbed/decoded",
        transform: Callable[..., Sample] | None = None,
    ) -> None:
        super().__init__()
        _check_counts(batch_size, eval_batch_size, num_workers)
        if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction >= 1:
            raise UserError(
                f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must sum to less than 1"
            )
        self.seed, self.batch_size, self.eval_batch_size = seed, batch_size, eval_batch_size or batch_size
        for key, count in (("limit", limit), ("test_seen", test_seen)):
            if count is not None and count < 1:
                raise UserError(f"data.{key}={count} must be at least 1, or null for all")
        self.limit, self.test_seen = limit, test_seen
        self.num_workers, self.drop_last = num_workers, drop_last
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.preprocess = Preprocess(channels, image_size, mean, std, resize)
        self.cache_dir = Path(cache_dir).expanduser()
        self.transform = transform
        self.splits: dict[str, Source] = {}
        self.classes: list[str] = []
        self.skipped: list[str] = []
        self.label_faults: dict[str, int] = {}
        self.category_ids: list[Any] | None = None

    # -- what a subclass says ------------------------------------------------------------------------------------------

    def download(self) -> None:
        """Fetch what is missing, where the network is; called once a machine."""

    def load(self) -> Loading:
        """Open the splits; called once a process."""
        raise NotImplementedError

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples -> batch; images of one size by default."""
        return stack(samples)

    def largest(self) -> tuple[int, int] | None:
        """Own (height, width) of the largest image, before it was resized, known once the data is set up.

        Unless a subclass says otherwise, images are as large as the network's input; None where they differ in size.
        """
        return self.preprocess.size

    def fingerprint_files(self) -> list[Path]:
        """Files that the data is read from, known once the data is set up; embedded data has none."""
        return []

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        self.download()

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - all splits are opened at once: it is cheap
        if self.splits:
            return
        loading = self.load()
        self.splits, self.classes, self.skipped = dict(loading.splits), list(loading.classes), loading.skipped or []
        self.label_faults, self.category_ids = dict(loading.label_faults or {}), loading.category_ids
        self._cut("test", self.test_fraction)
        self._cut("val", self.val_fraction)
        self._limit()
        self._see_again()
        for name, source in self.splits.items():
            if not len(source):
                raise UserError(f"split {name} of {type(self).__name__} has no images")

    def _cut(self, name: str, fraction: float) -> None:
        """Where the data has no split of this name, take a keyed share of the training split for it."""
        if name in self.splits or not fraction or "train" not in self.splits:
            return
        source = self.splits["train"]
        count = round(len(source) * fraction)
        if not 0 < count < len(source):
            raise UserError(
                f"data.{name}_fraction={fraction} of {len(source)} training images leaves {count} for {name}: "
                "give more images, another fraction, or a split of its own"
            )
        order = permutation(len(source), self.split_seed, "split", name)
        self.splits[name] = Subset(source, order[:count].sort().values)
        self.splits["train"] = Subset(source, order[count:].sort().values)

    def _limit(self) -> None:
        """Keep no more than `limit` training images, chosen by a key: fewer of them are some of the more."""
        source = self.splits.get("train")
        if self.limit is None or source is None:
            return
        if self.limit > len(source):
            raise UserError(f"data.limit={self.limit}: there are only {len(source)} training images")
        order = permutation(len(source), self.split_seed, "limit")
        self.splits["train"] = Subset(source, order[: self.limit].sort().values)

    def _see_again(self) -> None:
        """Let the first `test_seen` training images be the test split."""
        source = self.splits.get("train")
        if self.test_seen is None or source is None:
            return
        if self.test_seen > len(source):
            raise UserError(f"data.test_seen={self.test_seen}: there are only {len(source)} training images")
        self.splits["test"] = Subset(source, torch.arange(self.test_seen))

    def train_dataloader(self) -> DataLoader[Batch]:
        source = self._source("train")
        order = self._train_order()
        if not len(order):
            raise UserError(
                f"{len(source)} training images give no batch of data.batch_size={self.batch_size} with "
                "data.drop_last=true: lower the batch size"
            )
        skip = self.broken == "skip"
        return self._loader(KeyedReader(source, self.seed, self.transform, self.collate, skip=skip), order)

    def _train_order(self) -> TrainOrder:
        count = len(self._source("train"))
        return TrainOrder(count, self.batch_size, self.seed, drop_last=self.drop_last, trainer=self.trainer)

    def training_batches(self) -> int:
        """Batches an epoch and device, as the trainer limits them."""
        return self._train_order().steps()

    def shares(self, batch: int) -> tuple[int, int]:
        """Images of a training batch that are this process's and count, and those of all processes."""
        return self._train_order().shares(batch)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        return self.eval_loader("val") if "val" in self.splits else []

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.eval_loader("test")

    def eval_loader(self, split: str, *, whole: bool = False) -> DataLoader[Batch]:
        """All samples of a split in order, without training's transform; of several processes each has its share.

        With `whole` each has all.

        Raises:
            UserError: there are more processes than samples.
        """
        source = self._source(split)
        trainer = None if whole else self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if len(source) < world:  # Lightning would have one of them wait for the others for ever
            raise UserError(
                f"the {split} split has {len(source)} image{'s' * (len(source) > 1)} for {world} processes, and each "
                f"needs one: use fewer devices, or give it more images, e.g. by data.{split}_fraction"
            )
        reader = KeyedReader(source, self.seed, None, self.collate, split, skip=self.broken == "skip")
        return self._loader(reader, EvalOrder(len(source), self.eval_batch_size, rank, world))

    def _source(self, split: str) -> Source:
        if split not in self.splits:
            raise UserError(f"{type(self).__name__} has no {split} split, only {', '.join(self.splits) or 'none'}")
        return self.splits[split]

    def _loader(self, reader: KeyedReader, order: Sampler[Keys]) -> DataLoader[Batch]:
        return Loader(
            reader,
            revive=self.broken == "skip",
            batch_sampler=order,  # it yields Keys, which our reader takes
            num_workers=self.num_workers,
            collate_fn=as_batch,  # the reader has collated already
            persistent_workers=self.num_workers > 0,
            worker_init_fn=patient_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own, so that opening a loader draws nothing from the run's chance
        )

    # -- facts ---------------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What a model can ask of the data by writing `auto` in its config."""
        self.setup()
        size = self.preprocess.size or tuple(self._source(next(iter(self.splits)))[0][0].shape[-2:])
        channels = self.preprocess.channels
        return {
            "num_classes": len(self.classes),
            "in_channels": channels,
            "image_size": list(size),
            "in_features": channels * size[0] * size[1],
            "mean": self.preprocess.mean,
            "std": self.preprocess.std,
        }

    def fingerprint(self) -> dict[str, Any]:
        """What the files hold, for a run's record: `root`, `files`, `bytes`, `sha256`; see `files.Contents`."""
        return self.contents().summary()

    def contents(self) -> Contents:
        """The hash of each file."""
        self.setup()
        return contents(self.fingerprint_files(), self.cache_dir)

    def class_counts(self) -> torch.Tensor:
        """Images of each class in the training split, int64 (K,)."""
        source = self._source("train")
        labels = _labels(source)
        return labels.sum(0).long() if labels.ndim == 2 else torch.bincount(labels, minlength=len(self.classes))

    def class_weights(self, kind: str) -> list[float]:
        """Weight of each class from how often it occurs in the training split: 'balanced', see `task.class_weights`.

        Raises:
            UserError: there is no such kind.
        """
        if kind != "balanced":
            raise UserError(f"task.class_weights={kind} is not known: a list, balanced or null")
        counts = self.class_counts().double()
        weights: list[float] = (counts.sum() / (len(counts) * counts.clamp(min=1))).tolist()
        return weights


def _labels(source: Any) -> torch.Tensor:
    if isinstance(source, Subset):
        return _labels(source.source)[source.indices]
    if hasattr(source, "target"):
        return source.target["label"]  # type: ignore[no-any-return]
    return torch.stack([torch.as_tensor(source[i][1]["label"]) for i in range(len(source))])


def _check_counts(batch_size: int, eval_batch_size: int | None, num_workers: int) -> None:
    if batch_size < 1 or (eval_batch_size is not None and eval_batch_size < 1):
        raise UserError(f"data.batch_size={batch_size} and data.eval_batch_size={eval_batch_size} must be at least 1")
    if num_workers < 0:
        raise UserError(f"data.num_workers={num_workers} must be 0, which reads in the main process, or more")
