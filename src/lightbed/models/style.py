"""An image as what is learnt: its features in a network that stands still are compared with those of two others."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightbed.errors import UserError, nearest

_SCALES = 5  # whose features are matched, where nobody says which


class StyleImage(nn.Module):
    """An image, and a network that looks at it (Gatys, Ecker, Bethge 2016).

    The network's weights are frozen, and it always behaves as in evaluation. Any network for classification will do, a
    trained one best; one without training knows the textures of a style, too (Ustyuzhaninov et al. 2016,
    arXiv:1606.00021).

    Args:
        network: takes images (N, C, H, W).
        style: weight of each of the network's parts, by name, whose features' Gram matrices are matched; None: the
            first convolution at each scale, five at most, which of VGG-19 are the paper's.
        content: likewise of the parts whose features themselves are matched; None: the second convolution at the last
            but one of these scales.
        in_channels: C of the image.
        image_size: (H, W) of it.

    Raises:
        UserError: a part is none of the network's or has no features (N, c, h, w), or there is none.
    """

    image: Tensor
    begun: Tensor

    def __init__(
        self,
        network: nn.Module,
        style: Mapping[str, float] | None,
        content: Mapping[str, float] | None,
        in_channels: int,
        image_size: Sequence[int],
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        if style is None or content is None:
            scales = convolutions(self.network, in_channels, image_size)[:_SCALES]
            style = {names[0]: 1.0 for names in scales} if style is None else style
            content = {scales[-2:][0][:2][-1]: 1.0} if content is None and scales else content or {}
        self.style, self.content = ({k: v for k, v in given.items() if v} for given in (style, content))
        names = [name for name, _ in network.named_modules() if name]
        for key, given in (("style", self.style), ("content", self.content)):
            if unknown := [name for name in given if name not in names]:
                raise UserError(f"model.{key}.{unknown[0]}: the network has no such part: {nearest(unknown[0], names)}")
        if not self.style and not self.content:
            raise UserError("model.style and model.content name no part of the network: there is nothing to match")
        self.image = nn.Parameter(torch.randn(1, in_channels, *image_size) * 0.1)
        self.register_buffer("begun", torch.tensor(False))

    def train(self, mode: bool = True) -> "StyleImage":
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, C, H, W) -> the features (N, c, h, w) of all parts that are matched, by their names."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda module, inputs, output: found.update({name: output})  # noqa: ARG005 - torch's signature

        wanted = {**self.style, **self.content}
        handles = [self.network.get_submodule(name).register_forward_hook(keep(name)) for name in wanted]
        try:
            self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        for name in wanted:
            if getattr(found.get(name), "ndim", 0) != 4:
                key = "style" if name in self.style else "content"
                raise UserError(f"model.{key}.{name}: this part of the network gives no features (N, C, H, W)")
        return found


def convolutions(network: nn.Module, channels: int, image_size: Sequence[int]) -> list[list[str]]:
    """Names of the convolutions that an image of this size runs through, those of each scale in one list, in order."""
    scales: dict[tuple[int, ...], list[str]] = {}

    def note(name: str) -> Any:
        return lambda module, inputs, output: scales.setdefault(tuple(output.shape[2:]), []).append(name)  # noqa: ARG005

    handles = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            network(torch.zeros(1, channels, *image_size))
    finally:
        for handle in handles:
            handle.remove()
    return list(scales.values())
