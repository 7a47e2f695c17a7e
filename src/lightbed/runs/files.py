"""The files of a run folder about itself, read back without running code: run.json, config.yaml, overrides.yaml."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightbed.errors import UserError

# What each part of a record and of a training's configuration is, where it is there
_RECORD = {
    **dict.fromkeys(("versions", "hardware", "variables", "data", "choices", "process", "memory", "weights"), dict),
    **dict.fromkeys(("resumed", "out_of_memory"), list),
}
_NODES = ("data", "model", "task", "optimizer", "scheduler", "augment", "trainer", "callbacks", "logger", "paths")
_VALUES = ("name", "seed", "threads")


def read_record(folder: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UserError: it is missing or damaged.
    """
    file = folder / "run.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no record of a run")
    for name, kind in _RECORD.items():
        if not isinstance(content.get(name) or kind(), kind):
            raise UserError(f"{file} is damaged: its {name} is {_short(content[name])}")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a training.

    Raises:
        UserError: it is missing or damaged, or is none of a training.
    """
    file = folder / "config.yaml"
    content = read_yaml(file)
    missing = [name for name in (*_NODES, *_VALUES) if not isinstance(content, dict) or name not in content]
    if missing:
        raise UserError(f"{file} is no whole configuration of a training: it lacks {', '.join(missing)}")
    for name in _NODES:
        if not isinstance(content[name], dict):
            raise UserError(f"{file} is damaged: its {name} is {_short(content[name])}")
    return content  # type: ignore[no-any-return]


def read_overrides(folder: Path) -> list[str]:
    """The words of the command line that began a run.

    Raises:
        UserError: they are missing or damaged.
    """
    content = read_yaml(folder / "overrides.yaml") or []
    if not isinstance(content, list):
        raise UserError(f"{folder / 'overrides.yaml'} is damaged: it is {_short(content)} and no list")
    return [str(word) for word in content]


def read_yaml(file: Path) -> Any:
    """Plain values of a YAML file.

    Raises:
        UserError: it is missing, damaged, or would make other objects.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is damaged or unsafe: {reason[:200]}") from error


def _short(value: Any) -> str:
    return f"of {len(value)} keys" if isinstance(value, Mapping) else str(value)[:50]
