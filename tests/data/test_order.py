"""The order of samples: whole, keyed, and the same batches on any number of processes."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from lightbed.data.order import EvalOrder, TrainOrder

counts, sizes, worlds = st.integers(1, 60), st.integers(1, 9), st.integers(1, 4)


def standing(done, *, rank=0, world=1, limit=1.0):
    """What an order asks of a trainer that has trained `done` batches."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=done))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(fit_loop=loop, global_rank=rank, world_size=world, limit_train_batches=limit)


def order(count, size, *, seed=0, done=0, drop_last=False, **trainer):
    return TrainOrder(count, size, seed, drop_last=drop_last, trainer=standing(done, **trainer))


def indices(batches):
    return [i for keys in batches for i in keys.indices.tolist()]


@given(counts, sizes, st.integers(0, 5))
def test_an_epoch_is_every_sample_once(count, size, seed):
    batches = list(order(count, size, seed=seed))
    assert sorted(indices(batches)) == list(range(count))
    assert len(batches) == len(order(count, size))
    assert all(len(keys.indices) == size for keys in batches[:-1])


@given(counts, sizes)
def test_drop_last_leaves_out_less_than_a_batch(count, size):
    batches = list(order(count, size, drop_last=True))
    assert len(batches) == len(order(count, size, drop_last=True)) == count // size
    assert all(len(keys.indices) == size for keys in batches)
    assert len(set(indices(batches))) == count // size * size


def test_is_a_function_of_seed_and_epoch():
    assert indices(order(50, 8)) == indices(order(50, 8))
    assert indices(order(50, 8)) != indices(order(50, 8, seed=1))
    assert indices(order(50, 8)) != indices(order(50, 8, done=7))
    assert [keys.epoch for keys in order(50, 8, done=7)] == [1] * 7


@given(counts, sizes, st.integers(0, 3), st.integers(0, 60))
def test_goes_on_in_the_middle_of_an_epoch(count, size, epoch, batch):
    length = len(order(count, size))
    start = min(batch, length - 1)
    whole = list(order(count, size, done=epoch * length))
    rest = list(order(count, size, done=epoch * length + start))
    assert indices(rest) == indices(whole[start:])
    assert {keys.epoch for keys in rest} == {epoch}


@given(counts, sizes, worlds, st.booleans())
def test_processes_share_the_batches_of_one(count, size, world, drop_last):
    """Batch k of all processes together is batch k of one process with that many times the batch size."""
    one = list(order(count, size * world, drop_last=drop_last))
    orders = [order(count, size, rank=rank, world=world, drop_last=drop_last) for rank in range(world)]
    shares = [list(each) for each in orders]
    assert {len(share) for share in shares} == {len(one)}
    for k, (batch, parts) in enumerate(zip(one, zip(*shares, strict=True), strict=True)):
        told = [each.shares(k) for each in orders]
        assert {all_ for _, all_ in told} == {len(batch.indices)}
        assert all(len(part.indices) == max(mine, 1) for part, (mine, _) in zip(parts, told, strict=True))
        counted = [i for part, (mine, _) in zip(parts, told, strict=True) for i in part.indices.tolist()[:mine]]
        assert sorted(counted) == sorted(batch.indices.tolist())


@given(counts, sizes, worlds)
def test_evaluation_sees_each_sample_on_one_process(count, size, world):
    shares = [EvalOrder(count, size, rank, world) for rank in range(world)]
    seen = [i for share in shares for keys in share for i in keys.indices.tolist()]
    assert sorted(seen) == list(range(count))
    assert all(len(list(share)) == len(share) for share in shares)
    assert all(len(keys.indices) <= size for share in shares for keys in share)


def test_evaluation_goes_from_first_to_last():
    assert indices(EvalOrder(10, 4)) == list(range(10))


def test_a_limited_epoch_counts_as_whole():
    """With limit_train_batches=2 of 7, batch 2 of the run is the first of the second epoch."""
    for limit in (2, 2 / 7 + 1e-9):
        assert next(iter(order(50, 8, done=2, limit=limit))).epoch == 1
        first = next(iter(order(50, 8, done=2, limit=limit))).indices
        assert first.tolist() == next(iter(order(50, 8, done=7))).indices.tolist()
