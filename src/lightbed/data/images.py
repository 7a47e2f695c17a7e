"""Image files of any kind -> uint8 tensors."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightbed.errors import UserError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga"),
)
MODES = {1: "L", 3: "RGB"}  # by channels
_WIDE = 65535
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
T = TypeVar("T")
R = TypeVar("R")


def is_image(name: str) -> bool:
    """Whether a file of this name is an image to read: a known ending in any case, and not hidden."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def read_image(path: str | Path, channels: int = 3) -> Tensor:
    """The image in a file, uint8 (C, H, W), upright as its EXIF orientation says; the first frame of an animation.

    - Transparent pixels are laid on white, as a viewer shows them; the colours below full transparency are arbitrary.
    - Integers of 16 bits are scaled from 0..65535 to 0..255, not clipped.
    - Floats and 32-bit integers are read as 0..1 (floats only), 0..255 or 0..65535, the first that holds all pixels.

    Args:
        path: a file that Pillow reads.
        channels: 1 converts to grey (ITU-R 601), 3 to RGB.

    Raises:
        UserError: the file is missing, empty, truncated, no image, or too large to be one; it names the path.
    """
    return guarded(path, lambda image: _to_tensor(image, MODES[channels]))


def check_image(path: str | Path) -> tuple[int, int]:
    """The image's (height, width), upright, once it is sure that `read_image` can read it.

    A JPEG is decoded at an eighth of its size, which finds the same faults faster.

    Raises:
        UserError: as `read_image`.
    """

    def decode(image: Image.Image) -> tuple[int, int]:
        size = upright_size(image)
        image.draft("L", (1, 1))
        image.load()
        if image.mode in ("I", "F"):
            _to_bytes(np.asarray(image))
        return size

    return guarded(path, decode)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) as shown, without decoding the pixels."""
    width, height = image.size
    return (width, height) if orientation(image) in TURNED else (height, width)


def orientation(image: Image.Image) -> int:
    """How its EXIF data say that an image is to be turned, 1..8; 1 is not at all."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def in_threads(function: Callable[[T], R], items: list[T]) -> list[R]:
    """`function` of each item, in order, by a pool of threads; Pillow decodes without holding Python's lock."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def guarded(path: str | Path, use: Callable[[Image.Image], R]) -> R:
    """What `use` makes of the image in a file; whatever goes wrong becomes a UserError that names the path."""
    try:
        with Image.open(path) as image:
            return use(image)
    except UnidentifiedImageError as error:
        empty = Path(path).stat().st_size == 0
        raise UserError(f"{path} {'is empty' if empty else 'is no image that can be read'}") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{path} claims more than {limit:,} pixels, which is refused; scale it down") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file ends in one of a dozen kinds of error
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}") from error


def _to_tensor(image: Image.Image, mode: str) -> Tensor:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = Image.fromarray(_to_bytes(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.array(image if image.mode == mode else image.convert(mode))
    return torch.from_numpy(array).reshape(*array.shape[:2], -1).permute(2, 0, 1).contiguous()


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Grey pixels (H, W) of more than 8 bits -> uint8."""
    if pixels.dtype.itemsize == 2:
        return _rounded(pixels * (255 / _WIDE))
    low, high = float(pixels.min()), float(pixels.max())
    ranges = (1, 255, _WIDE) if pixels.dtype.kind == "f" else (255, _WIDE)
    fitting = next((top for top in ranges if low >= 0 and high <= top), None)
    if fitting is None:  # NaN, too, fits nowhere
        raise ValueError(f"its pixels lie in {low:g}..{high:g}; convert it to 8 or 16 bits")
    return _rounded(pixels * (255 / fitting))


def _rounded(pixels: np.ndarray) -> np.ndarray:
    return (pixels + 0.5).astype(np.uint8)
