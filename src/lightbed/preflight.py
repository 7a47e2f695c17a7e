"""What is seen to be wrong in a command line before torch is imported, for all jobs of a multirun at once."""

import re
from collections.abc import Iterator

from lightbed import catalogue
from lightbed.errors import UserError
from lightbed.faults import Composer, parse, singles
from lightbed.words import Line


def check(line: Line) -> None:
    """Refuse what Hydra accepts but no run can use: words in place of numbers, groups taken out.

    Raises:
        UserError: of the first such word.
    """
    compose = Composer(line)
    _check_deleted(line, compose)
    values = list(_texts(line, compose))
    if not values:  # most lines have none, and composing takes a tenth of a second
        return
    chosen = [word for word in line.overrides if word.lstrip("+~").partition("=")[0] in compose.groups]
    first = [singles(word, parse(word), compose.groups)[0] for word in chosen]
    try:
        names = compose.names(first)
    except Exception:  # Hydra will say it
        return
    for key, value in values:
        now = names.get(key)
        if isinstance(now, bool) and not key.startswith("trainer."):  # Lightning takes some words there
            raise UserError(f"{key}={value} is not true or false (it is {str(now).lower()} by default)")
        if isinstance(now, int | float) and not isinstance(now, bool) and not re.match(r"auto|[\d,]+$", value):
            raise UserError(f"{key}={value} is not a number (it is {now} by default)")


def _check_deleted(line: Line, compose: Composer) -> None:
    file = catalogue.conf_dir() / f"{line.config}.yaml"
    needed = catalogue.defaults(file) if file.is_file() else {}
    for word in line.overrides:
        key = word.lstrip("~").partition("=")[0]
        if word.startswith("~") and needed.get(key, "null") != "null":
            others = [name for name in compose.groups.get(key, {}) if name != needed[key]]
            hint = f": choose another instead, such as {key}={others[0]}" if others else ""
            raise UserError(f"{word}: {line.command} needs a {key}{hint}")


def _texts(line: Line, compose: Composer) -> Iterator[tuple[str, str]]:
    """Keys with the texts that they are given; options, numbers, lists and references need no look."""
    for word in line.overrides:
        override = parse(word)
        key = str(override.key_or_group)
        if key in compose.groups or not word.partition("=")[1]:
            continue
        for single in singles(word, override, compose.groups):
            value = parse(single).value()
            text = getattr(value, "text", value)  # a quoted string
            if isinstance(text, str) and "${" not in text:
                yield key, text
