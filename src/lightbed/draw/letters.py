"""Fonts for class names in any script: matplotlib's own where it has the letters, else one that the machine has."""

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

OWN = "DejaVu Sans"
_WIDE = ("cjk", "noto sans", "gothic", "hei", "unifont", "unicode")  # fonts that are likely to have what is missing
_told: set[str] = set()


def spelled(text: str) -> str:
    r"""`text` with those letters that no font of the machine has as codes: `\u732b`.

    They are told once, with what helps.
    """
    lost = "".join(sorted({letter for letter in _foreign(text) if _font_with(letter) is None}))
    if not lost:
        return text
    if not set(lost) <= _told:
        from lightbed.runs.log import say  # Lightning and all, which a report does without

        say(f"no font here has the letters {lost}: pictures write codes such as {_code(lost[0])}; "
            "a font such as Noto Sans CJK, once it is installed, is found by itself")  # fmt: skip
        _told.update(lost)
    return "".join(_code(letter) if letter in lost else letter for letter in text)


def families(text: str) -> list[str]:
    """Names of the fonts that together have the letters of `text`, matplotlib's own first."""
    found = (_font_with(letter) for letter in _foreign(text))
    return [OWN, *dict.fromkeys(font[0] for font in found if font is not None)]


def font_file(text: str) -> tuple[str, str]:
    """One font's file, for drawing without matplotlib, and `text` as it can be written with it."""
    foreign = _foreign(text)
    for letter in foreign:
        font = _font_with(letter)
        if font is not None and all(_has(font[1], other) for other in text):
            return font[1], text
    own = "".join(_code(letter) if letter in foreign else letter for letter in text)
    return own_file(), own


@lru_cache(maxsize=1)
def own_file() -> str:
    """The file of matplotlib's own font."""
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _foreign(text: str) -> list[str]:
    """The letters of `text` that matplotlib's own font lacks."""
    if text.isascii():
        return []
    return [letter for letter in dict.fromkeys(text) if letter.isprintable() and not _has(own_file(), letter)]


def _code(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode()


@lru_cache(maxsize=4096)
def _has(file: str, letter: str) -> bool:
    from matplotlib.font_manager import get_font

    with suppress(RuntimeError, OSError):  # fonts of pictures, which cannot be drawn
        return bool(get_font(file).get_char_index(ord(letter)))
    return False


@lru_cache(maxsize=4096)
def _font_with(letter: str) -> tuple[str, str] | None:
    """Name and file of a font that has `letter`."""
    return next((font for font in _fonts() if _has(font[1], letter)), None)


def _fonts() -> Iterator[tuple[str, str]]:
    """Name and file of the machine's upright fonts, the likely ones first."""
    from matplotlib.font_manager import fontManager

    fonts = [font for font in fontManager.ttflist if font.style == "normal" and "LastResort" not in font.fname]
    likely = sorted(fonts, key=lambda font: (not any(word in font.name.lower() for word in _WIDE), font.name))
    return ((font.name, font.fname) for font in likely)
