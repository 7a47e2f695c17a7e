"""A segmenter's answers: a mask for each image, in tiles where it is much larger than those trained on."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from lightbed.runs.log import say
from lightbed.tasks.segmenter import Segmenter
from lightbed.types import Prediction


def masked(
    batches: Iterable[list[tuple[Path, Tensor]]],
    task: Segmenter,
    model: Any,
    tile: int | str | None,
    overlap: int | str,
) -> Iterator[tuple[Path, Tensor, Prediction]]:
    """Each image, uint8 (C, h, w), with its mask; says of the first one that `tile=auto` has cut how that is done.

    Args:
        batches: files with their images.
        task: says how an image is labelled.
        model: the same on its device.
        tile: see `Segmenter.plan`.
        overlap: see `tiling.tiled`.
    """
    told = tile != "auto"
    for batch in batches:
        for path, image in batch:
            own = (image.shape[-2], image.shape[-1])
            parts = task.plan(own, tile).tile
            if parts != own and not told:
                say(_explained(path, own, parts, task))
                told = True
            yield path, image, model.segment(image, tile, overlap)


def _explained(path: Path, own: tuple[int, int], parts: tuple[int, int], task: Segmenter) -> str:
    known = f" (up to {_sides(task.largest)})" if task.largest else ""
    return (
        f"{path.name} is {_sides(own)}, much more than the images trained on{known}: such images are labelled in tiles "
        f"of {_sides(parts)} that overlap; where they show the same things only larger, tile=null is right"
    )


def _sides(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
