"""Help texts made from the config files themselves, without importing Hydra or torch."""

import itertools
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lightbed import catalogue

WIDTH = 100
LONG = 40  # options of a group
GROUPS = {
    "data": "the images",
    "model": "the network",
    "task": "what is learnt: loss, metrics",
    "augment": "how training images are varied",
    "optimizer": "how weights move",
    "scheduler": "how the learning rate moves",
    "trainer": "device, precision, epochs",
    "callbacks": "what else happens in a run",
    "logger": "where curves go",
    "experiment": "recipes with a reported figure: everything chosen",
    "sweep": "ready multiruns, for -m",
    "hydra/launcher": "where the jobs of a multirun run",
    "hydra/sweeper": "which jobs a multirun has",
}
FLAGS = {
    "-m, --multirun": "run every combination of comma-separated values: model=cnn,dnn seed=0,1,2",
    "-c, --cfg job": "print the configuration that a line means, and run nothing; with --resolve, references filled in",
    "-p, --package KEY": "with --cfg: only this part",
    "-i, --info [WHAT]": "where the configuration comes from: defaults, defaults-tree, config, searchpath, plugins",
    "-cd, --config-dir DIR": "your own configs beside these: DIR/model/mine.yaml is then model=mine",
    "-h, --help": "this text; with GROUP=OPTION before it, the keys of that option",
}


def overview(commands: dict[str, str], folders: Sequence[Path]) -> str:
    """`lightbed --help`: commands, groups, experiments and sweeps."""
    groups = catalogue.groups(folders)
    parts = [
        "Lightbed trains, evaluates, sweeps, compares and shows vision models, each from one line.",
        "",
        "  lightbed COMMAND [key=value ...] [flags]",
        *_section("Commands", commands.items()),
        *_section("Examples", _examples(folders, commands)),
        *_section("Groups, for group=option", _group_rows(groups)),
    ]
    for group in ("experiment", "sweep"):
        if group in groups:
            title = f"{group.capitalize()}s, for {'-m ' * (group == 'sweep')}{group}=..."
            parts += _section(title, _options(groups[group]))
    more = {
        "lightbed COMMAND --help": "a command's keys and flags, and each option of its groups",
        "lightbed train --cfg job": "all keys, as a line of yours sets them, without running it",
        'eval "$(lightbed -sc install=bash)"': "completion with the tab key; zsh and fish alike",
        "lightbed --version": "the version",
    }
    return "\n".join([*parts, *_section("More", more.items())])


def command(name: str, text: str, folders: Sequence[Path], overrides: Sequence[str] = ()) -> str:
    """`lightbed NAME --help`: the command's keys and flags and its groups with their options.

    Options that `overrides` choose are told with their keys instead.
    """
    file = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    if file is None:
        return f"lightbed {name}: {text}"
    groups, chosen = catalogue.groups(folders), catalogue.defaults(file)
    parts = [f"lightbed {name}: {text}", "", f"  lightbed {name} [key=value ...] [flags]"]
    picked = [word.partition("=") for word in overrides]
    picked = [(group, _, option) for group, _, option in picked if option in groups.get(group, {})]
    if picked:
        for group, _, option in picked:
            parts += _option(group, option, groups[group][option])
        return "\n".join(parts)
    parts += _section("Examples", _file_examples(file))
    parts += _section("Keys", _keys(file))
    parts += _section("Flags", FLAGS.items())
    for group in _in_order(chosen, groups):
        about = f": {GROUPS[group]}" if group in GROUPS else ""
        title = f"{group}={'...' if chosen[group] == 'null' else chosen[group]}{about}"
        parts += _section(title, _options(groups[group], chosen[group]))
    return "\n".join(parts)


def _in_order(chosen: Iterable[str], groups: dict[str, dict[str, Path]]) -> list[str]:
    """Groups as `GROUPS` has them, those with so many options that one must scroll at the end."""
    known = [group for group in GROUPS if group in chosen] + [group for group in chosen if group not in GROUPS]
    return sorted((group for group in known if group in groups), key=lambda group: len(groups[group]) > LONG)


def _option(group: str, option: str, file: Path) -> list[str]:
    """The head of an option's file and its keys."""
    lines = [_bold(f"{group}={option}")]
    for line in catalogue.head(file):
        lines += _wrapped(line, 2) or [""]
    prefix = "" if _is_global(file) else group.replace("/", ".")
    return ["", *lines, *_section(f"Keys of {group}={option}", _keys(file, prefix))]


def _is_global(file: Path) -> bool:
    return "@package _global_" in file.read_text(encoding="utf-8", errors="replace").partition("\n")[0]


def _keys(file: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key in catalogue.keys(file):
        yield f"{prefix}{'.' * bool(prefix)}{key.name}={key.value}", key.comment


def _group_rows(groups: dict[str, dict[str, Path]]) -> Iterator[tuple[str, str]]:
    for group in (*GROUPS, *sorted(groups.keys() - GROUPS.keys())):
        if group in groups and group not in ("experiment", "sweep"):
            names = list(groups[group])
            listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
            yield group, f"{GROUPS[group]}: {listed}" if group in GROUPS else listed


def _options(options: dict[str, Path], default: str = "") -> Iterator[tuple[str, str]]:
    for name, file in options.items():
        yield f"{'*' if name == default else ' '} {name}", catalogue.describe(file)


def _examples(folders: Sequence[Path], commands: Iterable[str]) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(commands):  # all of the first command, one of each other
        yield from itertools.islice(_file_examples(folders[0] / f"{name}.yaml"), 1 if i else None)


def _file_examples(file: Path) -> Iterator[tuple[str, str]]:
    """Lines of a command's head that begin with `lightbed`: the line and, after two spaces, what it does."""
    for line in catalogue.head(file) if file.is_file() else ():
        if line.strip().startswith("lightbed "):
            example, _, text = line.strip().partition("  ")
            yield example, text.strip()


def _section(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    """A title and a table of two columns; texts are wrapped within `WIDTH`, beside or below their names."""
    table = list(rows)
    if not table:
        return []
    fitting = [len(name) for name, _ in table if len(name) <= 44]
    indent = max(fitting, default=8) + 4
    lines = ["", _bold(title)]
    for name, text in table:
        told = [" " * indent + line for line in textwrap.wrap(text, WIDTH - indent, break_on_hyphens=False)]
        named = _wrapped(name, 2)
        if told and len(named[-1]) + 2 <= indent:
            named[-1] += told.pop(0)[len(named[-1]) :]
        lines += [*named, *told]
    return lines


def _wrapped(text: str, indent: int) -> list[str]:
    """A line, continued two columns further in where it is too long; runs of spaces stay."""
    further = " " * (indent + 2)
    return textwrap.wrap(" " * indent + text, WIDTH, subsequent_indent=further, replace_whitespace=False)


def _bold(text: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[1m{text}\033[0m"
