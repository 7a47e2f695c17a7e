"""The best of a search as an experiment file, which one can run, change, and keep."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from lightbed import catalogue
from lightbed.faults import parse
from lightbed.folders import near
from lightbed.sweeps.collect import Run

_APART = ("trial", "resume", "trust")  # keys that belong to one run
_FOLDERS = ("paths.", "hydra.", "callbacks.progress.")


def write_best(folder: Path, run: Run, told: str) -> str:
    """Write `experiment/best.yaml` into the sweep's folder; returns the command that runs it.

    Args:
        folder: of the sweep.
        run: the best one.
        told: what came of the search, for the file's head.
    """
    words = yaml.safe_load((run.folder / "overrides.yaml").read_text(encoding="utf-8")) or []
    content, rest = as_experiment([str(word) for word in words], set(catalogue.groups([catalogue.conf_dir()])))
    command = ["lightbed", "train", "--config-dir", str(near(folder)), "experiment=best", *rest]
    head = f"# @package _global_\n# Best trial of a search\n#\n# {told}\n# {shlex.join(command)}\n"
    path = folder / "experiment" / "best.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return shlex.join(command)


def as_experiment(words: list[str], groups: set[str]) -> tuple[dict[str, Any], list[str]]:
    """The content of an experiment file that says what a run's overrides say, and the words that no file can say.

    Args:
        words: overrides of the run.
        groups: names of the config groups.
    """
    parents: list[Any] = []
    chosen: list[Any] = []
    content: dict[str, Any] = {}
    rest: list[str] = []
    for word in words:
        override = parse(word)
        key = str(override.key_or_group)
        if key in _APART or key.startswith(_FOLDERS):
            continue
        if override.is_delete() or override.package is not None or key == "sweep":
            rest.append(word)
        elif key == "experiment":
            parents.append(str(override.value()))
        elif key in groups:
            chosen.append({f"{'' if override.is_add() else 'override '}/{key}": override.value()})
        else:
            _set(content, key.split("."), _plain(override.value()))
    defaults = [*parents, *chosen]
    return ({"defaults": defaults} if defaults else {}) | content, rest


def _set(node: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = node.get(name)
        node[name] = inner if isinstance(inner, dict) else {}
        node = node[name]
    node[path[-1]] = value


def _plain(value: Any) -> Any:
    """A parsed value with its quotes taken off."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return getattr(value, "text", value)
