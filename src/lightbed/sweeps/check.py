"""Whether frozen jobs can become runs, as far as that is seen without their data: the checks that each would make."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightbed.build import Config, _asked
from lightbed.errors import UserError, nearest, one_of
from lightbed.faults import one_line
from lightbed.make import SPECIAL_KEYS, locate, parameters
from lightbed.runs.settings import check_monitor, check_settings
from lightbed.signatures import mismatch

_PARTS = ("data", "model", "task", "optimizer", "scheduler", "augment", "callbacks", "trainer")
_OURS = {"trainer": ("nan", "batch_size_on_oom"), "task": ("name", "metrics")}  # keys that `train` takes out itself


def check(files: Sequence[Path], *, trust: bool = True) -> dict[str, str]:
    """What is wrong with frozen jobs, by their ids; of what many jobs say, only one is asked.

    Args:
        files: of the frozen jobs.
        trust: whether a job may name any class.
    """
    told: dict[str, str] = {}
    known: dict[str, str | None] = {}
    for file in files:
        config = json.loads(file.read_text(encoding="utf-8"))["config"]
        for number, (part, ask) in enumerate(_questions(config, file, trust)):
            asked = {"trust": config, "monitor": [config["task"], config["callbacks"]]}
            key = json.dumps([number, part, asked.get(part, config.get(part))])
            if key not in known:
                known[key] = _answer(ask)
            if (answer := known[key]) is not None:
                told[file.stem] = answer
                break
    return told


def _answer(ask: Callable[[], Any]) -> str | None:
    try:
        ask()
    except UserError as error:
        return one_line(error)
    return None


def _questions(config: Config, file: Path, trust: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    if not trust:
        from lightbed.runs.trust import check_config

        yield "trust", lambda: check_config(config, str(file))
    yield "test", lambda: one_of(config["test"], ("auto", "best", "last", "none"), "test")
    yield "threads", lambda: _check_threads(config["threads"])
    yield "trainer", lambda: check_settings(config["trainer"])
    yield "monitor", lambda: check_monitor(config)
    yield "model", lambda: _asked(config["model"])
    for part in _PARTS:
        yield part, lambda part=part: check_targets(config.get(part), part)  # type: ignore[misc]


def _check_threads(threads: Any) -> None:
    if not isinstance(threads, int) or threads < 1:
        raise UserError(f"threads={threads} must be a whole number of at least 1")


def check_targets(node: Any, where: str) -> None:
    """Look whether each `_target_` in a node exists and takes the arguments beside it; nothing is called.

    Raises:
        UserError: of the first that does not.
    """
    if isinstance(node, list):
        for i, value in enumerate(node):
            check_targets(value, f"{where}[{i}]")
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        _check_target(node, where)
    for key, value in node.items():
        check_targets(value, f"{where}.{key}")


def _check_target(node: Mapping[str, Any], where: str) -> None:
    target = locate(node["_target_"], f"{where}._target_")
    takes = parameters(target)
    apart = (*SPECIAL_KEYS, *_OURS.get(where, ()))
    # what the data fills in, and objects in place of nodes, are not to be seen yet
    given = {key: value for key, value in node.items() if key not in apart and not _open(value)}
    for key in given:
        if takes is not None and key not in takes:
            raise UserError(f"{where}.{key}: {node['_target_']} takes no argument {key}: {nearest(key, takes)}")
    told = mismatch(given, target, where)
    if told and str(target.__module__).startswith("lightbed."):  # as in `make`
        raise UserError(told)


def _open(value: Any) -> bool:
    if isinstance(value, str):
        return value.partition(":")[0] == "auto"
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return (isinstance(value, Mapping) and "_target_" in value) or any(_open(inner) for inner in inside)
