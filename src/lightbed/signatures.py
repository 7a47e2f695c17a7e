"""Whether the values of a config are what its `_target_` takes, read from the signature."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of what a function or class takes, those of its parents, too, where it passes `**kwargs` on."""
    makers = [target]
    if isinstance(target, type):
        makers = [vars(kind)["__init__"] for kind in target.__mro__[:-1] if "__init__" in vars(kind)]
    found: dict[str, Any] = {}
    for maker in makers:
        try:
            found = typing.get_type_hints(maker) | found
            kinds = {parameter.kind for parameter in inspect.signature(maker).parameters.values()}
        except (ValueError, TypeError, NameError):  # builtins, and hints that name what is not imported
            break
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def mismatch(config: Mapping[str, Any], target: Callable[..., Any], where: str) -> str | None:
    """The first value of `config` that `target` does not take, as a message; None where all are fine.

    Args:
        config: arguments by name; keys of Hydra (`_target_` ...) are left out of account.
        target: the class or function that takes them.
        where: the config key, e.g. `model`.
    """
    taken = hints(target)
    name = getattr(target, "__name__", str(target))
    for key, value in config.items():
        if key.startswith("_") or key not in taken:
            continue
        if not fits(value, taken[key]):
            return f"{where}.{key}={value}: {name} takes {in_words(taken[key])}"
    return None


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the type that a hint says; hints beyond plain values and lists take anything."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin in (list, tuple, Sequence, Collection):
        parts = [part for part in typing.get_args(hint) if part is not ...] or [Any]
        return isinstance(value, list | tuple) and all(any(fits(item, part) for part in parts) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    return True


def in_words(hint: Any) -> str:
    """A type hint for a reader of messages."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(part) for part in typing.get_args(hint)))
    if origin is typing.Literal:
        return " or ".join(str(part) for part in typing.get_args(hint))
    if origin in (list, tuple, Sequence, Collection):
        parts = [part for part in typing.get_args(hint) if part is not ...]
        return f"a list of {in_words(parts[0]).removeprefix('a ')}s" if parts else "a list"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
