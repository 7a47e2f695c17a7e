"""The words of a command line: which are Hydra's flags, which are `key=value`, and what must be quoted for Hydra."""

import argparse
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from lightbed.catalogue import conf_dir
from lightbed.errors import UserError


class Line(NamedTuple):
    """A command line, taken apart."""

    command: str
    overrides: list[str]  # key=value, quoted where Hydra's grammar needs it
    flags: argparse.Namespace

    @property
    def argv(self) -> list[str]:
        """The words for Hydra, flags first: its own parser refuses a key=value that follows a flag."""
        flags: list[str] = []
        for name, value in vars(self.flags).items():
            option = f"--{name.replace('_', '-')}"
            if value is not None and value is not False:
                flags += [option] if value is True else [option, str(value)]
        return [*flags, *self.overrides]

    @property
    def folders(self) -> list[Path]:
        """Folders of configs, the user's own last: as in Hydra, of two files of one name ours counts."""
        own = self.flags.config_dir
        return [conf_dir(), *([Path(own).expanduser()] if own else [])]

    @property
    def config(self) -> str:
        """Name of the primary config."""
        return self.flags.config_name or self.command

    @property
    def runs(self) -> bool:
        """Whether the command is to run, not only to show its config."""
        return self.flags.cfg is None and self.flags.info is None


def read(command: str, words: Sequence[str]) -> Line:
    """Take the words after the command apart.

    Raises:
        UserError: a flag is unknown, or lacks its value.
    """
    parser = flag_parser()
    found, further = parser.parse_known_args(list(words))
    if "=" in words or any(word.startswith("=") for word in words):
        raise UserError("write key=value without spaces around the =")
    overrides = [*found.overrides, *(word for word in further if not word.startswith("-"))]
    for word in further:
        if word.startswith("-"):
            raise UserError(_unknown_flag(command, word))
    del found.overrides
    own = found.config_dir
    if own and not Path(own).expanduser().is_dir():
        raise UserError(f"--config-dir {own}: there is no such folder")
    return Line(command, [quote(word) for word in overrides], found)


def flag_parser() -> argparse.ArgumentParser:
    """Hydra's parser of flags, which raises a `UserError` instead of printing its usage."""
    from hydra._internal.utils import get_args_parser

    def error(message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    parser = get_args_parser()
    parser.error = error  # type: ignore[method-assign]
    return parser


def flag_names() -> list[str]:
    """The long flags that a command takes."""
    hidden = ("--experimental-rerun", "--shell-completion", "--run", "--config-path", "--hydra-help")
    names = [name for action in flag_parser()._actions for name in action.option_strings if name.startswith("--")]
    return [name for name in names if name not in hidden]


def _unknown_flag(command: str, word: str) -> str:
    name = word.partition("=")[0]
    close = difflib.get_close_matches(name, flag_names(), n=1, cutoff=0.7)
    if close:
        return f"{command} has no flag {name}: did you mean {close[0]}?"
    key = name.lstrip("-").replace("-", "_") or "key"
    return f"{command} has no flag {name}; settings are written without dashes: {key}=VALUE. See --help"


def quote(word: str) -> str:
    """`key=value` with the value quoted where it is a path that Hydra's grammar would not read as one.

    The folders of a multirun's jobs have `=` and `,` in their names; `~`, brackets and letters beyond ASCII are not in
    the grammar either.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = word.partition("=")
    if not value or value[0] in "'\"[{$":
        return word
    exists = key == "runs" or Path(value).expanduser().exists()  # runs=A,B is one report, no sweep
    if not exists and os.sep not in value and value.isascii():
        return word
    try:
        if not OverridesParser.create().parse_override(word).is_sweep_override():
            return word
    except HydraException:
        exists = True
    escaped = value.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"{key}='{escaped}'" if exists else word
