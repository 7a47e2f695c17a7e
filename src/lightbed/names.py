"""The nearest right name for a wrong config key."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

# what other frameworks call it
ALIASES = {
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "n_epochs": "trainer.max_epochs",
    "max_epoch": "trainer.max_epochs",
    "learning_rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "bs": "data.batch_size",
    "batch": "data.batch_size",
    "workers": "data.num_workers",
    "gpus": "trainer.devices",
    "num_gpus": "trainer.devices",
    "device": "trainer.accelerator",
    "cuda": "trainer.accelerator",
    "amp": "trainer.precision",
    "fp16": "trainer.precision",
    "clip": "trainer.gradient_clip_val",
    "grad_clip": "trainer.gradient_clip_val",
    "patience": "callbacks.early_stopping.patience",
    "dataset": "data",
    "datamodule": "data",
    "arch": "model",
    "net": "model",
    "network": "model",
    "backbone": "model",
    "optim": "optimizer",
    "lr_scheduler": "scheduler",
    "augmentation": "augment",
    "augmentations": "augment",
    "loss": "task",
    "path": "data.root",
    "output": "paths.outputs",
    "output_dir": "paths.outputs",
    "data_dir": "paths.data",
    "img_size": "data.image_size",
    "size": "data.image_size",
    "random_seed": "seed",
    "checkpoint": "run",
    "ckpt": "run",
    "ckpt_path": "run",
    "images": "source",
    "input": "source",
}


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a config with their values, nothing resolved; nodes stand for themselves, too."""
    from omegaconf import DictConfig, OmegaConf

    for key in config:
        name = f"{prefix}{key}"
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            yield name, "???"
            continue
        value = config[key]
        yield name, ({} if len(value) == 0 else "...") if isinstance(value, DictConfig) else value
        if isinstance(value, DictConfig):
            yield from flatten(value, f"{name}.")


def sure(key: str, names: Iterable[str]) -> str:
    """The names that `key` certainly means: called alike elsewhere (`lr`: optimizer.lr), or a letter or two apart."""
    known = list(names)
    last = key.rpartition(".")[2]
    beside = [name for name in known if "." in key and name.rpartition(".")[0] == key.rpartition(".")[0]]
    found = difflib.get_close_matches(key, beside, n=1, cutoff=0.93)
    if not found:
        found = [ALIASES[last]] if ALIASES.get(last) in known else []
        found += [name for name in known if name.rpartition(".")[2] == last and not name.endswith("_")]
    return _clause(found or difflib.get_close_matches(key, known, n=1, cutoff=0.93))


def closest(key: str, names: Iterable[str]) -> str:
    """The nearest of `names` to the dotted `key` as a clause for a message.

    What is spelt alike beside it comes first, then anywhere; where nothing is near, the keys beside it.
    """
    known = list(names)
    parent, _, last = key.rpartition(".")
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == parent]
    found = difflib.get_close_matches(key, beside, cutoff=0.75) or difflib.get_close_matches(key, known, cutoff=0.75)
    if not found:
        tails = {name.rpartition(".")[2]: name for name in reversed(known)}
        found = [tails[tail] for tail in difflib.get_close_matches(last, tails, cutoff=0.7)]
    if found:
        return _clause(found)
    listed = [name.removeprefix(f"{parent}.") for name in beside]
    where = f"{parent} has" if parent else "there is"
    return f"{where} {', '.join(name for name in dict.fromkeys(listed) if not name.startswith('_'))}"


def _clause(names: list[str]) -> str:
    return f"did you mean {' or '.join(dict.fromkeys(names[:3]))}?" if names else ""
