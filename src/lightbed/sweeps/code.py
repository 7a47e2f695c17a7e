"""The code of a sweep, frozen: copies of all sources that may be edited while its jobs are still to come.

Installed packages are not copied, for nobody edits them: only Lightbed where it is installed editable, and the user's
own modules that the jobs' configs name, with all that these import. They lie in `frozen/code_1` in the sweep's folder;
a sweep that is resumed has that day's in `frozen/code_2`, and so on.
"""

import ast
import importlib.machinery
import os
import re
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import lightbed
from lightbed.catalogue import conf_dir
from lightbed.runs.git import git_state
from lightbed.sweeps.imports import DIFF, INDEX, OWN
from lightbed.sweeps.jobs import FROZEN, read_json, write_json

_MOST = 1000  # modules of a package of the user's
_frozen: dict[Path, Path] = {}  # by this process, for each sweep
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class Code:
    """The frozen code of a sweep.

    Args:
        folder: of the copies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content: dict[str, Any] = read_json(folder / INDEX)
        self.modules: dict[str, dict[str, str]] = self.content.get("modules", {})
        self.known: set[str] = set()  # names that need no second look

    @classmethod
    def freeze(cls, sweep: Path) -> "Code":
        """The code of today: what this process has frozen already where that is still the same, else new copies.

        What another process has left is not taken: nobody knows who has written into the folder since.

        Args:
            sweep: its folder.
        """
        home = sweep / FROZEN
        home.mkdir(parents=True, exist_ok=True)
        (home / ".gitignore").write_text("*\n")  # or the copies would be uncommitted code of the user's checkout
        numbers = [int(path.name[5:]) for path in home.glob("code_*") if path.name[5:].isdigit()]
        if sweep in _frozen and (last := cls(_frozen[sweep])).is_todays():
            return last
        folder = home / f"code_{max(numbers, default=0) + 1}"
        beside = home / f".{folder.name}"  # in one piece: a kill in between leaves no half of it
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        if not installed(_lightbed()):
            _copy_lightbed(beside)
        git, diff = git_state()
        if diff:
            (beside / DIFF).write_bytes(diff)
        write_json(beside / INDEX, {"git": git, "modules": {}})
        beside.rename(folder)
        _frozen[sweep] = folder
        return cls(folder)

    def is_todays(self) -> bool:
        """Whether all that was copied is still as it was copied, and the checkout as well."""
        if "modules" not in self.content:
            return False
        copy = self.folder / "lightbed"
        if copy.is_dir() == installed(_lightbed()) or (copy.is_dir() and _texts(copy) != _texts(_lightbed())):
            return False
        then = self.content.get("git"), _bytes(self.folder / DIFF) or b""
        pairs = ((self.folder / OWN / told["copy"], Path(told["file"])) for told in self.modules.values())
        return then == git_state() and all(_bytes(copy) == _bytes(file) for copy, file in pairs)

    def add(self, config: Any) -> None:
        """Copy the user's modules that a job's config names, and what they import, unless that is done already."""
        names = named(config) - self.known
        self.known |= names
        found = {name: file for name, file in closure(names).items() if name not in self.modules}
        for name, file in found.items():
            copy = Path(*name.split("."), "__init__.py") if file.name == "__init__.py" else Path(*name.split("."))
            place = self.folder / OWN / (copy if copy.suffix else copy.with_name(f"{copy.name}.py"))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
            copied = place.relative_to(self.folder / OWN).as_posix()
            self.modules[name] = {"file": str(file), "copy": copied}
        if found:
            write_json(self.folder / INDEX, self.content)

    @property
    def variables(self) -> dict[str, str]:
        """What has a new Python import Lightbed from here; where that is installed, nothing need be said."""
        if not (self.folder / "lightbed").is_dir():
            return {}
        return {"PYTHONPATH": os.pathsep.join([str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def installed(path: Path) -> bool:
    """Whether a file belongs to Python or to a package that was installed, which nobody edits."""
    homes = [*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), site.getusersitepackages()]
    return {"site-packages", "dist-packages"} & {*path.parts} != set() or any(
        path.is_relative_to(home) for home in map(Path, homes)
    )


def named(config: Any) -> set[str]:
    """All dotted names that stand in a config, wherever: `_target_`s, and what a class of one's own may look up."""
    if isinstance(config, str):
        return {config} if _DOTTED.fullmatch(config) else set()
    inside = config.values() if isinstance(config, Mapping) else config if isinstance(config, list) else ()
    return set[str]().union(*map(named, inside))


def closure(names: Iterable[str]) -> dict[str, Path]:
    """The modules behind dotted names, their packages, and all that these import, as far as they may be edited.

    Nothing is imported for it: imports are read from the sources, also those within functions. Of a regular package all
    modules are taken, for it may import them by names that it makes.
    """
    found: dict[str, Path] = {}
    left, seen = list(names), set[str]()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for module, file in _modules(name):
            if module not in found:
                found[module] = file
                left += _imported(module, file)
                if file.name == "__init__.py" and "." not in module:
                    left += _within(module, file.parent)
    return found


def _modules(name: str) -> Iterator[tuple[str, Path]]:
    """The modules that importing a dotted name runs, packages first, up to the first that may not be edited."""
    top, *parts = name.split(".")
    spec = _spec(top)
    if spec is None or top in ("lightbed", "hydra_plugins"):
        return
    where = [Path(place) for place in spec.submodule_search_locations or ()]
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    for i in range(len(parts) + 1):
        if any(map(installed, [file] if file else where)) or (file is not None and not i and _library(file)):
            return
        if file is not None and file.suffix == ".py" and file.is_file():
            yield ".".join([top, *parts[:i]]), file.absolute()
        if i < len(parts):
            file, where = _inside(where, parts[i])
            if file is None and not where:
                return


@cache
def _library(file: Path) -> bool:
    """Whether this is a package as large as a library: a checkout of torch, say, would take minutes to read."""
    return file.name == "__init__.py" and len(list(islice(_within("", file.parent), _MOST))) == _MOST


def _spec(top: str) -> importlib.machinery.ModuleSpec | None:
    """Where Python would import a name from, the working directory last, as `make` has it."""
    for finder in sys.meta_path:
        with suppress(Exception):  # one of somebody else's
            if (spec := finder.find_spec(top, None)) is not None:
                return spec
    return importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd())])


def _inside(places: list[Path], name: str) -> tuple[Path | None, list[Path]]:
    """File and folders of a module in a package's folders; neither where there is none."""
    for place in places:
        if (package := place / name / "__init__.py").is_file():
            return package, [place / name]
        if (module := place / f"{name}.py").is_file():
            return module, []
    return None, [place / name for place in places if (place / name).is_dir()]


def _imported(module: str, file: Path) -> Iterator[str]:
    """The names that a source imports anywhere; none where it is no Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = [*base, *filter(None, [node.module])]
            yield from (".".join([*home, alias.name]) for alias in node.names)


def _within(package: str, folder: Path) -> Iterator[str]:
    """The modules of a regular package and of those in it."""
    for path in folder.iterdir():
        if path.suffix == ".py" and path.stem.isidentifier() and path.stem != "__init__":
            yield f"{package}.{path.stem}"
        elif path.name.isidentifier() and (path / "__init__.py").is_file():
            yield from _within(f"{package}.{path.name}", path)


def _lightbed() -> Path:
    return Path(lightbed.__file__).parent


def _copy_lightbed(folder: Path) -> None:
    """Lightbed as an installed package would have it, its configs inside; with compiled files, which save a second."""
    shutil.copytree(_lightbed(), folder / "lightbed")
    shutil.copytree(_lightbed().parent / "hydra_plugins" / "lightbed", folder / "hydra_plugins" / "lightbed")
    if not (folder / "lightbed" / "conf").is_dir():
        shutil.copytree(conf_dir(), folder / "lightbed" / "conf")


def _texts(home: Path) -> dict[str, bytes | None]:
    return {path.relative_to(home).as_posix(): _bytes(path) for path in home.rglob("*.py")}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
