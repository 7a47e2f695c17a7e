"""Splits told by lists: train.txt, val.txt and test.txt with the name of an image in each line."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from lightbed.data.images import SUFFIXES, is_image
from lightbed.data.pairs import Pairs
from lightbed.data.voc import list_files
from lightbed.errors import UserError

_ENDING = re.compile(rf"({'|'.join(re.escape(suffix) for suffix in SUFFIXES)})[\s,;].*", re.IGNORECASE)


def of_lists(pairs: Pairs, folder: Path) -> tuple[Pairs, list[str]]:
    """The pairs that the lists in `folder` name, each in its list's split; and what is to be told of the lists.

    A line begins with the image's name or path, with or without its ending, in any case; of a path, as many folders
    must agree as tell images of one name apart, so that lists work wherever the data lies. What follows, such as the
    mask's path or a label, is not looked at: masks are found as without lists. Images without a mask are no fault where
    no list names them. An image in two lists is kept in test rather than val, in val rather than train.

    Args:
        pairs: all pairs of the data's folders.
        folder: of the lists.

    Raises:
        UserError: there is no list to train on, or no image is in a list.
    """
    places = _by_stem(pairs)
    splits: dict[int, str] = {}
    unmatched: list[str] = []
    several = 0
    files = list_files(folder)
    for file, split in files.items():
        for number, line in _lines(file):
            found = _find(line, pairs, places)
            if not isinstance(found, int):
                unmatched.append(f"{file} line {number}: {found}")
                continue
            several += splits.get(found, split) != split
            splits[found] = split  # lists come in the order train, val, test
    if not splits:
        raise UserError(f"no image is in the lists of {folder}: {(unmatched or ['they are empty'])[0]}")
    chosen = sorted(splits)
    notes = [f"{several} images are in two lists of {folder} and kept out of training"] if several else []
    if beside := len(pairs.images) - len(chosen):
        notes.append(f"{beside} images with masks are in no list of {folder} and are left out")
    images, masks = [pairs.images[i] for i in chosen], [pairs.masks[i] for i in chosen]
    return Pairs(images, masks, [splits[i] for i in chosen], unmatched), notes


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _by_stem(pairs: Pairs) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for index, image in enumerate(pairs.images):
        places.setdefault(PurePosixPath(image.path.lower()).stem, []).append(index)
    return places


def _find(line: str, pairs: Pairs, places: dict[str, list[int]]) -> int | str:
    """The pair that a line means, or why there is none."""
    whole = _ENDING.sub(r"\1", line)  # names may hold spaces
    for name in (whole, re.split(r"[\s,;]", whole)[0]):
        path = PurePosixPath(name.replace("\\", "/").lower())
        stem = path.stem if is_image(path.name) else path.name
        if stem not in places:
            continue
        ranked = sorted((_agreement(pairs.images[i].path, path.parts), i) for i in places[stem])
        if len(ranked) > 1 and ranked[-1][0] == ranked[-2][0]:
            one, other = (pairs.images[i].path for _, i in ranked[-2:])
            return f"{name} may be {one} or {other}: give its folder, too"
        return ranked[-1][1]
    return f"there is no image {line} with a mask"


def _agreement(path: str, parts: Sequence[str]) -> int:
    """How many of the innermost folders are the same."""
    own = PurePosixPath(path.lower()).parts[-2::-1]
    count = 0
    for one, other in zip(own, parts[-2::-1], strict=False):
        if one != other:
            break
        count += 1
    return count
