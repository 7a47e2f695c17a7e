"""What is different between a run and its repetition: where their results part, and what they ran on."""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightbed.data.files import read_listing
from lightbed.figures import read_figures
from lightbed.monitor import is_time
from lightbed.runs.history import read_history
from lightbed.runs.provenance import changed_modules

_LISTED = 5  # names in a line


class Outcome(NamedTuple):
    """What a comparison of two runs' results found."""

    same: bool
    text: str  # one line


def weights_digest(file: Path) -> str:
    """sha256 over names, types, shapes and bytes of a checkpoint's weights.

    Optimizer and epoch are not in it: two checkpoints of one sum predict the same.
    """
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def compare_results(then: Path, now: Path) -> Outcome:
    """Compare metrics.csv row by row, then the final metrics, then the weights of both checkpoints."""
    columns: set[str] = set()
    old, new = read_history(then / "metrics.csv"), read_history(now / "metrics.csv")
    for one, other in zip(old, new, strict=False):
        names = _compared((one.keys() | other.keys()) - {"seconds"})
        columns |= {*names} - {"epoch", "step"}
        if told := _first(one, other, names):
            return Outcome(False, f"metrics.csv differs first in the row of epoch {int(one['epoch'])}: {told}")
    if len(old) != len(new):
        return Outcome(False, f"metrics.csv has {len(old)} rows then, {len(new)} now; the rows of both are the same")
    one, other = (read_figures(folder / "metrics.json") for folder in (then, now))
    names = _compared(one.keys() | other.keys())
    if told := _first(one, other, names):
        return Outcome(False, f"metrics.json differs: {told}")
    columns |= {*names} - {"epoch"}
    digests = {}
    for name in ("best", "last"):
        files = [folder / "checkpoints" / f"{name}.ckpt" for folder in (then, now)]
        if not all(file.is_file() for file in files):
            continue
        first, second = (weights_digest(file) for file in files)
        if first != second:
            said = f"sha256 {first[:16]}... then, {second[:16]}... now; all {len(columns)} metrics are the same"
            return Outcome(False, f"the weights of {name}.ckpt differ: {said}")
        digests[name] = first
    last = digests.get("last") or digests.get("best")
    weights = f"weights sha256 {last}" if last else "no checkpoint to compare"
    return Outcome(True, f"identical: {len(columns)} metrics in {len(old)} epochs, {weights}")


def _compared(names: Iterable[str]) -> list[str]:
    """Those of the logged names whose values a repetition must have, too."""
    return sorted(name for name in names if not is_time(name))


def _first(one: Mapping[str, float], other: Mapping[str, float], names: list[str]) -> str:
    """The first name whose value differs, and how many more do."""
    differing = [name for name in names if not _equal(one.get(name), other.get(name))]
    if not differing:
        return ""
    more = f" (and {len(differing) - 1} other values)" if len(differing) > 1 else ""
    return f"{differing[0]} {one.get(differing[0])} then, {other.get(differing[0])} now{more}"


def _equal(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))


def surroundings(then: Path, now: Path) -> list[str]:
    """What the two runs' folders say was different around them, a line each; what is the same is not told."""
    old, new = (_json(folder / "run.json") for folder in (then, now))
    lines = [_code(old, new, then, now), _versions(old, new, then, now), _machine(old, new), data_line(then, now)]
    lines.append(_weights(old, new))
    return [line for line in lines if line]


def _code(old: Mapping[str, Any], new: Mapping[str, Any], then: Path, now: Path) -> str:
    parts = []
    commits = [(record.get("git") or {}).get("commit", "no checkout") for record in (old, new)]
    if commits[0] != commits[1]:
        parts.append(f"commit {commits[0][:12]} then, {commits[1][:12]} now")
    diffs = [_text(folder / "uncommitted.diff") for folder in (then, now)]
    if diffs[0] != diffs[1]:
        files = [re.findall(r"^diff --git a/.* b/(.*)$", diff, re.M) for diff in diffs]
        shown = [_some(names) or "none" for names in files]
        parts.append(f"uncommitted changes in {shown[0]} then, {shown[1]} now ({_changed_lines(*diffs)} lines differ)")
    if old.get("code") != new.get("code"):
        parts.append("Lightbed's own modules are others")
    if others := changed_modules(old.get("modules"), new.get("modules")):
        parts.append(f"your own {_some(others)} changed")
    return f"code: {'; '.join(parts)}" if parts else ""


def _changed_lines(one: str, other: str) -> int:
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), n=0, lineterm="")
    return sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in lines)


def _versions(old: Mapping[str, Any], new: Mapping[str, Any], then: Path, now: Path) -> str:
    one, other = (_packages(folder) | (record.get("versions") or {}) for folder, record in ((then, old), (now, new)))
    changed = [
        f"{name} {one.get(name, 'absent')} then, {other.get(name, 'absent')} now"
        for name in {**(old.get("versions") or {}), **dict.fromkeys(sorted(one.keys() | other.keys()))}
        if one.get(name) != other.get(name)
    ]
    return f"versions: {_some(changed, '; ')}" if changed else ""


def _packages(folder: Path) -> dict[str, str]:
    lines = [line.partition("==") for line in _text(folder / "packages.txt").split()]
    return {name: number for name, _, number in lines}


def _weights(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Whether the file of weights that a run began with holds others by now; known once the network is there."""
    one, other = old.get("weights") or {}, new.get("weights") or {}
    if not one or not other or one.get("sha256") == other.get("sha256"):
        return ""
    return f"weights: {other.get('file')} holds others than then"


def _machine(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    facts = [
        {"threads": record.get("threads"), **(record.get("hardware") or {}), **(record.get("variables") or {})}
        for record in (old, new)
    ]
    names = dict.fromkeys([*facts[0], *facts[1]])
    changed = [
        f"{name} {_shown(facts[0].get(name))} then, {_shown(facts[1].get(name))} now"
        for name in names
        if facts[0].get(name) != facts[1].get(name)
    ]
    underway = {
        key for entry in old.get("resumed") or [] for key in ("threads", "versions", "hardware") if key in entry
    }
    if underway:
        changed.append(f"{' and '.join(sorted(underway))} changed underway then, when the run was resumed")
    if old.get("out_of_memory") != new.get("out_of_memory"):
        sides = [f"{len(record.get('out_of_memory') or [])} times" for record in (old, new)]
        changed.append(f"out of memory {sides[0]} then, {sides[1]} now")
    return f"machine: {'; '.join(changed)}" if changed else ""


def data_line(then: Path, now: Path) -> str:
    """Names of the data's files that were changed, that are missing and that are new; empty where none is."""
    old, new = ((_json(folder / "run.json").get("data") or {}) for folder in (then, now))
    if not new or (old.get("fingerprint") or {}).get("sha256") == (new.get("fingerprint") or {}).get("sha256"):
        return ""
    told = changed_files(known_files(then), known_files(now))
    return f"data: {told or 'another fingerprint, but no file of it is known'}"


def known_files(folder: Path) -> dict[str, str]:
    """The hashes of the data's files that a run folder holds, by path; none for embedded data."""
    file = folder / "data.sha256"
    return read_listing(file) if file.is_file() else {}


def changed_files(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Names of files that were changed, that are missing and that are new, of hashes by path; empty where none is."""
    found = {
        "changed": [name for name in one if name in other and one[name] != other[name]],
        "missing": [name for name in one if name not in other],
        "new": [name for name in other if name not in one],
    }
    return ", ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in found.items() if names)


def _some(names: list[str], gap: str = ", ") -> str:
    more = f"{gap}and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return gap.join(names[:_LISTED]) + more


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not said" if value is None else str(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
