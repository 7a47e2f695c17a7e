"""Chance is a function of its key: golden values, independence, spread."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightbed.chance import derive, permutation, seed_all, uniform

WORD = 2**64 - 1
indices = st.lists(st.integers(0, 2**40), min_size=1, max_size=20)


def splitmix(start: int, place: int) -> int:
    """SplitMix64 in plain integers: the `place`-th output of the stream that starts at `start`."""
    state = (start + place * 0x9E3779B97F4A7C15) & WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def test_reference_gives_the_published_stream():
    assert [splitmix(1234567, place) for place in (1, 2, 3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(indices, st.integers(0, 9), st.integers(0, 2**62), st.integers(0, 1000))
def test_uniform_is_splitmix(index, draws, seed, epoch):
    start = derive(seed, "augment", epoch)
    expected = [[(splitmix(start, i * 65536 + draw + 1) >> 40) / 2**24 for draw in range(draws)] for i in index]
    numbers = uniform(seed, epoch, torch.tensor(index), draws)
    assert numbers.shape == (len(index), draws)
    assert numbers.dtype == torch.float32
    assert numbers.tolist() == expected


def test_uniform_keeps_its_values():
    """A change of these numbers changes every augmented run ever made."""
    assert uniform(0, 0, torch.tensor([0, 1]), 2).tolist() == [
        [0.45381784439086914, 0.5060210824012756],
        [0.0882830023765564, 0.8297352194786072],
    ]


def test_uniform_is_spread_evenly_and_without_pattern():
    numbers = uniform(0, 0, torch.arange(100_000), 4).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean(0).sub(1 / 2).abs().max() < 4 * (1 / 12 / 1e5) ** 0.5
    assert numbers.var(0).sub(1 / 12).abs().max() < 4 * (1 / 180 / 1e5) ** 0.5
    counts = torch.histc(numbers, bins=256, min=0, max=1)
    assert (counts - counts.mean()).square().sum() / counts.mean() < 350  # chi square, 255 degrees of freedom: 1e-4
    other_epoch, other_seed = (uniform(s, e, torch.arange(100_000), 1)[:, 0].double() for s, e in ((0, 1), (1, 0)))
    pairs = {
        "neighbouring draws": (numbers[:, 0], numbers[:, 1]),
        "neighbouring samples": (numbers[:-1, 0], numbers[1:, 0]),
        "epochs": (numbers[:, 0], other_epoch),
        "seeds": (numbers[:, 0], other_seed),
    }
    for name, pair in pairs.items():
        assert abs(torch.corrcoef(torch.stack(pair))[0, 1]) < 4 / 1e5**0.5, name


def test_uniform_has_no_equal_rows():
    rows = torch.cat([uniform(s, e, torch.arange(2000), 3) for s in range(3) for e in range(3)])
    assert len(rows.unique(dim=0)) == len(rows)


@given(st.tuples(st.integers(0, 2**31), st.text(max_size=5)), st.tuples(st.integers(0, 2**31), st.text(max_size=5)))
def test_derive_tells_keys_apart(first, second):
    assert (derive(*first) == derive(*second)) == (first == second)
    assert 0 <= derive(*first) < 2**63


def test_derive_keeps_its_values():
    assert derive(0, "augment", 0) == 8560443537762899631


@pytest.mark.parametrize("count", [0, 1, 17])
def test_permutation_is_one_and_keyed(count):
    order = permutation(count, 3, "order", 0)
    assert order.sort().values.tolist() == list(range(count))
    assert torch.equal(order, permutation(count, 3, "order", 0))
    assert count < 2 or not torch.equal(order, permutation(count, 3, "order", 1))


def test_seed_all_seeds_every_generator():
    def draw():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    seed_all(5)
    first = draw()
    assert draw() != first
    seed_all(5)
    assert draw() == first
