"""MNIST and Fashion-MNIST from idx files, drawn and real."""

import functools
import gzip
import http.server
import threading

import numpy as np
import pytest
import torch

import fakes
from lightbed.data.idx import read_idx
from lightbed.data.mnist import MNIST, FashionMNIST
from lightbed.errors import UserError


def opened(kind, root, **settings):
    data = kind(root, **settings)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize(("kind", "draw"), [(MNIST, fakes.mnist), (FashionMNIST, fakes.fashion_mnist)])
@pytest.mark.parametrize("unpacked", [False, True])
def test_drawn_files(tmp_path, kind, draw, unpacked):
    draw(tmp_path)
    if unpacked:
        for path in tmp_path.rglob("*.gz"):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    data = opened(kind, tmp_path, val_fraction=0.25)
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 45, "val": 15, "test": 20}
    images, target = data.splits["test"].take(torch.arange(20))
    assert images.shape == (20, 1, 28, 28)
    assert target["label"].tolist() == [*range(10), *range(10)]
    assert np.array_equal(images[3, 0].numpy(), fakes.picture(3, (28, 28), 1003, 1)[..., 0])
    assert data.fingerprint()["files"] == 4
    assert len(data.classes) == 10


def test_class_names(tmp_path):
    assert opened(MNIST, fakes.mnist(tmp_path)).classes[7] == "seven"
    assert opened(FashionMNIST, fakes.fashion_mnist(tmp_path)).classes[9] == "Ankle boot"


def test_another_size(tmp_path):
    data = opened(MNIST, fakes.mnist(tmp_path), image_size=32)
    assert data.splits["train"][0][0].shape == (1, 32, 32)
    assert data.facts()["in_features"] == 1024


DAMAGES = {
    "cut": lambda content: content[:-10],
    "flipped": lambda content: content[:500] + bytes([content[500] ^ 255]) + content[501:],
    "a web page": lambda content: b"<html>",
    "empty": lambda content: b"",
    "no idx": lambda content: gzip.compress(b"\1" * 50),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_named(tmp_path, damage):
    fakes.mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is no whole idx file .*; delete it") as caught:
        opened(MNIST, tmp_path)
    assert "\n" not in str(caught.value)


def test_images_and_labels_must_be_as_many(tmp_path):
    fakes.mnist(tmp_path)
    fakes.idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz", np.zeros(59))
    with pytest.raises(UserError, match=r"images-idx3-ubyte\.gz has 60 images, .*labels-idx1-ubyte\.gz 59 labels"):
        opened(MNIST, tmp_path)


def test_idx_of_other_types(tmp_path):
    (tmp_path / "a").write_bytes(b"\0\0\x0c\x02" + np.array([2, 3, -1, 2, 3, 4, 5, 70000], ">i4").tobytes())
    assert read_idx(tmp_path / "a").tolist() == [[-1, 2, 3], [4, 5, 70000]]


def test_a_server_that_answers_nothing(tmp_path):
    with pytest.raises(UserError, match=r"cannot download train-images-idx3-ubyte\.gz \(http://127\.0\.0\.1:1/"):
        MNIST(tmp_path, url="http://127.0.0.1:1").prepare_data()


def test_the_real_files(real_data, tmp_path):
    before = sorted(path.name for path in (real_data / "FashionMNIST").rglob("*"))
    data = opened(FashionMNIST, real_data, cache_dir=tmp_path, val_fraction=0)
    images, target = data.splits["train"].take(torch.arange(60_000))
    assert target["label"].bincount().tolist() == [6000] * 10
    pixels = images.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.2860, abs=1e-4)
    assert float(pixels.std()) == pytest.approx(0.3530, abs=1e-4)
    assert len(data.splits["test"]) == 10_000
    assert data.fingerprint()["bytes"] == 30_878_645
    assert sorted(path.name for path in (real_data / "FashionMNIST").rglob("*")) == before


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_the_real_files_are_downloaded_with_their_published_sums(real_data, tmp_path):
    handler = functools.partial(Quiet, directory=real_data / "FashionMNIST" / "raw")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            FashionMNIST(tmp_path, url=f"http://127.0.0.1:{server.server_port}/").prepare_data()
            with pytest.raises(UserError, match=r"/train-images.* has MD5 8d4fb7e6c68d591d4c3dfef9ec88bf0d"):
                MNIST(tmp_path, url=f"http://127.0.0.1:{server.server_port}/").prepare_data()
        finally:
            server.shutdown()
            thread.join()
    assert len(list((tmp_path / "FashionMNIST" / "raw").iterdir())) == 4
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_some_classes_in_the_order_that_is_asked_for(tmp_path):
    fakes.fashion_mnist(tmp_path)
    whole, some = opened(FashionMNIST, tmp_path), opened(FashionMNIST, tmp_path, classes=["Bag", "T-shirt/top"])
    assert some.classes == ["Bag", "T-shirt/top"]
    bags = [image for image, target in (whole.splits["test"][i] for i in range(20)) if int(target["label"]) == 8]
    found = [some.splits["test"][i] for i in range(len(some.splits["test"]))]
    assert len(found) == 4
    own = [image for image, target in found if int(target["label"]) == 0]
    assert all(torch.equal(one, other) for one, other in zip(own, bags, strict=True))
    with pytest.raises(UserError, match=r"Bags is none or twice: did you mean Bag\?"):
        FashionMNIST(tmp_path, classes=["Bags", "Coat"])
