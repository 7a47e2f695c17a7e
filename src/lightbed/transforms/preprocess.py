"""What happens to every image before a network sees it; it travels with the weights in the checkpoint."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from lightbed.errors import UserError, one_of

RESIZE = ("stretch", "crop")


class Preprocess(nn.Module):
    """Brings an image of any size to the network's input: resize, scale to 0..1, normalise.

    Args:
        channels: 1 (grey) or 3 (RGB); files are converted to it when they are read.
        size: (height, width) of the input, or None where the network takes any size.
        mean: per channel or one for all, of pixels scaled to 0..1.
        std: likewise; mean 0 and std 1 leave 0..1.
        resize: 'stretch' to the size, or 'crop': shorter side to it, then the centre.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        channels: int = 3,
        size: Sequence[int] | int | None = None,
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.5,
        resize: str = "stretch",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.size = _size(size)
        self.resize = one_of(resize, RESIZE, "data.resize")
        self.mean, self.std = (_per_channel(value, channels, name) for value, name in ((mean, "mean"), (std, "std")))
        if min(self.std) <= 0:
            raise UserError(f"data.std={self.std} must be positive: it divides")
        view = (channels, 1, 1)
        # (x / 255 - mean) / std as one multiplication and one addition
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in self.std]).view(view), persistent=False)
        pairs = zip(self.mean, self.std, strict=True)
        self.register_buffer("shift", torch.tensor([-m / s for m, s in pairs]).view(view), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 (..., C, H, W) or, after augmentation, float in 0..255 -> normalised float32."""
        if images.shape[-3] != self.channels:
            raise UserError(f"images have {images.shape[-3]} channels, but data.channels={self.channels}")
        # in place where the conversion has made a copy; one addcmul takes up to four times as long on a CPU
        pixels = images.to(self.scale.dtype)
        scaled = pixels * self.scale if pixels is images else pixels.mul_(self.scale)
        return scaled.add_(self.shift)

    def undo(self, images: Tensor) -> Tensor:
        """Normalised images (..., C, H, W) -> uint8, for pictures."""
        return ((images - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)

    def fit(self, image: Tensor, *, mask: bool = False) -> Tensor:
        """One image uint8 (C, h, w) of any size -> uint8 (C, H, W) of the network's input size.

        With `mask` the pixels are classes: each takes the class of the nearest one, none are mixed.
        """
        if self.size is None or tuple(image.shape[-2:]) == self.size:
            return image
        how: dict[str, Any] = {"interpolation": F.InterpolationMode.NEAREST_EXACT} if mask else {"antialias": True}
        scaled: Tensor = F.resize(image, self._scaled_size(image.shape[-2:]), **how)
        if self.resize == "crop":
            scaled = F.center_crop(scaled, list(self.size))
        return scaled.contiguous()  # of an image a pixel wide or high, too, which torchvision takes as channels last

    def factors(self, own: tuple[int, int]) -> tuple[float, float]:
        """By how much `fit` scales height and width of an image of size `own`, before it crops."""
        height, width = self._scaled_size(own)
        return height / own[0], width / own[1]

    def fit_boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes xyxy (n, 4) in an image of `size` (height, width) -> in what `fit` makes of it, not clipped to it."""
        scale, shift = self._move(boxes, size)
        return boxes * scale - shift

    def unfit_boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes xyxy (n, 4) in what `fit` makes of an image of `size` -> in the image."""
        scale, shift = self._move(boxes, size)
        return (boxes + shift) / scale

    def unfit_masks(self, masks: Tensor, size: tuple[int, int]) -> Tensor:
        """Masks bool (n, H, W) of what `fit` makes of an image of `size` -> of the image; nothing where it was cut."""
        if self.size is None or tuple(size) == self.size:
            return masks
        scaled = self._scaled_size(size)
        top, left = (round((whole - part) / 2) for whole, part in zip(scaled, self.size, strict=True))
        found = torch.zeros(len(masks), *size, dtype=torch.bool)
        for mask, own in zip(masks, found, strict=True):  # one at a time, for the image may be large
            whole = torch.zeros(1, *scaled)
            whole[0, top : top + self.size[0], left : left + self.size[1]] = mask
            own.copy_(F.resize(whole, list(size), antialias=True)[0] >= 0.5)
        return found

    def _move(self, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Factors of x, y, x, y, and how far the corner of the crop is from that of the scaled image."""
        height, width = scaled = self._scaled_size(size)
        top, left = (round((whole - part) / 2) for whole, part in zip(scaled, self.size or scaled, strict=True))
        scale = torch.tensor([width / size[1], height / size[0]] * 2, dtype=boxes.dtype, device=boxes.device)
        return scale, torch.tensor([left, top] * 2, dtype=boxes.dtype, device=boxes.device)

    def _scaled_size(self, own: Sequence[int]) -> list[int]:
        """The size that an image of size `own` is resized to, before a crop to `size`."""
        height, width = self.size or own
        if self.resize != "crop":
            return [height, width]
        ratio = max(height / own[0], width / own[1])
        return [max(round(own[0] * ratio), height), max(round(own[1] * ratio), width)]

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, for a checkpoint."""
        size = list(self.size) if self.size else None
        return {"channels": self.channels, "size": size, "mean": self.mean, "std": self.std, "resize": self.resize}


def _size(value: Sequence[int] | int | None) -> tuple[int, int] | None:
    sides = [value, value] if isinstance(value, int) else list(value or [])
    if not sides:
        return None
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(f"data.image_size={value} must be one positive number, or two: [height, width]")
    return int(sides[0]), int(sides[1])


def _per_channel(value: Sequence[float] | float, channels: int, name: str) -> list[float]:
    values = [float(value)] * channels if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) == 1:
        values *= channels
    if len(values) != channels:
        raise UserError(
            f"data.{name} has {len(values)} values but the images have {channels} channels; give 1 or {channels}"
        )
    return values
