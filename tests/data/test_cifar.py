"""CIFAR-10 from its archive, and pickles that are none of it."""

import pickle
import tarfile

import numpy as np
import pytest
import torch

import fakes
from lightbed.data.cifar import CIFAR10, unpickle
from lightbed.errors import UserError


def opened(root, **settings):
    data = CIFAR10(root, **settings)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_published_layout(tmp_path, unpacked):
    root = fakes.cifar10(tmp_path / "data")
    if unpacked:
        with tarfile.open(root / "cifar-10-python.tar.gz") as archive:
            archive.extractall(root, filter="data")
        (root / "cifar-10-python.tar.gz").unlink()
    data = opened(root, val_fraction=0, cache_dir=tmp_path / "cache")
    assert data.classes == fakes.CIFAR_NAMES
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 100, "test": 20}
    images, target = data.splits["train"].take(torch.arange(100))
    assert target["label"].dtype == torch.int64
    assert target["label"].tolist() == [(i + part) % 10 for part in range(5) for i in range(20)]
    assert np.array_equal(images[45].permute(1, 2, 0).numpy(), fakes.picture(7, (32, 32), 205))
    assert data.fingerprint()["files"] == (7 if unpacked else 1)


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    with pytest.raises(pickle.UnpicklingError, match=r"it names __builtin__\.exec, which no array needs"):
        unpickle(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(pickle.UnpicklingError, match=r"it names os\.system|it names posix\.system"):
        unpickle(b"cposix\nsystem\n(S'true'\ntR.")
    assert not (tmp_path / "ran").exists()


def test_arrays_of_python_2_are_read_to_the_bit():
    array = np.random.default_rng(0).integers(0, 256, (7, 3072), dtype=np.uint8)
    content = fakes.python2_pickle({b"data": array, b"labels": [1, 2], b"batch_label": b"x" * 300})
    assert b"cnumpy.core.multiarray\n" in content
    found = unpickle(content)
    assert np.array_equal(found[b"data"], array)
    assert (found[b"labels"], found[b"batch_label"]) == ([1, 2], b"x" * 300)


def test_a_truncated_archive(tmp_path):
    path = fakes.cifar10(tmp_path) / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz is no whole archive .*; delete it"):
        opened(tmp_path)


def test_another_archive(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"is not CIFAR-10 as published \(KeyError: 'batches\.meta'\)"):
        opened(tmp_path)


def test_no_archive_and_no_server(tmp_path):
    with pytest.raises(UserError, match=r"cannot download cifar-10-python\.tar\.gz \(http://127\.0\.0\.1:1/x: "):
        opened(tmp_path, url="http://127.0.0.1:1/x")
