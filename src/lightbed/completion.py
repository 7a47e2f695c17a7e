"""Completion in the shell: Hydra's own, which knows no commands, given the line without its command."""

import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from lightbed.catalogue import SHARED, conf_dir, defaults
from lightbed.errors import UserError


def complete(arguments: Sequence[str], commands: Sequence[str]) -> int:
    """`lightbed -sc install=SHELL|uninstall=SHELL|query=SHELL`; a query reads COMP_LINE and COMP_POINT."""
    wanted = next((word for word in arguments if "=" in word), "")
    if not re.fullmatch(r"(install|uninstall|query)=(bash|zsh|fish)", wanted):
        raise UserError('completion is installed by: eval "$(lightbed -sc install=bash)" (or zsh; fish: see its docs)')
    if not wanted.startswith("query="):
        print(_hydra("train", wanted, ""), end="")
        return 0
    print(" ".join(suggestions(os.environ.get("COMP_LINE", ""), wanted, commands)))
    return 0


def suggestions(line: str, wanted: str, commands: Sequence[str]) -> list[str]:
    """What could stand at the cursor in place of the line's last word."""
    point = os.environ.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdigit() else line
    words = line.split()
    last = "" if not words or line[-1].isspace() else words.pop()
    if len(words) <= 1:
        return [name for name in (*commands, "--help", "--version") if name.startswith(last)]
    if last.startswith("-"):
        from lightbed.words import flag_names

        return [name for name in flag_names() if name.startswith(last)]
    if words[1] not in commands:
        return []
    return _values(words[2:], last, words[1], wanted)


def _values(words: list[str], last: str, command: str, wanted: str) -> list[str]:
    if words and words[-1] in ("--cfg", "-c"):
        return [name for name in ("job", "all", "hydra") if name.startswith(last)]
    own = ""
    for flag in ("--config-dir", "-cd"):
        if flag in words:
            at = words.index(flag)
            if at + 1 == len(words):
                return []  # a folder: the shell's own completion
            own = words[at + 1]
            del words[at : at + 2]
    kept = [word for word in words if not word.startswith("-") or word in ("-m", "--multirun")]
    os.environ["COMP_LINE"] = " ".join(["lightbed", *kept, last])
    found = [word for word in _hydra(command, wanted, own).split() if word != last and _fitting(word, command)]
    return found or _paths(last)


def _fitting(word: str, command: str) -> bool:
    """Whether a suggestion is a key of this command, or an option of one of its groups."""
    key, equals, option = word.partition("=")
    is_group = (conf_dir() / key).is_dir()
    mine = not (equals and is_group) or key in defaults(conf_dir() / f"{command}.yaml")
    return mine and option != SHARED and key.rstrip("./") != "hydra"


def _paths(word: str) -> list[str]:
    """Files and folders that `key=PATH` could go on to."""
    key, equals, value = word.partition("=")
    if not equals:
        return []
    start = Path(value).expanduser()
    folder, name = (start, "") if value.endswith("/") else (start.parent, start.name)
    shown = value[: len(value) - len(name)]
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    visible = [path for path in found if path.name.startswith(name) and not path.name.startswith(".")]
    return [f"{key}={shown}{path.name}{'/' * path.is_dir()}" for path in visible]


def _hydra(command: str, wanted: str, config_dir: str) -> str:
    """What Hydra's completion prints."""
    import hydra

    from lightbed import folders

    folders.register([], dry=True)
    original, printed = sys.argv, io.StringIO()
    sys.argv = ["lightbed", *(["--config-dir", config_dir] if config_dir else []), "-sc", wanted]
    try:
        with redirect_stdout(printed), redirect_stderr(io.StringIO()):
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(print)()
    except (Exception, SystemExit):  # an unfinished line need not be a right one
        return ""
    finally:
        sys.argv = original
    return printed.getvalue()
