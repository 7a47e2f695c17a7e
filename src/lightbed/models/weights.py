"""Trained weights for a network: torchvision's by name, or a file."""

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from lightbed.errors import UserError, first_sentence, nearest

State = dict[str, Tensor]

_DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")  # names of torchvision's files of 2017


def load_weights(net: nn.Module, name: str, weights: str, num_classes: int) -> None:
    """Load trained weights into torchvision's network `name`, which has 3 channels and `num_classes` outputs.

    A last layer for another number of classes keeps its fresh weights, and a vision transformer's embedding of places
    is interpolated to the network's own grid.

    Args:
        net: the network.
        name: its name.
        weights: 'DEFAULT' or one of torchvision's names, or the path of a file: a state dict, or a checkpoint with
            `state_dict` whose names may begin with `model.`; it is read without running code.
        num_classes: K of the network.

    Raises:
        UserError: there are no such weights, they cannot be had, or they are another network's.
    """
    path = Path(weights).expanduser()
    state = _read(path) if path.suffix in (".pth", ".pt", ".ckpt") else _fetch(name, weights)
    for key in list(state):  # in place: the dict carries versions that some networks look at
        if match := _DENSE.match(key):
            state[match[1] + match[2]] = state.pop(key)
    if "encoder.pos_embedding" in state:
        kind: Any = net
        torchvision.models.vision_transformer.interpolate_embeddings(kind.image_size, kind.patch_size, state)
    _fit(net, state, num_classes, f"model.weights={weights}")


def load_detector(net: nn.Module, name: str | None, weights: str, fresh: Sequence[str]) -> None:
    """Load trained weights into a whole detector; the outputs for other classes keep their fresh weights.

    Args:
        net: the network, for 3 channels where the weights are torchvision's.
        name: torchvision's name of it; None: torchvision has no weights for its backbone.
        weights: 'DEFAULT', 'COCO_V1' or the path of a file, see `load_weights`.
        fresh: how the names of those weights begin that depend on the number of classes.

    Raises:
        UserError: there are no such weights, they cannot be had, or they are another network's.
    """
    path, where = Path(weights).expanduser(), f"model.weights={weights}"
    file = path.suffix in (".pth", ".pt", ".ckpt")
    if not file and name is None:
        raise UserError(f"{where}: torchvision has none for this backbone: model.backbone=resnet50, or a file")
    state = _read(path) if file else _fetch(name or "", weights)
    own = net.state_dict()
    other = [key for key, value in state.items() if key in own and own[key].shape != value.shape]
    if wrong := [key for key in other if not key.startswith(tuple(fresh))]:
        shapes = f"{tuple(state[wrong[0]].shape)} in the file, {tuple(own[wrong[0]].shape)} in the network"
        raise UserError(f"{where} does not fit the model's other options: {wrong[0]} is {shapes}")
    for key in other:  # in place: the dict carries versions that some networks look at
        del state[key]
    faults = net.load_state_dict(state, strict=False)
    missing = [key for key in faults.missing_keys if key not in other]
    if missing or faults.unexpected_keys:
        told = f"lacks {missing[0]}" if missing else f"has {faults.unexpected_keys[0]}, which the network has not"
        hint = "torchvision's expect model.norm=frozen model.norm_pyramid=false; a classifier's: model.weights_backbone"
        raise UserError(f"{where} is another network's: it {told}; {hint}")


def _fetch(name: str, weights: str) -> State:
    known = {entry.name: entry for entry in torchvision.models.get_model_weights(name)}
    if weights != "DEFAULT" and weights not in known:
        hint = nearest(weights, ["DEFAULT", *known])
        raise UserError(f"model.weights={weights} is neither a .pth, .pt or .ckpt file nor known for {name}: {hint}")
    entry = torchvision.models.get_model_weights(name).DEFAULT if weights == "DEFAULT" else known[weights]
    return fetch_entry(entry, f"model.weights={weights}")


def fetch_entry(entry: Any, where: str) -> State:
    """The weights of one of torchvision's entries, downloaded once; `where` is the config key that asks for them.

    Raises:
        UserError: they cannot be had.
    """
    place = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    try:
        return dict_of(entry.get_state_dict(progress=True, check_hash=True, weights_only=True), str(place))
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{where}: {entry.url} cannot be reached ({reason}): put that file at {place}, "
            f"or train from scratch with {where.partition('=')[0]}=null"
        ) from error
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(f"{where}: {place} is damaged ({first_sentence(error)}): delete it") from error


def _read(path: Path) -> State:
    return read_file(path, "model.weights")


def read_file(path: Path, key: str) -> State:
    """The state dict in a file, read without running code; `key` is the config key that names it.

    Raises:
        UserError: there is none.
    """
    try:
        return dict_of(torch.load(path, map_location="cpu", weights_only=True), str(path))
    except FileNotFoundError as error:
        raise UserError(f"{key}={path} does not exist") from error
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(f"{key}={path} cannot be read as weights ({first_sentence(error)})") from error


def dict_of(content: Any, origin: str) -> State:
    """The state dict in a file's content, a Lightning checkpoint's without the prefix `model.`.

    Raises:
        UserError: there is none.
    """
    if isinstance(content, dict) and "state_dict" in content:
        found = content["state_dict"]
        inner = {key.removeprefix("model."): value for key, value in found.items() if key.startswith("model.")}
        content = inner or found
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"model.weights: {origin} holds no weights")
    return content


def _fit(net: nn.Module, state: State, num_classes: int, where: str) -> None:
    """Load what fits; only a last layer, and auxiliary outputs that the network does without, may be left out."""
    own = net.state_dict()
    heads = []
    for key in list(state):
        value, place = state[key], own.get(key)
        if place is None and key.lower().startswith("aux"):
            del state[key]
        elif place is not None and (place.shape != value.shape or value.isnan().any()):
            # torchvision's file of VGG's features alone fills the last layers with NaN
            if value.shape[1:] != place.shape[1:] or (len(place) != num_classes and not value.isnan().any()):
                shapes = f"{tuple(value.shape)} in the file, {tuple(place.shape)} in the network"
                raise UserError(f"{where} does not fit model.kwargs and data: {key} is {shapes}")
            heads.append(key)
            del state[key]
    faults = net.load_state_dict(state, strict=False)
    missing = [key for key in faults.missing_keys if key not in heads]
    if missing or faults.unexpected_keys:
        told = f"lacks {missing[0]}" if missing else f"has {faults.unexpected_keys[0]}, which the network has not"
        raise UserError(f"{where} is another network's: it {told}")
