"""What the tests of resuming share: a network with all that draws or remembers, a killer, and what must be equal."""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from lightbed.runs.history import read_history

# Small: three epochs of eight steps
WORDS = [
    *("model=custom", "model._target_=exact.Net", "data.batch_size=16", "trainer.limit_train_batches=8"),
    *("trainer.limit_val_batches=3", "data.eval_batch_size=16", "trainer.limit_test_batches=1", "trainer.max_epochs=3"),
    *("trainer.accelerator=cpu", "threads=1", "logger.tensorboard=false", "callbacks.pictures=null"),
    *("callbacks.curves=null", "callbacks.layers=null", "optimizer.lr=0.01"),
]


class Net(nn.Module):
    """Convolution, batch norm and dropout, for digits of 8x8; `ballast` numbers make its checkpoints larger."""

    def __init__(self, num_classes: int = 10, ballast: int = 0) -> None:
        super().__init__()
        self.register_buffer("ballast", torch.zeros(ballast))
        self.trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 6, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


class Bad(Net):
    """Its output is NaN in the fifth training batch of the second of several processes."""

    steps = 0

    def forward(self, images: Tensor) -> Tensor:
        self.steps += self.training
        bad = self.training and self.steps == 5 and os.environ.get("LOCAL_RANK") == "1"
        return super().forward(images) * (float("nan") if bad else 1.0)


class KilledError(RuntimeError):
    """In place of SIGKILL, where the process must go on to see what is left."""


class Kill(Callback):
    """Ends a run once, at the count-th call of a hook; the resumed run, with the same configuration, goes on.

    Args:
        hook: 'batch', 'validation', 'epoch' (before the checkpoint of its end), 'saved' (after it) or 'test'.
        count: of its calls, from 1.
        by: 'error' raises, 'term' and 'int' send that signal, 'kill' sends SIGKILL; 'group_term' and 'group_int' send
            theirs to the whole group, which reading processes are in.
    """

    def __init__(self, hook: str, count: int, by: str = "error") -> None:
        self.hook, self.left, self.by = hook, count, by

    def strike(self, trainer: Any, hook: str) -> None:
        mark = Path(trainer.default_root_dir) / "killed"
        if hook != self.hook or mark.exists():
            return
        self.left -= 1
        if self.left == 0:
            mark.touch()
            if self.by == "error":
                raise KilledError
            number = {"term": signal.SIGTERM, "int": signal.SIGINT, "kill": signal.SIGKILL}[self.by.split("_")[-1]]
            os.kill(0 if self.by.startswith("group") else os.getpid(), number)  # 0: the whole group

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.strike(trainer, "batch")

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        self.strike(trainer, "validation")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.strike(trainer, "epoch")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch > 0:
            self.strike(trainer, "saved")

    def on_test_batch_end(self, trainer: Any, *_: Any) -> None:
        self.strike(trainer, "test")


def kill(hook: str, count: int, by: str = "error") -> str:
    """The override that kills a run there."""
    return f"+callbacks.kill={{_target_:exact.Kill,hook:{hook},count:{count},by:{by}}}"


def result(folder: Path) -> dict[str, Any]:
    """What must be equal, to the bit, in a run that was killed and resumed and in one that was not."""
    found: dict[str, Any] = {}
    for name in ("last", "best"):
        path = folder / "checkpoints" / f"{name}.ckpt"
        if path.is_file():
            content = torch.load(path, weights_only=True)
            for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "trained"):
                found[f"{name} {key}"] = digest(content.get(key))
            for key, state in content["callbacks"].items():
                found[f"{name} {key}"] = digest(state) if "seconds" not in state else ""
    rows = read_history(folder / "metrics.csv")
    found["rows"] = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    found["metrics.json"] = json.loads((folder / "metrics.json").read_text())
    return found


def digest(value: Any) -> str:
    """sha256 over all tensors and plain values of a nest, dictionaries in the order of their keys."""
    total = hashlib.sha256()

    def feed(item: Any) -> None:
        if isinstance(item, Tensor):
            total.update(f"{item.dtype}{tuple(item.shape)}".encode())
            total.update(item.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(item, dict):
            for key in sorted(item, key=str):
                total.update(repr(key).encode())
                feed(item[key])
        elif isinstance(item, list | tuple):
            total.update(b"[")
            for inner in item:
                feed(inner)
        else:
            total.update(repr(item).encode())

    feed(value)
    return total.hexdigest()
