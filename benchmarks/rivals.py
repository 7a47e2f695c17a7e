"""What Lightbed is measured against: loops as one writes them by hand."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from lightbed.data.idx import read_idx
from lightbed.models.dnn import DNN

Batches = Iterator[tuple[Tensor, Tensor]]


def unpacked(data: Path, scratch: Path) -> Path:
    """A copy of Fashion-MNIST that torchvision reads: it wants the files unpacked, and `data` may be read-only."""
    raw = scratch / "FashionMNIST" / "raw"
    if not raw.is_dir():
        raw.mkdir(parents=True)
        for file in files(data).glob("*-ubyte.gz"):
            shutil.copy(file, raw)
    return scratch


def files(data: Path) -> Path:
    """The folder of Fashion-MNIST's four files."""
    folder = data / "FashionMNIST"
    return folder / "raw" if (folder / "raw").is_dir() else folder


class AuthorsLoop:
    """The author's program: torchvision's data set, PIL, ToTensor, Normalize, a DataLoader without workers."""

    def __init__(self, data: Path, scratch: Path) -> None:
        both = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
        root = str(unpacked(data, scratch))
        train = datasets.FashionMNIST(root, train=True, download=True, transform=both)
        test = datasets.FashionMNIST(root, train=False, download=True, transform=both)
        self.train = DataLoader(train, batch_size=100, shuffle=True, drop_last=True)
        self.test = DataLoader(test, batch_size=100)
        self.model = DNN(784, 10)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def __call__(self) -> float:
        """Train an epoch; returns its mean loss."""
        return train(self.model, self.optimizer, self.train, len(self.train))

    @torch.no_grad()
    def accuracy(self) -> float:
        """Test accuracy."""
        self.model.eval()
        right = sum(int((self.model(images).argmax(1) == labels).sum()) for images, labels in self.test)
        return right / 10_000


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, count: int) -> float:
    """One epoch of the plainest training loop; returns the mean loss."""
    model.train()
    total = torch.zeros(())
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total) / count


class BareLoop:
    """Images in memory as uint8, indexed a batch at a time, normalised in the loop; fused Adam.

    Args:
        data: folder of data sets.
        hidden: widths of the network.
        batch_size: the last batch of training is left out where it is not full.
        lr: of Adam.
        validation: how many of the 60,000 images are validated, not trained on.
        mean: of pixels in 0..1.
        std: likewise.
    """

    def __init__(
        self,
        data: Path,
        hidden: tuple[int, ...] = (256, 64),
        batch_size: int = 100,
        lr: float = 1e-4,
        validation: int = 0,
        mean: float = 0.5,
        std: float = 0.5,
    ) -> None:
        folder = files(data)
        self.images = read_idx(folder / "train-images-idx3-ubyte.gz")[:, None]
        self.labels = read_idx(folder / "train-labels-idx1-ubyte.gz").long()
        self.validation, self.batch_size, self.mean, self.std = validation, batch_size, mean, std
        self.model = DNN(784, 10, hidden)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr, fused=True)

    def batches(self, order: Tensor) -> Batches:
        for index in order.split(self.batch_size):
            yield (self.images[index].float() / 255 - self.mean) / self.std, self.labels[index]

    def __call__(self) -> float:
        """Train an epoch and validate, if there is a validation split; returns the mean loss."""
        count = (len(self.images) - self.validation) // self.batch_size
        order = torch.randperm(len(self.images) - self.validation) + self.validation
        mean_loss = train(self.model, self.optimizer, self.batches(order[: count * self.batch_size]), count)
        if self.validation:
            self.model.eval()
            with torch.no_grad():
                for images, labels in self.batches(torch.arange(self.validation)):
                    logits = self.model(images)
                    F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()
        return mean_loss
