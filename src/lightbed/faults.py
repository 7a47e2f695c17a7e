"""Hydra's and Lightning's complaints in one line each: what is wrong, and the nearest right names."""

import re
from pathlib import Path

from lightbed.errors import UserError, nearest


def one_line(error: BaseException) -> str:
    """The message in one line; of an error that a worker process handed over, only its own last line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Original Traceback" in str(error):
        return lines[-1].partition("Error: ")[2] or lines[-1]
    return " ".join(lines)


def explain(error: BaseException, command: str, overrides: list[str], conf: Path) -> UserError | None:
    """The user's mistake behind `error`, or None where it is none of theirs."""
    name = type(error).__name__
    if name == "MissingConfigException":
        return _missing_option(error)
    if name in ("ConfigCompositionException", "HydraException", "OverrideParseException", "InstantiationException"):
        return UserError(one_line(error))
    return None


def _missing_option(error: BaseException) -> UserError:
    match = re.search(r"Could not find '([^']+)/([^']+)'", str(error))
    options = re.findall(r"^\s+(\S+)$", str(error), re.M)
    if match is None:
        return UserError(one_line(error))
    group, option = match.groups()
    return UserError(f"{group}={option} does not exist: {nearest(option, options)}")
