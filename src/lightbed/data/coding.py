"""How a mask file says the class of each pixel."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightbed.data.images import guarded
from lightbed.errors import UserError, one_of

CODINGS = ("auto", "index", "colour", "grey", "nonzero")
VOID = 255
_LOOKED_AT = 16  # masks that `auto` reads


class Coding:
    """Reads mask files as classes.

    - 'index': a pixel's value is its class; palette files hold such values behind their colours.
    - 'colour': a pixel's RGB colour stands in `colours`.
    - 'grey': over 127 is class 1, else class 0; `exact` takes 0 and 255 alone.
    - 'nonzero': 0 is class 0, every other value, such as an object's number, class 1.

    Args:
        kind: one of these.
        colours: RGB of each class, in the order of the classes; for 'colour', and else for pictures alone.
        void: what is left out of loss and metrics: a value, several values, or RGB for 'colour'. 255 always is for
            'index'.
        exact: refuse masks of kind 'grey' that hold more than black and white: for a kind that was guessed.
        num_classes: of the data, where it is known: 'index' then refuses higher values.

    Raises:
        UserError: the arguments contradict each other.
    """

    def __init__(
        self,
        kind: str,
        colours: Sequence[Sequence[int]] | None = None,
        void: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self.kind = one_of(kind, CODINGS[1:], "data.coding")
        self.num_classes, self.exact = num_classes, exact
        self.void = [] if void is None else [void] if isinstance(void, int) else [int(value) for value in void]
        self.colours = [tuple(int(value) for value in colour) for colour in colours or []]
        if kind == "colour":
            if not self.colours:
                raise UserError("data.coding=colour needs a table: data.colours={road: [128,64,128], ...}")
            if self.void and len(self.void) != 3:
                raise UserError(f"data.void={self.void} must be one colour [R,G,B] for data.coding=colour")
            table = _checked([*self.colours, *([tuple(self.void)] if self.void else [])])
            labels = [*range(len(self.colours)), *([VOID] if self.void else [])]
            codes = _code(np.array(table))
            order = np.argsort(codes)
            self._codes, self._labels = codes[order], np.array(labels, np.uint8)[order]
        else:
            _checked(self.colours)

    def describe(self) -> dict[str, Any]:
        """What a decoded mask depends on."""
        told = {"coding": self.kind, "colours": self.colours, "void": self.void, "num_classes": self.num_classes}
        return {**told, "exact": self.exact}

    def read(self, path: Path) -> Tensor:
        """The classes in a file, uint8 (1, H, W), 255 where void.

        Raises:
            UserError: the file cannot be read, or has pixels that mean no class.
        """
        pixels: np.ndarray = guarded(path, self._pixels)
        mask = self._by_colour(pixels, path) if self.kind == "colour" else self._by_value(pixels, path)
        return torch.from_numpy(mask)[None]

    def _pixels(self, image: Image.Image) -> np.ndarray:
        if self.kind != "grey":
            _refuse_lossy(image)
        if self.kind == "colour":
            return np.asarray(image.convert("RGB"))
        values = np.asarray(image)
        if values.dtype == bool:  # black and white files hold 0 and 1
            values = values.astype(np.uint8) * (255 if self.kind == "grey" else 1)
        if values.ndim == 3:  # a grey picture saved in colours, perhaps with alpha
            first = values[..., :1]
            if values.shape[2] > 2 and (values[..., 1:3] != first).any():
                raise ValueError(f"it is a colour picture, not data.coding={self.kind}: give data.colours")
            values = values[..., 0]
        return values.astype(np.int64) if values.dtype != np.uint8 else values

    def _by_value(self, values: np.ndarray, path: Path) -> np.ndarray:
        if self.kind == "grey":
            between = np.unique(values[(values != 0) & (values != 255)]).tolist() if self.exact else []
            if wrong_ones := [value for value in between if value not in self.void]:
                raise UserError(
                    f"{path} has the values {wrong_ones[:8]} where other masks are 0 and 255 alone: say "
                    "data.coding=index, or grey for white (over 127) on black"
                )
            mask = (values > 127).astype(np.uint8)
        elif self.kind == "nonzero":
            mask = (values != 0).astype(np.uint8)
        else:
            limit = self.num_classes or VOID
            void = np.isin(values, [VOID, *self.void])
            wrong = (~void) & ((values < 0) | (values >= limit))
            if wrong.any():
                found = sorted(set(values[wrong].tolist()))[:8]
                raise UserError(
                    f"{path} has the values {found} in {wrong.sum()} pixels, but the classes are 0..{limit - 1}: "
                    "set data.classes, data.void or data.coding"
                )
            return np.where(void, VOID, values).astype(np.uint8)
        return np.where(np.isin(values, self.void), VOID, mask).astype(np.uint8) if self.void else mask

    def _by_colour(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        codes = _code(pixels)
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        wrong = self._codes[places] != codes
        if wrong.any():
            found = [_colour(code) for code in np.unique(codes[wrong])[:4]]
            raise UserError(
                f"{path} has colours that data.colours lacks, in {wrong.sum()} pixels, e.g. {found}: "
                "complete the table, or give data.void=[R,G,B]"
            )
        mask: np.ndarray = self._labels[places]
        return mask


def _checked(table: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The table, if it is one of different colours."""
    wrong = [colour for colour in table if len(colour) != 3 or min(colour) < 0 or max(colour) > 255]
    if wrong or len(set(table)) != len(table):
        raise UserError(f"data.colours must be different [R,G,B] in 0..255 (and differ from data.void): {table}")
    return table


def _code(pixels: np.ndarray) -> np.ndarray:
    wide = pixels.astype(np.int32)
    coded: np.ndarray = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return coded


def _refuse_lossy(image: Image.Image) -> None:
    """JPEG changes values a little, and so classes altogether."""
    if image.format == "JPEG":
        raise ValueError(
            "it is a JPEG, which changes values: keep masks as PNG, or, white on black, say data.coding=grey"
        )


def _colour(code: int) -> list[int]:
    return [int(code) >> 16, int(code) >> 8 & 255, int(code) & 255]


def _look(image: Image.Image) -> tuple[np.ndarray, str]:
    _refuse_lossy(image)
    return np.asarray(image), image.mode


def recognise(paths: Sequence[Path], colours: Mapping[str, Sequence[int]] | None) -> str:
    """The coding of masks, by their first files: 'colour' with a table, 'grey' for 0 and 255 only, else 'index'.

    Raises:
        UserError: the masks are colour pictures, but there is no table.
    """
    if colours:
        return "colour"
    values: set[int] = set()
    for path in paths[:_LOOKED_AT]:
        pixels, mode = guarded(path, _look)
        if pixels.ndim == 3 and pixels.shape[2] >= 3 and (pixels[..., 1:3] != pixels[..., :1]).any():
            found = [_colour(code) for code in np.unique(_code(pixels))[:12]]
            raise UserError(f"{path} is in colours {found}: say what they mean by data.colours={{NAME: [R,G,B], ...}}")
        values |= set(np.unique(pixels if pixels.ndim == 2 else pixels[..., 0]).tolist())
        if mode == "P":
            return "index"
    return "grey" if values <= {0, 255} and 255 in values else "index"
