"""Images that strangers send: looked at before they are decoded, and deleted once they are read."""

import shutil
import tempfile
import time
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightbed.data.images import guarded, read_image
from lightbed.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read, whatever a file is called; Pillow would run programs for some others."""

MEGABYTE = 2**20
_FORGOTTEN = 600.0  # seconds after which a file that nobody asked about is deleted


class Limits(NamedTuple):
    """What an upload may have.

    Args:
        megabytes: of the file.
        megapixels: that its header claims; a small file may claim to hold more than fits in memory.
    """

    megabytes: float
    megapixels: float

    def __str__(self) -> str:
        return f"{', '.join(FORMATS)}, up to {self.megabytes:g} MB and {self.megapixels:g} megapixels"


class Upload(NamedTuple):
    """An image that was sent: the name of its file, its bytes, and its pixels uint8 (3, h, w), upright."""

    name: str
    content: bytes
    image: Tensor


class Uploads:
    """A private folder in which each request's files lie by themselves until they are read.

    Args:
        limits: what is read.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.folder = Path(tempfile.mkdtemp(prefix="lightbed_page_")).resolve()

    def new(self) -> Path:
        """A place for the files of one request, so that no two requests share one, even of the same image.

        What was sent long before and never asked about is deleted.
        """
        self.sweep()
        return self.folder / uuid.uuid4().hex

    def read(self, path: str | Path) -> Upload:
        """The image in an uploaded file, which is deleted, whatever comes of it.

        Raises:
            UserError: it is not in the folder, too large, truncated or no image; named as its sender calls it.
        """
        file = Path(path).resolve()
        if not file.is_relative_to(self.folder) or not file.is_file():
            raise UserError("the file is not here any more: please send it again")
        try:
            return read(file, self.limits)
        finally:
            shutil.rmtree(self.folder / file.relative_to(self.folder).parts[0], ignore_errors=True)

    def sweep(self, age: float = _FORGOTTEN) -> None:
        """Delete what was sent so many seconds ago and never asked about."""
        for folder in self.folder.glob("*"):
            with suppress(FileNotFoundError):  # a request has just ended
                if time.time() - folder.stat().st_mtime > age:
                    shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read(file: Path, limits: Limits) -> Upload:
    """The image in a file within `limits`: what its bytes are counts, not what its name says.

    Raises:
        UserError: it is too large, of another format, truncated or no image; it names the file without its folder.
    """
    megabytes = file.stat().st_size / MEGABYTE
    if megabytes > limits.megabytes:
        raise UserError(f"{file.name} has {megabytes:.1f} MB; the page takes up to {limits.megabytes:g} MB")
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            width, height = _size(file)
            if height * width > limits.megapixels * 1e6:
                claimed = f"claims {width:,} x {height:,} = {height * width / 1e6:,.0f} megapixels"
                raise UserError(f"{file.name} {claimed}; {_scale_down(limits)}")
            return Upload(file.name, file.read_bytes(), read_image(file))
    except Image.DecompressionBombError as error:
        raise UserError(f"{file.name} claims hundreds of megapixels; {_scale_down(limits)}") from error
    except UserError as error:
        raise UserError(str(error).replace(str(file), file.name)) from error


def _scale_down(limits: Limits) -> str:
    return f"the page takes up to {limits.megapixels:g}: please scale it down"


def _size(file: Path) -> tuple[int, int]:
    """Width and height by the header of a file of a known format: nothing is decoded (Pillow decodes for EXIF)."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return image.size
    except UnidentifiedImageError:
        if file.stat().st_size == 0:
            raise UserError(f"{file.name} is empty") from None
        raise UserError(f"{file.name} is no image that the page reads: it takes {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError):
        return guarded(file, lambda image: image.size)  # says what is wrong
