"""Brightness, contrast and saturation."""

import torch
from torch import Tensor

from lightbed.errors import UserError
from lightbed.transforms.augment import Augmentation, Targets

_GREY = (0.299, 0.587, 0.114)  # share of red, green and blue in brightness (ITU-R BT.601)


class ColourJitter(Augmentation):
    """Brightness, contrast and saturation times random factors, each uniform in 1 - value..1 + value (at least 0).

    Contrast is the distance to the image's mean brightness, saturation the distance of a pixel to its own brightness;
    grey images have no saturation. In this order and cut to 0..255 at the end, where torchvision's ColorJitter
    shuffles the three and cuts after each.
    """

    draws = 3
    computes = True
    ranges: Tensor

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        super().__init__()
        ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, value in ranges.items():
            if value < 0:
                raise UserError(f"ColourJitter: {name}={value} must not be negative")
        self.contrast, self.saturation = contrast > 0, saturation > 0
        self.register_buffer("ranges", torch.tensor(list(ranges.values())), persistent=False)

    def forward(self, images: Tensor, target: Targets, u: Tensor) -> tuple[Tensor, Targets]:
        factors = (1 + (2 * u - 1) * self.ranges).clamp_(min=0)[:, :, None, None, None]
        brightness, contrast, saturation = factors.unbind(1)  # (N, 1, 1, 1)
        images = images.float()
        coloured = images.shape[1] == 3
        if not self.contrast and not (coloured and self.saturation):
            return images.mul_(brightness).clamp_(0, 255), target
        grey = _grey(images) if coloured else images.mean(1, keepdim=True)  # (N, 1, H, W)
        # rows, then columns: a sum over both at once would be split between threads, by the size of the batch
        mean = grey.mean(3, keepdim=True).mean(2, keepdim=True)  # (N, 1, 1, 1)
        whole = brightness * contrast
        offset = (brightness - whole) * mean
        if coloured:
            offset = offset + whole * (1 - saturation) * grey
            whole = whole * saturation
        return images.mul_(whole).add_(offset).clamp_(0, 255), target


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    return torch.add(red * _GREY[0], green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])
