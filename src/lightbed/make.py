"""Objects from nodes of a config: Hydra's `_target_` notation, with errors that name the key and its remedy."""

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightbed.errors import UserError, nearest
from lightbed.signatures import mismatch

SPECIAL_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # containers are always plain here
EXTRAS = ("timm",)  # packages that an extra of ours brings


def make(config: Any, where: str, **arguments: Any) -> Any:
    """The object that `config` (with `_target_`) describes, made from the inside out; lists and dicts are plain ones.

    The notation is Hydra's: `_partial_: true` gives a `functools.partial`, `_args_` holds positional arguments, and
    with `_recursive_: false` nodes inside stay configs.

    Args:
        config: plain containers.
        where: the config key, for error messages.
        arguments: further keyword arguments, objects included.

    Raises:
        UserError: the target does not exist or does not take these arguments.
    """
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise UserError(f"{where} needs a _target_: the class or function to call")
    target = locate(config["_target_"], f"{where}._target_")
    inside = _made if config.get("_recursive_", True) else _kept
    keywords = {key: inside(value, f"{where}.{key}") for key, value in config.items() if not _special(key, where)}
    positional = inside(config.get("_args_") or [], f"{where}._args_")
    return _call(target, config, where, positional, keywords | arguments)


def _made(value: Any, where: str) -> Any:
    """`value` with every node that has a `_target_` made."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return make(value, where)
        return {key: _made(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_made(inner, f"{where}[{i}]") for i, inner in enumerate(value)]
    return value


def _kept(value: Any, where: str) -> Any:  # noqa: ARG001 - takes the place of _made
    return value


def _special(key: Any, where: str) -> bool:
    """Whether a key says how to make the object."""
    if key in SPECIAL_KEYS:
        return True
    if str(key).startswith("_") and str(key).endswith("_"):
        raise UserError(f"{where}.{key} is not known: {nearest(str(key), list(SPECIAL_KEYS))}")
    return False


def locate(target: Any, where: str) -> Callable[..., Any]:
    """The class or function of that dotted name, imported.

    Raises:
        UserError: there is none; the nearest names are told.
    """
    parts = str(target).split(".")
    if not isinstance(target, str) or len(parts) < 2 or not all(parts):
        raise UserError(f"{where}={target} must be a dotted name, package.module.Class")
    found, rest = _module(parts, where)
    for i, name in enumerate(rest):
        if not hasattr(found, name):
            home = ".".join(parts[: len(parts) - len(rest) + i])
            raise UserError(f"{where}={target}: {home} has no {name}: {nearest(name, _public(found))}")
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"{where}={target} is a {type(found).__name__}, not a class or function")
    return found  # type: ignore[no-any-return]


def _module(parts: list[str], where: str) -> tuple[Any, list[str]]:
    """The module that the longest possible beginning of a dotted name imports, and the names behind it."""
    target = ".".join(parts)
    found = None
    folder = str(Path.cwd())
    if parts[0] not in sys.modules and folder not in sys.path and importlib.util.find_spec(parts[0]) is None:
        sys.path.append(folder)  # mine.Net is in mine.py here; a console script does not look here by itself
    for i in range(1, len(parts)):
        name = ".".join(parts[:i])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise UserError(f"{where}={target}: {name} needs the package {error.name}, which is missing") from error
            if found is None:
                how = f"pip install 'lightbed[{name}]'" if name in EXTRAS else "is the file in this folder?"
                raise UserError(f"{where}={target}: there is no package or module {name}: {how}") from error
            return found, parts[i - 1 :]
        except Exception as error:
            raise UserError(f"{where}={target}: {name} cannot be imported: {_reason(error)}") from error
    return found, parts[-1:]


def _public(found: Any) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_") and callable(getattr(found, name, None))]


def _call(
    target: Callable[..., Any], config: Mapping[str, Any], where: str, positional: list[Any], keywords: dict[str, Any]
) -> Any:
    """Call the target, or prepare its partial; what it has against its arguments is told in one line."""
    name, partial_ = config["_target_"], bool(config.get("_partial_", False))
    takes = parameters(target)
    for key in keywords:
        if takes is not None and key not in takes:
            raise UserError(f"{where}.{key}: {name} takes no argument {key}: {nearest(key, takes)}")
    told = mismatch(config, target, where)
    if told and str(target.__module__).startswith("lightbed."):  # others' type hints are often narrower than their code
        raise UserError(told)
    try:
        return partial(target, *positional, **keywords) if partial_ else target(*positional, **keywords)
    except UserError as error:
        if not where.startswith("model."):
            raise
        # a network inside another one names its options as if it were the model
        raise UserError(re.sub(r"\bmodel\.(?=[a-z])", f"{where}.", str(error))) from error
    except Exception as error:
        raise UserError(told or f"{where}: {name} cannot be made: {_reason(error)}") from error


def parameters(target: Callable[..., Any]) -> list[str] | None:
    """Names of the keyword arguments that `target` takes; None where it takes any, or where that is not to be seen.

    A class that hands its `**kwargs` on to its base takes the base's arguments, too.
    """
    names: list[str] = []
    homes = (
        [vars(kind)["__init__"] for kind in target.__mro__[:-1] if "__init__" in vars(kind)]
        if isinstance(target, type)
        else [target]
    )
    for home in homes:
        try:
            found = inspect.signature(home).parameters.values()
        except (TypeError, ValueError):  # written in C without a signature
            return None
        names += [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            return names
    return None


def _reason(error: Exception) -> str:
    """An error in one line, with the place in the code where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
