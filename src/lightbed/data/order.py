"""Which samples make which batch: a function of (seed, epoch), never of a state that a resume could lose."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lightbed.chance import permutation

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Keys(NamedTuple):
    """A batch to read: the epoch and the samples' positions, int64 (n,)."""

    epoch: int
    indices: Tensor


class TrainOrder(Sampler[Keys]):
    """Batches of training samples in an order keyed by (seed, epoch), at the place where the run stands.

    Position and epoch are asked from the trainer when iteration starts, so there is nothing to save: a run resumed in
    the middle of an epoch goes on with its next batch. On `world` processes batch k is dealt out sample by sample,
    so the union over processes is the batch of one process. A process for which the last batch has no sample reads
    one from the epoch's beginning, for all must take the same number of steps; `shares` says that it does not count.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, drop_last: bool, trainer: "Trainer | None") -> None:
        self.count, self.batch_size, self.seed, self.drop_last = count, batch_size, seed, drop_last
        self.trainer = trainer
        self.rank = trainer.global_rank if trainer else 0
        self.world = trainer.world_size if trainer else 1

    def __len__(self) -> int:
        whole = self.batch_size * self.world
        return self.count // whole if self.drop_last else -(-self.count // whole)

    def steps(self) -> int:
        """Batches an epoch of this run: `trainer.limit_train_batches` may end it early."""
        limit = self.trainer.limit_train_batches if self.trainer else 1.0
        return max(1, min(len(self), limit) if isinstance(limit, int) else int(len(self) * limit))

    def __iter__(self) -> Iterator[Keys]:
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total if self.trainer else None
        done = progress.processed if progress is not None else 0
        epoch, start = divmod(done, self.steps())
        order = permutation(self.count, self.seed, "order", epoch)
        whole = self.batch_size * self.world
        for batch in range(start, len(self)):
            mine = order[batch * whole + self.rank : (batch + 1) * whole : self.world]
            yield Keys(epoch, mine if len(mine) else order[self.rank % self.count][None])

    def shares(self, batch: int) -> tuple[int, int]:
        """How many samples of the epoch's batch `batch` are this process's, and how many all processes have."""
        whole = self.batch_size * self.world
        left = min(self.count - batch * whole, whole)
        return len(range(self.rank, left, self.world)), left


class EvalOrder(Sampler[Keys]):
    """Batches of all samples from the first to the last, each sample on exactly one process."""

    def __init__(self, count: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.mine = torch.arange(count)[rank::world]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch_size)

    def __iter__(self) -> Iterator[Keys]:
        starts = range(0, len(self.mine), self.batch_size)  # none where there are fewer samples than processes
        return (Keys(0, self.mine[start : start + self.batch_size]) for start in starts)
