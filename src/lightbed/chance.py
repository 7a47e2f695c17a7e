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


def _signed(word: int) -> int:
    """The low 64 bits of `word` as the int64 that has them."""
    return (word & (2**64 - 1) ^ 2**63) - 2**63


_GOLDEN = _signed(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the increment of SplitMix64
_FINALISER = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))  # shift and factor of each round


def derive(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key` and on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def seed_all(seed: int) -> None:
    """Seed torch, Python and NumPy.

    About 7 us; `torch.manual_seed` alone takes 117 us because it visits every device.
    """
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # user transforms may draw from the global generator
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no type for it
        torch.cuda.manual_seed_all(seed)


def permutation(count: int, *key: int | str) -> Tensor:
    """A random order of `count` things, int64 (count,), that is a function of `key`."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive(*key)))


def uniform(seed: int, epoch: int, index: Tensor, draws: int) -> Tensor:
    """Random numbers in [0, 1), float32 (N, draws), each a function of (seed, epoch, sample index, draw).

    A stream of SplitMix64 (Steele, Lea, Flood 2014) that starts at a hash of (seed, epoch), read at the places
    index * 65536 + draw: the generator is a counter and a finaliser, so any place costs the same. A batch takes tens
    of microseconds and has the same bits on every machine and device; the device is the one that `index` is on, so a
    GPU is never waited for.

    Args:
        seed: the run's seed.
        epoch: the epoch, counted from 0.
        index: int64 (N,), each sample's position in its split.
        draws: how many numbers a sample needs, up to 65536.
    """
    start = derive(seed, "augment", epoch)
    slots = torch.arange(1, draws + 1, device=index.device).mul_(_GOLDEN).add_(start)
    state = (index * _signed(_GOLDEN << 16))[:, None] + slots  # int64 wraps around 2^64, which is the point
    for shift, factor in _FINALISER:
        # an arithmetic shift drags the sign along; the mask makes it a logical one
        state = (state >> shift).bitwise_and_((1 << (64 - shift)) - 1).bitwise_xor_(state).mul_(factor)
    state = (state >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(state)
    # 24 bits fill a float32's mantissa; more would round up to 1.0
    return (state >> 40).bitwise_and_((1 << 24) - 1).float().mul_(2**-24)
