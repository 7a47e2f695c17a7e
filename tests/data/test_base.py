"""What every data set gets from `DataModule`: splits, loaders, facts."""

import lightning.pytorch as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightbed.data.base import DataModule, Loading
from lightbed.data.source import ArraySource
from lightbed.errors import UserError


class Numbers(DataModule):
    """Sample i is a 1x1 image with the value i and class i % 3."""

    def __init__(self, count=100, given=(), **common):
        super().__init__(**{"channels": 1, "image_size": 1, **common})
        self.count, self.given = count, given

    def load(self):
        values = torch.arange(self.count)
        source = ArraySource(values.to(torch.uint8).view(-1, 1, 1, 1), {"label": values % 3})
        return Loading(dict.fromkeys(("train", *self.given), source), ["a", "b", "c"])


def opened(**arguments):
    data = Numbers(**arguments)
    data.setup()
    return data


def values(source):
    return [int(source[i][0]) for i in range(len(source))]


@given(st.integers(20, 200), st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_splits_are_disjoint_and_hold_everything(count, val, test, split_seed):
    data = opened(count=count, val_fraction=val, test_fraction=test, split_seed=split_seed)
    parts = {name: values(source) for name, source in data.splits.items()}
    assert sorted(value for part in parts.values() for value in part) == list(range(count))
    assert len(parts["test"]) == round(count * test)
    assert len(parts["val"]) == round((count - len(parts["test"])) * val)


def test_splits_depend_on_split_seed_alone():
    first = {name: values(source) for name, source in opened(seed=1).splits.items()}
    assert first == {name: values(source) for name, source in opened(seed=2, batch_size=7).splits.items()}
    assert first != {name: values(source) for name, source in opened(split_seed=1).splits.items()}


def test_given_splits_are_kept_and_nothing_is_cut_at_zero():
    assert set(opened(given=("val", "test")).splits) == {"train", "val", "test"}
    assert all(len(source) == 100 for source in opened(given=("val", "test")).splits.values())
    assert set(opened(val_fraction=0, test_fraction=0).splits) == {"train"}
    data = opened(given=("test",), val_fraction=0.25)
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 75, "test": 100, "val": 25}


def test_a_fraction_that_leaves_nothing():
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.2 of 2 training images leaves 0 for test"):
        opened(count=2)
    with pytest.raises(UserError, match=r"must sum to less than 1"):
        opened(val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(UserError, match=r"data\.batch_size=0 .* must be at least 1"):
        opened(batch_size=0)


def test_an_empty_split():
    with pytest.raises(UserError, match="split train of Numbers has no images"):
        opened(count=0, val_fraction=0, test_fraction=0)
    with pytest.raises(UserError, match="Numbers has no test split, only train"):
        opened(val_fraction=0, test_fraction=0).test_dataloader()


def test_drop_last_that_drops_everything():
    with pytest.raises(UserError, match=r"70 training images give no batch of data\.batch_size=71"):
        opened(val_fraction=0.125, batch_size=71, drop_last=True).train_dataloader()


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers):
    data = opened(num_workers=workers, batch_size=16)
    seen = [(images.flatten().tolist(), target["index"].tolist()) for images, target in data.train_dataloader()]
    alone = opened(batch_size=16).train_dataloader()
    assert seen == [(images.flatten().tolist(), target["index"].tolist()) for images, target in alone]
    assert sorted(i for _, batch in seen for i in batch) == list(range(72))


def test_opening_a_loader_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    data = opened(num_workers=0)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_facts_and_class_counts():
    data = opened()
    facts = {"num_classes": 3, "in_channels": 1, "image_size": [1, 1], "in_features": 1}
    assert data.facts() == {**facts, "mean": data.preprocess.mean, "std": data.preprocess.std}
    expected = torch.bincount(torch.tensor(values(data.splits["train"])) % 3)
    assert torch.equal(data.class_counts(), expected)


def test_embedded_data_has_a_fingerprint_without_files(tmp_path):
    assert opened(cache_dir=tmp_path).fingerprint() == {"root": None, "files": 0, "bytes": 0, "sha256": None}


class Seen(L.LightningModule):
    """Notes which samples each epoch trains on."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.epochs = []

    def on_train_epoch_start(self):
        self.epochs.append([])

    def training_step(self, batch, batch_idx):
        self.epochs[-1] += batch[1]["index"].tolist()
        return self.layer(batch[0].float().flatten(1)).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 72), (2, 32)])
def test_a_trainers_epochs_see_every_sample_in_another_order(tmp_path, limit, expected):
    module = Seen()
    trainer = L.Trainer(
        default_root_dir=tmp_path, max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_train_batches=limit,
    )  # fmt: skip
    trainer.fit(module, datamodule=opened(batch_size=16))
    assert [len(set(epoch)) for epoch in module.epochs] == [expected] * 3
    assert len({tuple(epoch) for epoch in module.epochs}) == 3


def test_images_trained_on_can_be_the_test_split():
    data = opened(count=20, limit=5, test_seen=2)
    assert values(data.splits["test"]) == values(data.splits["train"])[:2]
    assert not set(values(data.splits["val"])) & set(values(data.splits["train"]))
    with pytest.raises(UserError, match=r"data\.test_seen=6: there are only 5 training images"):
        opened(count=20, limit=5, test_seen=6)
    with pytest.raises(UserError, match=r"data\.test_seen=0 must be at least 1"):
        opened(count=20, test_seen=0)
