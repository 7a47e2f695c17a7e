"""Tiny copies of each data set's real file layout, drawn from a fixed seed: tests read what users' disks hold."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

import fake_objects

FASHION = 10  # classes of MNIST, Fashion-MNIST and CIFAR-10 alike
CIFAR_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def picture(label: int, size: tuple[int, int], seed: int, channels: int = 3) -> np.ndarray:
    """A class's picture, uint8 (H, W, C): stripes whose direction and width tell the class, with noise."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    wave = np.sin((columns if label % 2 else rows) * (label + 2) * 3 / max(size))
    noise = np.random.default_rng(seed).normal(0, 12, (*size, channels))
    tint = 1 - 0.3 * np.arange(channels) * (label % 3) / 2
    return np.clip(127 + 90 * wave[..., None] * tint + noise, 0, 255).astype(np.uint8)


def idx(path: Path, array: np.ndarray) -> None:
    """Write an array as idx; gzipped where the name ends in .gz."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def fashion_mnist(root: Path, train: int = 60, test: int = 20, name: str = "FashionMNIST") -> Path:
    """`root/FashionMNIST/raw/*.gz`, with every class in both splits; returns `root`."""
    for prefix, count, start in (("train", train, 0), ("t10k", test, 1000)):
        labels = np.arange(count) % FASHION
        images = np.stack([picture(int(y), (28, 28), start + i, 1)[..., 0] for i, y in enumerate(labels)])
        idx(root / name / "raw" / f"{prefix}-images-idx3-ubyte.gz", images)
        idx(root / name / "raw" / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return root


def mnist(root: Path, train: int = 60, test: int = 20) -> Path:
    """`root/MNIST/raw/*.gz`; returns `root`."""
    return fashion_mnist(root, train, test, "MNIST")


def cifar10(root: Path, per_batch: int = 20) -> Path:
    """`root/cifar-10-python.tar.gz` with five training batches and a test batch as Python 2 pickles; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    files = {"batches.meta": {b"label_names": [name.encode() for name in CIFAR_NAMES], b"num_vis": 3072}}
    for part, name in enumerate(names):
        labels = [(i + part) % FASHION for i in range(per_batch)]
        images = [picture(y, (32, 32), 100 * part + i).transpose(2, 0, 1).reshape(-1) for i, y in enumerate(labels)]
        files[name] = {b"batch_label": name.encode(), b"labels": labels, b"data": np.stack(images)}
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            data = python2_pickle(content)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return root


class _Python2Pickler(pickle._Pickler):  # the C one cannot be taught
    """Writes bytes as Python 2 wrote its strings, which is what the published archive holds."""

    dispatch: ClassVar = {**pickle._Pickler.dispatch}

    def save_string(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch[bytes] = save_string


def python2_pickle(content: object) -> bytes:
    """`content` as Python 2 with NumPy 1 pickled it."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def horse_or_human(root: Path, train: int = 12, validation: int = 6, size: int = 300) -> Path:
    """`root/horse-or-human/{train,validation}/{horses,humans}`: JPEG RGB to train, RGBA PNG else; returns `root`.

    Args:
        root: folder of data sets.
        train: images of each class.
        validation: likewise.
        size: height and width.
    """
    for split, count in (("train", train), ("validation", validation)):
        for label, name in enumerate(("horse", "human")):
            folder = root / "horse-or-human" / split / f"{name}s"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = Image.fromarray(picture(label, (size, size), 1000 * label + i + 500 * (split != "train")))
                if split == "train":
                    image.save(folder / f"{name}{i:02}-0.jpg", quality=90)
                else:
                    image.convert("RGBA").save(folder / f"{name}{i}-000.png")
    return root


def image_folder(
    root: Path,
    classes: tuple[str, ...] = ("apple", "pear", "plum"),
    count: int = 10,
    size: tuple[int, int] = (24, 32),
    splits: tuple[str, ...] = (),
    suffix: str = ".png",
) -> Path:
    """Class folders with `count` images each, below each of `splits` where there are any; returns `root`."""
    for place, split in enumerate(splits or ("",)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = picture(label, size, 10_000 * place + 100 * label + i)
                Image.fromarray(image).save(folder / f"{name}_{i:03}{suffix}")
    return root


def scene(size: tuple[int, int], classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 (H, W, 3) of flat patches with noise, and its mask uint8 (H, W); up to 35 classes all occur."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = ((rows * 5 // size[0] * 7 + columns * 7 // size[1] + seed) % classes).astype(np.uint8)
    tones = np.random.default_rng(0).integers(30, 225, (classes, 3))
    return np.clip(tones[mask] + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8), mask


def camvid(root: Path, count: int = 6, size: tuple[int, int] = (360, 480)) -> Path:
    """`root/CamVid/{train,val,test}/X.jpg` with `{train,val,test}annot/X.png`, values 0..11; returns `root`."""
    for place, split in enumerate(("train", "val", "test")):
        for i in range(count):
            image, mask = scene(size, 12, 100 * place + i)
            name = f"{place:04}TP_{i:06}"
            for folder, array, suffix in ((split, image, ".jpg"), (f"{split}annot", mask, ".png")):
                (root / "CamVid" / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / "CamVid" / folder / f"{name}{suffix}")
    return root


def penn_fudan_people(root: Path, count: int = 12) -> Path:
    """`root/PennFudanPed/PNGImages/X.png` with `PedMasks/X_mask.png`, people numbered 1..N, sizes that differ."""
    for i in range(count):
        size = (90 + 7 * (i % 4), 110 + 5 * (i % 5))
        image, people = scene(size, 3 + i % 2, i)
        for folder, array, name in (("PNGImages", image, "{}.png"), ("PedMasks", people, "{}_mask.png")):
            (root / "PennFudanPed" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / "PennFudanPed" / folder / name.format(f"FudanPed{i + 1:05}"))
    return root


def drone(root: Path, count: int = 10, size: tuple[int, int] = (80, 120)) -> Path:
    """`root/semantic_drone_dataset/original_images/000.jpg`, `label_images_semantic/000.png`, values 0..23."""
    folder = root / "semantic_drone_dataset"
    for i in range(count):
        image, mask = scene(size, 24, i)
        for name, array, suffix in (("original_images", image, ".jpg"), ("label_images_semantic", mask, ".png")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / name / f"{i:03}{suffix}")
    return root


def mask_folder(root: Path, count: int = 10, size: tuple[int, int] = (40, 56), classes: int = 3) -> Path:
    """`root/images/X.png` and `root/masks/X.png` with classes as values; returns `root`."""
    for i in range(count):
        image, mask = scene(size, classes, i)
        for name, array in (("images", image), ("masks", mask)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / name / f"picture{i:02}.png")
    return root


DRAWN = {
    "fashion_mnist": fashion_mnist,
    "fashion_mnist_known": fashion_mnist,
    "fashion_mnist_few": lambda root: fashion_mnist(root, 400),
    "mnist": mnist,
    "cifar10": cifar10,
    "horse_or_human": horse_or_human,
    "image_folder": image_folder,
    "camvid": camvid,
    "penn_fudan_people": penn_fudan_people,
    "drone": drone,
    "mask_folder": mask_folder,
    "auto": fake_objects.voc,
    "coco": fake_objects.coco,
    "voc": fake_objects.voc,
    "yolo": fake_objects.yolo,
    "instance_masks": fake_objects.instance_masks,
    "penn_fudan": penn_fudan_people,
    "raccoon": lambda root: fake_objects.voc(root / "raccoon"),
    "bccd": lambda root: fake_objects.voc(root / "BCCD"),
    "coco_mini": fake_objects.coco_mini,
    "coco_mini_yolo": fake_objects.coco_mini,
}
"""Data configs by name, each with the function that draws its files; embedded sets need none."""
