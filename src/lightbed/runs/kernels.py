"""Operations that have no deterministic kernel on a device: named, with what a run that uses one promises."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightbed.errors import RunError
from lightbed.runs.log import say

# torch's words; the latter are those of attention, which takes its other way only in `trainer.deterministic=true`
_SAID = re.compile(
    r"(?P<op>\S+(?: CUDA)?) does not have a deterministic implementation"
    r"|(?P<attention>\w+(?: \w+)? [Aa]ttention) defaults to a non-deterministic algorithm"
)


def operation(text: str) -> str | None:
    """The operation without a deterministic kernel that an error or a warning of torch names, if it does."""
    found = _SAID.search(text)
    return None if found is None else found["op"] or found["attention"]


@contextmanager
def named() -> Iterator[None]:
    """Say in one line which operation torch refuses in `trainer.deterministic=true`, and what to do.

    Raises:
        RunError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if (found := operation(str(error))) is None:
            raise
        raise RunError(
            f"{found} has no deterministic kernel on this device: trainer.deterministic=warn goes on, but such a "
            "run promises neither the same bits again nor after a resume; else choose a model or transform without it"
        ) from error


class Warned(logging.Handler):
    """Says once for each such operation, in `trainer.deterministic=warn`, that the run's promise is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        found = operation(record.getMessage())
        if found is not None and found not in self.told:
            self.told.add(found)
            say(f"{found} has no deterministic kernel on this device: a rerun or resume may differ in the last bits")


@contextmanager
def warned() -> Iterator[None]:
    """Listen to torch's warnings, which otherwise stand in log.txt alone."""
    handler, logger = Warned(), logging.getLogger("py.warnings")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
