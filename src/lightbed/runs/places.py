"""Where a run's configuration says that things lie: of its own command line, and of a file that came from elsewhere."""

import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightbed.errors import UserError
from lightbed.make import locate
from lightbed.runs.load import moved
from lightbed.signatures import hints

_CACHES = ("fingerprints", "proposals")  # folders that make a folder known as a cache of ours


def absolute(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that means the same files wherever the run goes on, is repeated or tested.

    Made absolute are `paths.data` and `paths.cache` with what lies below them, `data.root`, and, where they name a file
    or folder from here, what else the data's class takes as a path and files of weights.

    Args:
        config: resolved, of a command that is typed in this folder.
    """
    relative = {name: path for name, path in config["paths"].items() if name != "outputs" and _is_relative(path)}
    here = {path: str(Path(path).absolute()) for path in relative.values()}
    paths = {**config["paths"], **{name: here[path] for name, path in relative.items()}}
    data, model = moved(config["data"], here), moved(config["model"], here)
    taken = _paths_of(data)
    for key, value in data.items():
        if _is_relative(value) and (key == "root" or (key in taken and Path(value).exists())):
            data[key] = str(Path(value).absolute())
    for key, value in model.items():
        if key.startswith("weights") and _is_relative(value) and Path(value).is_file():
            model[key] = str(Path(value).absolute())
    return {**config, "paths": paths, "data": data, "model": model}


def _is_relative(path: Any) -> bool:
    return isinstance(path, str) and path != "" and "://" not in path and not Path(path).expanduser().is_absolute()


def _paths_of(data: Mapping[str, Any]) -> list[str]:
    """Names of the arguments of the data's class that are paths."""
    return [name for name, hint in _taken(data).items() if Path in (hint, *typing.get_args(hint))]


def _taken(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the data's class with their types."""
    try:
        return hints(locate(data.get("_target_"), "data._target_"))
    except UserError:  # told when it is made
        return {}


def safe_caches(config: Mapping[str, Any], own: str) -> dict[str, Any]:
    """A configuration from a file that may be somebody else's, which writes only into a cache that is there already.

    Args:
        config: resolved.
        own: this machine's cache, in place of any other folder that the file names.
    """

    def safe(cache: str) -> str:
        known = any((Path(cache).expanduser() / name).is_dir() for name in _CACHES)
        return cache if known else own

    paths = {**config["paths"], "cache": safe(str(config["paths"].get("cache")))}
    return {**config, "paths": paths, **{name: with_caches(config[name], safe) for name in ("data", "model")}}


def check_download(data: Mapping[str, Any], own: str, origin: str) -> None:
    """Refuse a new folder that a file names for a data set to be downloaded to, but below this machine's `paths.data`.

    Args:
        data: a config of data.
        own: this machine's `paths.data`.
        origin: the file.

    Raises:
        UserError: it names one.
    """
    for inner in data.values():
        if isinstance(inner, Mapping):
            check_download(inner, own, origin)
    if not isinstance(data.get("root"), str) or "url" not in _taken(data):
        return  # nothing is ever downloaded
    root = Path(data["root"]).expanduser()
    if not root.is_dir() and Path(own).expanduser().resolve() not in root.resolve().parents:
        raise UserError(
            f"{origin}: its data.root={root} is not there, and a file may not choose where data is downloaded to: say "
            "where it is, or is to be, by paths.data=FOLDER, or give trust=true"
        )


def with_caches(node: Any, place: Callable[[str], str]) -> Any:
    """A copy of a config in which each `cache_dir` that names a folder is what `place` makes of it."""
    if isinstance(node, list):
        return [with_caches(inner, place) for inner in node]
    if not isinstance(node, Mapping):
        return node
    return {
        key: place(str(value)) if key == "cache_dir" and value is not None else with_caches(value, place)
        for key, value in node.items()
    }
