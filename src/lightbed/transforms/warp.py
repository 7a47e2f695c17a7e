"""Resampling along an affine map: the one place where pixels between pixels are computed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightbed.transforms.augment import Targets

FILLS = {"nearest": "border", "constant": "zeros", "reflect": "reflection"}
"""What lies outside an image, by the names that SciPy and Keras use: its edge pixels drawn out, black, or the image
mirrored at its edge (the edge pixels twice: c b a | a b c)."""

IGNORE = 255  # pixels of a mask that come from outside the image, where the image is filled with a constant


def warp(images: Tensor, target: Targets, matrices: Tensor, fill: str) -> tuple[Tensor, Targets]:
    """Sample images and their masks at the places that affine maps name, images bilinearly, masks by the nearest pixel.

    Args:
        images: uint8 or float32 (N, C, H, W).
        target: `mask` int64 (N, H, W) or `masks` uint8 (N, n, H, W), if there is one of them.
        matrices: float32 (N, 2, 3), from a pixel of the output, (y, x, 1), to the place (y, x) in the input; both in
            pixels from the image's centre.
        fill: a name of `FILLS`.

    Returns:
        Images float32 (N, C, H, W) and targets.
    """
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    # grid_sample wants (x, y) in -1..1 between the outer edges; with the coordinate before the pixels, (N, 2, H, W),
    # the grid is one broadcast sum, three times faster than affine_grid
    scaled = torch.stack([matrices[:, 1] * (2 / width), matrices[:, 0] * (2 / height)], dim=1)
    rows = scaled[:, :, :1] * y + scaled[:, :, 2:]  # (N, 2, H)
    columns = scaled[:, :, 1:2] * x  # (N, 2, W)
    grid = (rows[:, :, :, None] + columns[:, :, None, :]).permute(0, 2, 3, 1)
    outside = FILLS[fill]
    warped = F.grid_sample(images.float(), grid, "bilinear", outside, align_corners=False)
    if "masks" in target:  # an object that is mirrored at the edge is no other object
        drawn = F.grid_sample(target["masks"].float(), grid, "nearest", "zeros", align_corners=False)
        target = {**target, "masks": drawn.to(torch.uint8)}
    if "mask" not in target:
        return warped, target
    mask = target["mask"][:, None].float() - IGNORE  # so that grid_sample's zeros become IGNORE
    moved = F.grid_sample(mask, grid, "nearest", outside, align_corners=False) + IGNORE
    return warped, {**target, "mask": moved[:, 0].long()}
