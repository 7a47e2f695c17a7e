"""Chance as a function of a key, not of a state.

Every random number of a run is derived from the seed and the place where it is used: the order of an epoch from
(seed, epoch), a sample's augmentation from (seed, epoch, index), dropout from (seed, step). So neither the number of
workers, nor a resume, nor a validation in between changes any of them.
"""

import hashlib
import random

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the increment of SplitMix64


def derive(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key` and on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def seed_all(seed: int) -> None:
    """Seed torch, Python and NumPy (about 7 us; `torch.manual_seed` alone takes 117 us because it visits every device)."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - user transforms draw from the global generator
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def permutation(count: int, *key: int | str) -> Tensor:
    """A random order of `count` things, int64 (count,), that is a function of `key`."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive(*key)))


def uniform(seed: int, epoch: int, index: Tensor, draws: int) -> Tensor:
    """Random numbers in [0, 1), float32 (N, draws), each a function of (seed, epoch, sample index, draw).

    A counter-based generator: the key is mixed by the finaliser of SplitMix64 (Steele, Lea, Flood 2014), so that a
    whole batch costs a few microseconds and gives the same bits on every machine and device.

    Args:
        seed: the run's seed.
        epoch: the epoch, counted from 0.
        index: int64 (N,), each sample's position in its split.
        draws: how many numbers a sample needs.
    """
    keys = index.cpu().numpy().astype(np.uint64)[:, None]
    slots = np.arange(1, draws + 1, dtype=np.uint64)[None, :]
    start = np.uint64(derive(seed, "augment", epoch))
    with np.errstate(over="ignore"):  # wrapping around 2^64 is the point
        state = _mix(_mix(keys * np.uint64(_GOLDEN) + start) + slots * np.uint64(_GOLDEN))
    # 24 bits fill a float32's mantissa; more would round up to 1.0
    return torch.from_numpy((state >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
