"""Any classifier's network with a second head, for the box of the one object in an image."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from lightbed.errors import UserError
from lightbed.models.batch_norm import BatchNorm

_GRID = 8  # places a side, at most, that the box head sees of the features
_WIDTH = 64  # channels, at most, that it reduces them to
_TRACED = {"leaf_modules": [BatchNorm]}  # it looks at sizes, which torch.fx cannot follow


class TwoHeads(nn.Module):
    """A classification network cut before its last layer, and two heads on it: class and box.

    The class is read off the features that the network's own last layer reads; where that is a `Linear`, it stays.
    The box needs to know where something is, which is lost when features are averaged over all places: its head sees
    the last features (N, C, h, w) before that, in a grid of at most 8 x 8, as long as more than half of the network's
    layers lie before them; else (transformers, networks of linear layers) it reads what the class is read off.

    Its parts are `trunk`, `label` and `box`; the trunk's weights keep the names that they have in the network.

    Args:
        network: images -> logits (N, K).
        num_classes: K.
        shape: (C, H, W) of the images; they all have this size.
        hidden: width of the box head's hidden layer.

    Raises:
        UserError: the network is not made of operations that torch.fx can follow.
    """

    def __init__(self, network: nn.Module, num_classes: int, shape: tuple[int, int, int], hidden: int = 128) -> None:
        super().__init__()
        if hidden < 1:
            raise UserError(f"task.hidden={hidden} must be at least 1")
        found = _outputs(network, shape)
        last = _last_layer(network, found)
        places = _places(network, found, last)
        vector = _vector(network, found, last)
        if vector is None and places is None:
            raise UserError("the model has no features (N, C, H, W) or (N, C) that a box could be read off")
        taken = {name: key for key, name in (("places", places), ("vector", vector)) if name is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trunk = create_feature_extractor(network, taken, tracer_kwargs=_TRACED)
        own = network.get_submodule(last) if vector is not None else None
        if isinstance(own, nn.Linear) and own.out_features == num_classes:
            self.label: nn.Module = own
        elif vector is not None:
            self.label = nn.Linear(found[vector].shape[1], num_classes)
        else:
            self.label = nn.Sequential(_Mean(), nn.Linear(found[str(places)].shape[1], num_classes))
        self.box = _box_head(found[str(places or vector)], hidden)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) -> logits (N, K), boxes (N, 4): centre x, y, width, height as fractions in 0..1."""
        features = self.trunk(images)
        places, vector = features.get("places"), features.get("vector")
        return self.label(places if vector is None else vector), self.box(vector if places is None else places)


class _Mean(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, h, w) -> their mean over all places (N, C)."""
        return features.mean((2, 3))


def _box_head(features: Tensor, hidden: int) -> nn.Module:
    """Features of that shape -> boxes (N, 4) in 0..1."""
    count, layers = features.shape[1], list[nn.Module]()
    if features.ndim == 4:
        width = min(count, _WIDTH)
        high, wide = features.shape[2:]
        # fixed windows: pooling to a fixed grid has no deterministic gradient on a GPU
        step = (math.ceil(high / _GRID), math.ceil(wide / _GRID))
        layers = [nn.Conv2d(count, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [nn.AvgPool2d(step, ceil_mode=True), nn.Flatten()]
        count = width * math.ceil(high / step[0]) * math.ceil(wide / step[1])
    return nn.Sequential(*layers, nn.Linear(count, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 4), nn.Sigmoid())


# -- where a network is cut --------------------------------------------------------------------------------------------


def _outputs(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """Each operation's output for one image that is a tensor, in the order of execution; draws no random number."""
    training = network.training
    example = torch.zeros(1, *shape)
    network.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of auxiliary outputs, which are there in training alone
            training_nodes, nodes = get_graph_node_names(network, tracer_kwargs=_TRACED)
            both = [name for name in nodes[1:] if name in training_nodes]
            found = create_feature_extractor(network, both, tracer_kwargs=_TRACED)(example)
    except Exception as error:  # whatever a network's code does when it is followed instead of run
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"torch.fx cannot follow the model on images of {'x'.join(map(str, shape))} ({reason}): a localizer takes "
            "a network that it can, or one that returns (logits, boxes) itself"
        ) from error
    finally:
        network.train(training)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _last_layer(network: nn.Module, found: dict[str, Tensor]) -> str:
    """The last operation that is a layer with parameters of its own."""
    layers = _layers(network, found)
    if not layers:
        raise UserError("the model has no layers with parameters: a localizer needs a classifier's network")
    return layers[-1]


def _layers(network: nn.Module, found: dict[str, Tensor]) -> list[str]:
    """Linear layers and convolutions, in the order of execution."""
    modules: dict[str, Any] = dict(network.named_modules())
    return [name for name in found if isinstance(modules.get(name), nn.Linear | nn.Conv2d)]


def _places(network: nn.Module, found: dict[str, Tensor], last: str) -> str | None:
    """The last features (1, C, h, w) of several places before the layer `last`, if they come late enough."""
    layers, names = _layers(network, found), list(found)
    names = names[: names.index(last)]
    for i in reversed(range(len(names))):
        value = found[names[i]]
        if value.ndim == 4 and value.shape[2] > 1 and value.shape[3] > 1:
            before = sum(layer in names[: i + 1] for layer in layers)
            return names[i] if 2 * before > len(layers) else None
    return None


def _vector(network: nn.Module, found: dict[str, Tensor], last: str) -> str | None:
    """The operation whose output (1, C) the layer `last` reads; None where that is no `Linear`."""
    layer, names = network.get_submodule(last), list(found)
    if not isinstance(layer, nn.Linear):
        return None
    before = reversed(names[: names.index(last)])
    return next((name for name in before if found[name].shape == (1, layer.in_features)), None)
