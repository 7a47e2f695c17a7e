"""What there is to choose from: the config folders read as text, without Hydra."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SHARED = "base"  # a file of this name holds what the others in its folder share, and is no option itself
_LINE = re.compile(r"^( *)([\w.-]+):(?: +(.*))?$")


class Key(NamedTuple):
    """A config key as it stands in its file."""

    name: str  # dotted
    value: str
    comment: str


def conf_dir() -> Path:
    """The folder of configs: inside the package where it is installed, at the top of the tree where it is edited."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def groups(folders: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Config groups of all `folders`, each with the file of every option; the first folder wins."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            group = file.parent.relative_to(folder).as_posix()
            if group != "." and file.stem != SHARED:
                found.setdefault(group, {}).setdefault(file.stem, file)
    return {group: dict(sorted(options.items())) for group, options in sorted(found.items())}


def describe(file: Path) -> str:
    """The first comment line of a config file."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.startswith("#"):
                return ""
            if (text := line.lstrip("#").strip()) and not text.startswith("@package"):
                return text
    return ""


def head(file: Path) -> list[str]:
    """The comment lines at the top of a config file, without their marks."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    comments = [line[1:].removeprefix(" ") for line in _while_comment(lines)]
    return [line for line in comments if not line.strip().startswith("@package")]


def _while_comment(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def defaults(file: Path) -> dict[str, str]:
    """The groups that a config's defaults list chooses from, with the option chosen, `null` where none is.

    Those of the files it builds on come first.
    """
    beside = (file.with_name(f"{name}.yaml") for name in parents(file))
    chosen = {group: option for parent in beside if parent.is_file() for group, option in defaults(parent).items()}
    for line in _defaults_block(file):
        match = re.match(r"^\s*- +(?:optional +)?([\w/]+): *(\S+)", line)
        if match:
            chosen[match[1]] = match[2]
    return chosen


def parents(file: Path) -> list[str]:
    """Files of the same folder that a config builds on: the plain names in its defaults list."""
    names = []
    for line in _defaults_block(file):
        inline = re.match(r"^defaults: *\[(.*)\]", line)
        words = inline[1].split(",") if inline else re.findall(r"^\s*- +([\w-]+)\s*$", line)
        names += [word.strip() for word in words if word.strip() not in ("", "_self_")]
    return names


def _defaults_block(file: Path) -> Iterator[str]:
    inside = False
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.split(" #")[0].rstrip()
        if text.startswith("defaults:"):
            inside = True
        elif text and not text.startswith((" ", "-", "#")):
            inside = False
        if inside and text:
            yield text


def keys(file: Path) -> list[Key]:
    """The keys of a config file with their values, those of the files it builds on first; comments are inherited."""
    found = {key.name: key for name in parents(file) for key in keys(file.with_name(f"{name}.yaml"))}
    for key in _own_keys(file):
        inherited = found[key.name].comment if key.name in found else ""
        found[key.name] = key._replace(comment=key.comment or inherited)
    return list(found.values())


def _own_keys(file: Path) -> Iterator[Key]:
    path: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.match(_uncomment(line)[0].rstrip())
        if match is None:
            continue
        indent, name, value = len(match[1]), match[2], match[3] or ""
        path = [*(step for step in path if step[0] < indent), (indent, name)]
        dotted = ".".join(step[1] for step in path)
        if path[0][1] not in ("defaults", "hydra") and value:
            yield Key(dotted, value, _uncomment(line)[1])


def _uncomment(line: str) -> tuple[str, str]:
    text, _, comment = line.partition(" #")
    return ("", "") if line.lstrip().startswith("#") else (text, comment.strip())
