"""An image as what is learnt: its features in a network that stands still are compared with those of two others."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightbed.errors import UserError, nearest


class StyleImage(nn.Module):
    """An image, and a network that looks at it (Gatys, Ecker, Bethge 2016).

    The network's weights are frozen, and it always behaves as in evaluation. Any network for classification will do, a
    trained one best; one without training knows the textures of a style, too (Ustyuzhaninov et al. 2016,
    arXiv:1606.00021).

    Args:
        network: takes images (N, C, H, W).
        style: weight of each of the network's parts, by name, whose features' Gram matrices are matched.
        content: likewise of the parts whose features themselves are matched.
        in_channels: C of the image.
        image_size: (H, W) of it.

    Raises:
        UserError: a part is none of the network's, or there is none.
    """

    image: Tensor
    begun: Tensor

    def __init__(
        self,
        network: nn.Module,
        style: Mapping[str, float],
        content: Mapping[str, float],
        in_channels: int,
        image_size: Sequence[int],
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
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
        return found
