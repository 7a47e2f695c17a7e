"""Images by the names that label files give them, which are often not quite those that they have."""

import re
from pathlib import Path, PurePosixPath

from lightbed.data.files import Entry, find_images, split_of

_IMAGES = re.compile("ima?ge?s?|photo|picture", re.IGNORECASE)


class Images:
    """The images below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries = find_images(root)
        self._by_path = {entry.path.lower(): entry for entry in self.entries}
        self._by_name: dict[str, list[Entry]] = {}
        self._by_stem: dict[str, list[Entry]] = {}
        for entry in self.entries:
            name = entry.path.rpartition("/")[2].lower()
            self._by_name.setdefault(name, []).append(entry)
            self._by_stem.setdefault(name.rpartition(".")[0], []).append(entry)

    def find(self, name: str, beside: str = "", split: str | None = None) -> Entry | str:
        """The image that is called `name`, in any case, with another ending if need be; or why there is none.

        Of several, it is the one whose path agrees best: with the folders in `name`, with the split, with a name of
        folders for images, and with the place of the label file.

        Args:
            name: path or file name, as a label file has it.
            beside: folder of the label file below the root.
            split: that the label file is of.
        """
        path = name.replace("\\", "/").removeprefix("./").lower()
        for whole in (f"{beside}/{path}".lower().removeprefix("/"), path):
            if whole in self._by_path:
                return self._by_path[whole]
        base = path.rpartition("/")[2]
        found = self._by_name.get(base) or self._by_stem.get(base.rpartition(".")[0] or base, [])
        ranked = sorted(((self._agreement(entry, path, beside, split), entry) for entry in found), reverse=True)
        if not ranked:
            return f"there is no image {name}"
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            return f"several images are called {name}: {ranked[1][1].path}, {ranked[0][1].path}"
        return ranked[0][1]

    def _agreement(self, entry: Entry, path: str, beside: str, split: str | None) -> tuple[int, int, int, int]:
        parts = PurePosixPath(entry.path.lower()).parts[:-1]
        folder = "/".join(parts)
        return (
            _common(parts[::-1], PurePosixPath(path).parts[-2::-1]),
            int(split is not None and split_of(folder) == split),
            int(_IMAGES.search(folder) is not None),
            _common(parts, PurePosixPath(beside.lower()).parts),
        )


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts are the same from the beginning."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
