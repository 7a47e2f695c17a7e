"""Trained weights as a beginning: from another run, also of another task, from torchvision, or from a file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor

from lightbed import build, catalogue
from lightbed.data.base import DataModule
from lightbed.errors import UserError
from lightbed.models.weights import State, fetch_entry, read_file
from lightbed.runs.checkpoint import read_checkpoint
from lightbed.runs.load import find_checkpoint
from lightbed.runs.log import say
from lightbed.tasks.base import Task
from lightbed.tasks.optim import cover

_FILES = (".pth", ".pt", ".ckpt")
_NAMED = 6  # parts and weights in a line


class Source(NamedTuple):
    """Weights as they were trained."""

    state: State
    classes: list[str] | None  # that they know; None where the file does not say it
    told: str  # what they are, for a line
    preprocess: Mapping[str, Any] | None = None


def find_source(weights: str) -> str:
    """Where `weights` leads: a torchvision name as it is, else the path of one file.

    Args:
        weights: a run folder or a folder of runs, of which the newest finished one is taken; a checkpoint or file of
            weights; or one of torchvision's, e.g. `ResNet18_Weights.IMAGENET1K_V1`.

    Raises:
        UserError: there is no such thing; where an experiment would make it, the message names its command.
    """
    weights = str(weights)  # a folder's name may be a number to YAML
    path = Path(weights).expanduser()
    if "_Weights." in weights and not path.exists():
        return weights
    if path.is_file():
        return str(path.absolute())
    if path.is_dir() and (done := finished_runs(path)):
        return str(find_checkpoint(done[-1]).absolute())
    if (path / "checkpoints").is_dir():
        return str(find_checkpoint(path).absolute())
    what = "holds no finished run" if path.is_dir() else "does not exist"
    if (catalogue.conf_dir() / "experiment" / f"{path.name}.yaml").is_file():
        raise UserError(f"weights={weights} {what}: train it first by  lightbed train experiment={path.name}")
    hint = "a run folder, a .ckpt or .pth file, or one of torchvision's such as ResNet18_Weights.DEFAULT"
    raise UserError(f"weights={weights} {what}: give {hint}")


def finished_runs(folder: Path) -> list[Path]:
    """The trainings right in a folder that have ended well and left a checkpoint, the newest last."""
    found = []
    for record in folder.glob("*/run.json"):
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a run that is just being written
            continue
        has = any((record.parent / "checkpoints").glob("*.ckpt"))
        if has and not record.parent.is_symlink() and content.get("status") == "done":
            found.append((str(content.get("start")), record.parent.name, record.parent))
    return [run for _, _, run in sorted(found)]


def read_source(place: str) -> Source:
    """The weights that `find_source` found.

    Raises:
        UserError: they cannot be had or read.
    """
    if "_Weights." in place and not Path(place).exists():
        try:
            entry: Any = torchvision.models.get_weight(place)
        except (ValueError, KeyError) as error:
            raise UserError(f"weights={place} is not known to torchvision: {error}") from error
        return Source(fetch_entry(entry, f"weights={place}"), None, f"torchvision's {place}")
    path = Path(place)
    if path.suffix == ".ckpt":
        content = read_checkpoint(path)
        card = content["lightbed"]
        state = {key.removeprefix("model."): value for key, value in content["state_dict"].items()
                 if key.startswith("model.")}  # fmt: skip
        told = f"{path} ({card.get('task')}, {len(card['classes'])} classes)"
        return Source(state, list(card["classes"]), told, card.get("preprocess"))
    if path.suffix not in _FILES:
        raise UserError(f"weights={place} is no {', '.join(_FILES)} file")
    return Source(read_file(path, "weights"), None, str(path))


# -- what fits where ---------------------------------------------------------------------------------------------------


def align(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> tuple[str, str]:
    """Which beginning of the source's names stands for which of the target's, so that the most numbers fit.

    A classifier's `layer1.0.conv1.weight` is a detector's `backbone.body.layer1.0.conv1.weight`: '', 'backbone.body.'.
    What fits in all of that are vectors (biases, norms) does not count, nor does a single layer out of a network: its
    `weight` and `bias` are named alike in every network.
    """
    best, most = ("", ""), 0
    places = _beginnings(target, 3)
    for here in _beginnings(source, 2):
        inner = {key[len(here) :]: value for key, value in source.items() if key.startswith(here)}
        if here and not any("." in key for key in inner):
            continue
        first = list(inner)[:8]
        for there in places:
            if not any(there + key in target for key in first):
                continue
            fits = [value for key, value in inner.items() if _fits(value, target.get(there + key))]
            numbers = sum(value.numel() for value in fits)
            if numbers > most and any(value.ndim > 1 for value in fits):
                best, most = (here, there), numbers
    return best


def _beginnings(names: Mapping[str, Any], depth: int) -> list[str]:
    """All beginnings of dotted names, with their dot, the shortest first."""
    found = {"": None}
    for parts in (name.split(".") for name in names):
        found |= {".".join(parts[:count]) + ".": None for count in range(1, min(depth, len(parts) - 1) + 1)}
    return sorted(found, key=lambda name: name.count("."))


def _fits(value: Tensor, place: Tensor | None) -> bool:
    return place is not None and place.shape == value.shape


# -- a run that begins with them ---------------------------------------------------------------------------------------


def begin(task: Task, config: build.Config, data: DataModule, last: Path | None) -> dict[str, Any]:
    """Load what fits of `config['weights']` into the task's network, tell it, and let the task know its parts.

    The outputs for other classes than the source's begin afresh, also where they are as many. A run that goes on has
    the weights in its own checkpoint, which says what of them was loaded.

    Args:
        task: as the config builds it.
        config: resolved, before the data's facts are filled in.
        data: set up.
        last: checkpoint that the run goes on from.

    Returns:
        What the run's record says of it.

    Raises:
        UserError: nothing fits.
    """
    if last is not None:
        task.parts = read_checkpoint(last)["lightbed"].get("parts") or {}
        return {}
    place = str(config["weights"])
    source = read_source(place)
    fresh = set() if source.classes == task.classes else outputs(task, config, data, known=source.classes is not None)
    own = task.model.state_dict()
    here, there = align(source.state, {name: value for name, value in own.items() if name not in fresh})
    taken = {
        there + key[len(here) :]: value
        for key, value in source.state.items()
        if key.startswith(here) and there + key[len(here) :] not in fresh
    }
    taken = {name: value for name, value in taken.items() if _fits(value, own.get(name))}
    if not any(value.ndim > 1 for value in taken.values()):
        raise UserError(
            f"weights={place}: nothing in it fits model={config['model']['_target_']}: {_shapes(source, own)}"
        )
    task.model.load_state_dict(taken, strict=False)
    names = [name for name, _ in task.model.named_parameters()]
    loaded = {name for name in names if name in taken}
    task.parts = {"loaded": cover(loaded, names), "new": cover(set(names) - loaded, names)}
    left = [key for key in source.state if there + key.removeprefix(here) not in taken]
    _tell(task, source, (here, there), taken, left)
    return {"file": place, "sha256": digest(source.state), "loaded": len(taken), "skipped": len(left), **task.parts}


def outputs(task: Task, config: build.Config, data: DataModule, *, known: bool) -> set[str]:
    """Names of the weights whose shape depends on the number of classes, found by building the network for one more.

    Args:
        task: see `begin`, as for `config` and `data`.
        config: see there.
        data: see there.
        known: whether the source has classes of its own; else nothing is an output that fits.
    """
    if not known:
        return set()
    own = task.model.state_dict()
    if config["task"].get("kind") == "binary":  # one output, however many classes
        last = list(own)[-1].rpartition(".")[0]
        return {name for name in own if name.rpartition(".")[0] == last}
    node = {**config["task"], "metrics": None}
    node |= {"class_weights": None} if "class_weights" in node else {}
    with torch.random.fork_rng(devices=[]):  # what the run draws is not changed by it
        more = build.with_facts({**config, "task": node}, data, more=1)
        wider = build.make_task(more, [*data.classes, "one more"], data.preprocess, training=False)
    other = wider.model.state_dict()
    return {name for name, value in own.items() if name not in other or other[name].shape != value.shape}


def digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names and bytes of weights."""
    total = hashlib.sha256()
    for name, value in sorted(state.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _tell(task: Task, source: Source, way: tuple[str, str], taken: Mapping[str, Tensor], left: Sequence[str]) -> None:
    """What was loaded, what was skipped and what is new, a line each."""
    own = {name: value.numel() for name, value in task.model.named_parameters()}
    count = {name: sum(own[key] for key in own if (key in taken) == (name == "loaded")) for name in ("loaded", "new")}
    say(f"weights of {source.told}")
    moved = (
        f", {way[0] or 'the network'} as {way[1] or 'the network'}".replace(". ", " ").rstrip(".") if any(way) else ""
    )
    for name in ("loaded", "new"):
        say(f"  {name:<7} {count[name]:>12,} parameters: {_some(task.parts[name])}{moved if name == 'loaded' else ''}")
    weighed = [key for key in source.state if not key.endswith("num_batches_tracked")]
    gone = [key for key in left if key in weighed]
    numbers = sum(source.state[key].numel() for key in gone)
    say(f"  {'skipped':<7} {numbers:>12,} parameters: {_some(cover(set(gone), weighed))}")
    then, now = source.preprocess, task.preprocess.describe() if task.preprocess else None
    other = [key for key in ("mean", "std") if then and now and then[key] != now[key]]
    if other and then and now:
        told = ", ".join(f"{key} {_list(then[key])} (here {_list(now[key])})" for key in other)
        say(f"  they were trained on images normalised by {told}: data.{other[0]}=... gives them the same")


def _list(values: Sequence[float]) -> str:
    return str(values[0]) if len(set(values)) == 1 else str(list(values))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED]) or "none"
    return shown + (f", ... ({len(names)})" if len(names) > _NAMED else "")


def _shapes(source: Source, own: Mapping[str, Tensor]) -> str:
    """The first weights of both, for a message."""
    told = [
        next((f"{name} {tuple(value.shape)}" for name, value in state.items() if value.ndim > 1), "nothing")
        for state in (source.state, own)
    ]
    return f"it begins with {told[0]}, the model with {told[1]}"
