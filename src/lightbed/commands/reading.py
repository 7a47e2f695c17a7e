"""Image files, found and read a batch at a time."""

import glob
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from lightbed.data.files import find_files
from lightbed.data.images import in_threads, is_image
from lightbed.errors import UserError


def find_images(source: str) -> list[Path]:
    """The image files of a file, a folder with all folders in it, or a pattern, in alphabetical order.

    A file is taken whatever its name says; in folders and patterns, only those with an image's ending. Hidden files
    and folders are left out.

    Raises:
        UserError: there is none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        names = [path / file.path for file in find_files(path, lambda _: True)]
    elif glob.has_magic(source):
        names = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - may be absolute
    else:
        raise UserError(
            f"source={source} does not exist: give an image, a folder, or a pattern such as '{path}/**/*.jpg'"
        )
    found = sorted(name for name in names if is_image(name.name) and name.is_file())
    if not names:
        raise UserError(f"source={source} {'has no files' if path.is_dir() else 'matches no file'}")
    if not found:
        raise UserError(f"source={source} has no images: of {len(names)} files there, none has the ending of an image")
    return found


def batches(
    files: list[Path], size: int, broken: str, read: Callable[[Path], Tensor], skipped: list[str]
) -> Iterator[list[tuple[Path, Tensor]]]:
    """Files with their images, `size` files at a time without those that cannot be read; they are added to `skipped`.

    Raises:
        UserError: a file cannot be read, and `broken` is 'error'.
    """

    def attempt(path: Path) -> Tensor | UserError:
        try:
            return read(path)
        except UserError as error:
            return error

    for start in range(0, len(files), size):
        part = files[start : start + size]
        whole: list[tuple[Path, Tensor]] = []
        for path, image in zip(part, in_threads(attempt, part), strict=True):
            if isinstance(image, Tensor):
                whole.append((path, image))
            elif broken == "error":
                raise UserError(f"{image}; broken=skip leaves such files out") from image
            else:
                skipped.append(str(image))
        if whole:
            yield whole


def of_one_size(read: list[tuple[Path, Tensor]]) -> list[list[tuple[Path, Tensor]]]:
    """The images in groups of one shape, which a batch needs: one group where the model's input has a fixed size."""
    groups: dict[torch.Size, list[tuple[Path, Tensor]]] = {}
    for path, image in read:
        groups.setdefault(image.shape, []).append((path, image))
    return list(groups.values())
