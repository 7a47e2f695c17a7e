"""Torchvision's classification networks by name, for any number of classes, channels and pixels."""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call

from lightbed.errors import UserError, nearest
from lightbed.models.weights import load_weights

SIDES = 512  # the largest side that an error message proposes


def names() -> list[str]:
    """Names of all of torchvision's classification networks."""
    return list(torchvision.models.list_models(module=torchvision.models))


def classifier(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: Sequence[int] | None = None,
    weights: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The torchvision network `name` with `num_classes` outputs.

    For one channel its first filters are summed, so that a grey image gives what the network for colours gives on
    that image in three equal channels; for more than three they are repeated in turn and scaled by 3 / C.

    Args:
        name: e.g. 'resnet18', see `names`.
        num_classes: K; where it differs from that of `weights`, the last layer starts afresh.
        in_channels: C of the images.
        image_size: (H, W) of the images; transformers are built for it, and it is checked that the network can
            train on it.
        weights: None for fresh ones; 'DEFAULT', 'IMAGENET1K_V1', ... for torchvision's; or a file, see `load_weights`.
        kwargs: further arguments of the network's constructor, e.g. `{"dropout": 0.2}`.

    Raises:
        UserError: there is no such network, weights or argument, or the images are too small for it.
    """
    if name not in names():
        raise UserError(f"model.name={name} is no network of torchvision: {nearest(name, names())}")
    builder = torchvision.models.get_model_builder(name)
    arguments = {**_own_arguments(name, image_size), "num_classes": num_classes, **(kwargs or {})}
    net = _build(name, builder, arguments, image_size)
    if weights is not None:
        load_weights(net, name, weights, num_classes)
    if in_channels != 3:
        _adapt(_first_convolution(net), in_channels)
    if image_size is not None:
        _check_size(net, name, in_channels, image_size)
    return net


def _own_arguments(name: str, image_size: Sequence[int] | None) -> dict[str, Any]:
    """What single families ask for besides the number of classes."""
    if name in ("inception_v3", "googlenet"):
        return {"init_weights": True}  # torchvision warns where nobody says it
    if image_size is None:
        return {}
    if name.startswith("vit"):
        return {"image_size": image_size[0]}
    return {"input_size": tuple(image_size)} if name == "maxvit_t" else {}


def _build(
    name: str, builder: Callable[..., nn.Module], arguments: dict[str, Any], image_size: Sequence[int] | None
) -> nn.Module:
    # the embedding of places ties a vision transformer to one grid of patches
    grid = int(name.rpartition("_")[2]) if name.startswith("vit") else 224 if name == "maxvit_t" else 1
    if image_size is not None and (any(s % grid for s in image_size) or (grid > 1 and len(set(image_size)) > 1)):
        side = max(-(-size // grid) * grid for size in image_size)
        raise UserError(
            f"model.name={name} takes square images with sides that are a multiple of {grid}, "
            f"not {_by(image_size)}: set data.image_size={side}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own initialisation, which is chosen above
            return builder(**arguments)
    except TypeError as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unexpected is None:
            raise
        kind = get_type_hints(builder)["return"]
        takes = [key for key in inspect.signature(kind).parameters if key not in ("num_classes", "args", "kwargs")]
        word = unexpected[1]
        raise UserError(f"model.kwargs.{word}: {name} takes no argument {word}: {nearest(word, takes)}") from error


def _first_convolution(net: nn.Module) -> nn.Conv2d:
    return next(module for module in net.modules() if isinstance(module, nn.Conv2d))


@torch.no_grad()
def _adapt(conv: nn.Conv2d, in_channels: int) -> None:
    """Let a convolution of 3 channels take `in_channels`."""
    weight = conv.weight  # (O, 3, h, w)
    if in_channels == 1:
        adapted = weight.sum(1, keepdim=True)
    else:
        adapted = weight[:, torch.arange(in_channels) % 3] * (3 / in_channels)
    conv.weight, conv.in_channels = nn.Parameter(adapted), in_channels


def _check_size(net: nn.Module, name: str, channels: int, size: Sequence[int]) -> None:
    problem = _refusal(net, channels, size)
    if problem is None:
        return
    low, high = max(size), SIDES  # the smallest side that works lies in (low, high]
    if low >= high or _refusal(net, channels, (high, high)):
        raise UserError(f"model.name={name} cannot train on images of {_by(size)} with {channels} channels: {problem}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _refusal(net, channels, (middle, middle)) else (low, middle)
    without = "; without auxiliary outputs, model.kwargs={aux_logits: false}, less" if name == "inception_v3" else ""
    raise UserError(
        f"model.name={name} cannot train on images of {_by(size)}: set data.image_size={high} or more{without}"
    )


def _refusal(net: nn.Module, channels: int, size: Sequence[int]) -> str | None:
    """What torch says against training on two images of this size; None if nothing.

    The pass runs on the meta device: it computes shapes, no values, and draws no random number.
    """
    states = {name: value.to("meta") for name, value in [*net.named_parameters(), *net.named_buffers()]}
    images: Tensor = torch.empty(2, channels, *size, device="meta")
    try:
        functional_call(net.train(), states, (images,))
    except (RuntimeError, ValueError, LookupError, AssertionError) as error:
        return str(error)
    return None


def _by(size: Sequence[int]) -> str:
    return "x".join(str(side) for side in size)
