"""torchvision's segmentation networks, with a head for the data's classes."""

from typing import Any

from torch import nn
from torchvision.models import get_model, get_model_builder, get_model_weights

from lightbed.errors import UserError, one_of
from lightbed.models.batch_norm import bear_one_image


def segmentation(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    weights: str | None = None,
    weights_backbone: str | None = None,
    aux_loss: bool = False,
) -> nn.Module:
    """DeepLabv3, LR-ASPP or FCN of torchvision; its output is a dict with `out` and, with `aux_loss`, `aux`.

    Args:
        name: torchvision's, e.g. 'deeplabv3_mobilenet_v3_large'.
        num_classes: K.
        in_channels: must be 3.
        weights: of the whole network but for the last layers, which are made anew for K classes; 'DEFAULT' or None.
        weights_backbone: of the classifier beneath; 'DEFAULT' or None.
        aux_loss: a second head on the middle features, trained along (not in LR-ASPP).

    Raises:
        UserError: no such network, or not for these images.
    """
    one_of(name, _names(), "model.name")
    if in_channels != 3:
        raise UserError(f"model.name={name} takes RGB images, but the data has {in_channels} channels: data.channels=3")
    options: dict[str, Any] = {} if name.startswith("lraspp") else {"aux_loss": aux_loss}
    if not options and aux_loss:
        raise UserError(f"model.name={name} has no auxiliary head: model.aux_loss=false")
    if weights is None:
        network: nn.Module = get_model(
            name, weights=None, weights_backbone=weights_backbone, num_classes=num_classes, **options
        )
        bear_one_image(network)  # the pooling branch of DeepLabv3's head has one value per channel and image
        return network
    known = len(get_model_weights(name)[weights].meta["categories"])
    network = get_model(name, weights=weights, **({"aux_loss": True} if options else {}))
    if options and not aux_loss:
        network.register_module("aux_classifier", None)
    if known != num_classes:
        for module_name, module in list(network.named_modules()):
            if isinstance(module, nn.Conv2d) and module.out_channels == known and "classifier" in module_name:
                parent, _, child = module_name.rpartition(".")
                fresh = nn.Conv2d(module.in_channels, num_classes, 1)
                setattr(network.get_submodule(parent), child, fresh)
    bear_one_image(network)
    return network


def _names() -> tuple[str, ...]:
    from torchvision.models import list_models
    from torchvision.models import segmentation as module

    names: list[str] = list_models(module=module)
    return tuple(name for name in names if callable(get_model_builder(name)))
