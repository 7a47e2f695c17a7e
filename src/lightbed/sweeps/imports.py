"""Imports in the processes of a sweep's jobs: the user's own modules as they were when the sweep began.

A module keeps its name and its file's place, so what it reads beside its file is found; only its text is the frozen
one, in tracebacks, too. Lightbed itself needs none of this: its copy comes first on PYTHONPATH.
"""

import importlib.util
import json
import linecache
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

INDEX = "code.json"  # the modules of a folder of frozen code, and the checkout that they came from
DIFF = "uncommitted.diff"  # of that checkout
OWN = "own"  # its folder of the user's modules

_used: list["Frozen"] = []


class Frozen(MetaPathFinder):
    """Finds the modules of a folder of frozen code; all others are left to Python.

    Args:
        folder: see `lightbed.sweeps.code`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: dict[str, dict[str, str]] = {}
        self.read()

    def read(self) -> None:
        """Read the index, also when there is more in it now."""
        self.content: dict[str, Any] = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        self.modules = self.content["modules"]
        for name, told in self.modules.items():  # what is looked for beside a module is found as without this
            parts = len(name.split(".")) + told["file"].endswith("__init__.py")
            if (home := str(Path(told["file"]).parents[parts - 1])) not in sys.path:
                sys.path.append(home)

    def diff(self) -> bytes:
        """What was not committed of the checkout, for `git apply`."""
        file = self.folder / DIFF
        return file.read_bytes() if file.is_file() else b""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the names are whole ones
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The spec of a module whose text is frozen."""
        if fullname not in self.modules:
            return None
        told = self.modules[fullname]
        home = Path(told["file"])
        inside = [str(home.parent)] if home.name == "__init__.py" else None
        loader = _Loader(fullname, str(home), self.folder / OWN / told["copy"])
        return importlib.util.spec_from_file_location(fullname, home, loader=loader, submodule_search_locations=inside)


class _Loader(SourceFileLoader):
    """Takes a module's text from its copy, and what it reads beside itself from where it was."""

    def __init__(self, name: str, path: str, copy: Path) -> None:
        super().__init__(name, path)
        self.copy = copy

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """Compiled anew: the compiled file beside the original is of what that is now."""
        data = self.copy.read_bytes()
        lines = importlib.util.decode_source(data).splitlines(keepends=True)
        linecache.cache[self.path] = (len(data), None, lines, self.path)  # without a time it is not looked up again
        code: CodeType = self.source_to_code(data, self.path)
        return code

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        """The frozen text."""
        return importlib.util.decode_source(self.copy.read_bytes())


def use(folder: str) -> None:
    """From here on, import what is frozen in this folder from there; nothing where it is empty."""
    if not folder:
        return
    if not _used:
        _used.append(Frozen(Path(folder)))
        sys.meta_path.insert(0, _used[0])
    _used[0].read()


def used() -> Frozen | None:
    """What this process imports from, if it is a sweep's."""
    return _used[0] if _used else None
