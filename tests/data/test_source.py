"""Reading batches: the fast way and the slow way see the same; chance is keyed by sample."""

import pickle

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lightbed.data.order import Keys
from lightbed.data.source import ArraySource, KeyedReader, Subset, stack
from lightbed.errors import UserError

IMAGES = torch.randint(0, 256, (12, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 5


@pytest.fixture(params=["tensor", "array", "mapped"])
def source(request, tmp_path):
    images = IMAGES if request.param == "tensor" else IMAGES.numpy()
    if request.param == "mapped":
        IMAGES.numpy().tofile(tmp_path / "images.bin")
        images = np.memmap(tmp_path / "images.bin", np.uint8, "r", shape=IMAGES.shape)
    return ArraySource(images, {"label": LABELS}, [f"{i}.png" for i in range(12)])


def test_a_batch_is_its_samples(source):
    some = torch.tensor([7, 0, 7, 11])
    images, target = source.take(some)
    assert images.dtype == torch.uint8
    assert torch.equal(images, IMAGES[some])
    assert torch.equal(target["label"], LABELS[some])
    stacked, targets = stack([source[i] for i in some.tolist()])
    assert torch.equal(images, stacked)
    assert targets.keys() == target.keys() == {"label"}
    assert source[3][1]["path"] == "3.png"


def test_what_is_taken_is_a_copy(source):
    before = source.take(torch.arange(12))[0].clone()
    source.take(torch.arange(12))[0].zero_()
    source[2][0].zero_()
    assert torch.equal(source.take(torch.arange(12))[0], before)


def test_a_subset_of_a_subset(source):
    odd = Subset(source, torch.arange(1, 12, 2))
    some = Subset(odd, torch.tensor([4, 0]))
    assert len(some) == 2
    assert some.batched
    assert some.paths == ["9.png", "1.png"]
    assert torch.equal(some.take(torch.tensor([1, 0]))[0], IMAGES[[1, 9]])
    assert torch.equal(some[0][0], IMAGES[9])


def test_sources_travel_to_other_processes(source):
    copy = pickle.loads(pickle.dumps(Subset(source, torch.tensor([5, 3]))))
    assert torch.equal(copy.take(torch.arange(2))[0], IMAGES[[5, 3]])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"differ in length: \[11, 12\]"):
        ArraySource(IMAGES, {"label": LABELS[:11]})


def test_fast_and_slow_reading_agree(source):
    fast = KeyedReader(source, 0, None, stack)
    slow = KeyedReader(source, 0, lambda image, target: (image, target), stack)
    keys = Keys(3, torch.tensor([1, 9, 4]))
    assert fast.fast
    assert not slow.fast
    for ours, theirs in zip(fast.__getitems__(keys), slow.__getitems__(keys), strict=True):
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys() == {"label", "index"}
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        else:
            assert torch.equal(ours, theirs)


def test_chance_is_keyed_by_seed_epoch_and_sample_not_by_place(source):
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop((4, 4)), v2.ColorJitter(0.5)])

    def read(seed, epoch, indices):
        return KeyedReader(source, seed, transform, stack).__getitems__(Keys(epoch, torch.tensor(indices)))[0]

    assert torch.equal(read(0, 0, [3, 8, 5]), read(0, 0, [5, 8, 3]).flip(0))
    assert torch.equal(read(0, 0, [3, 8])[1], read(0, 0, [8])[0])
    assert not torch.equal(read(0, 0, [3, 8, 5]), read(0, 1, [3, 8, 5]))
    assert not torch.equal(read(0, 0, [3, 8, 5]), read(1, 0, [3, 8, 5]))


def test_a_failing_transform_names_sample_and_file(source):
    def fail(image, target):
        raise ZeroDivisionError("nothing to divide by")

    with pytest.raises(RuntimeError, match=r"sample 4 \(4\.png\) of epoch 2 failed: ZeroDivisionError: nothing to"):
        KeyedReader(source, 0, fail, stack).__getitems__(Keys(2, torch.tensor([4])))


def test_a_users_mistake_stays_one(source):
    def refuse(image, target):
        raise UserError("too small")

    with pytest.raises(UserError, match=r"^too small$"):
        KeyedReader(source, 0, refuse, stack).__getitems__(Keys(0, torch.tensor([4])))
