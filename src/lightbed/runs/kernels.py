"""Operations that have no deterministic kernel on a device: named, with what a run that uses one promises."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightbed.errors import RunError
from lightbed.runs.log import say

_SAID = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def named() -> Iterator[None]:
    """Say in one line which operation torch refuses in `trainer.deterministic=true`, and what to do.

    Raises:
        RunError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not (found := _SAID.search(str(error))):
            raise
        raise RunError(
            f"{found[1]} has no deterministic kernel on this device: trainer.deterministic=warn goes on, but such a "
            "run promises neither the same bits again nor after a resume; else choose a model or transform without it"
        ) from error


class Warned(logging.Handler):
    """Says once for each such operation, in `trainer.deterministic=warn`, that the run's promise is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        found = _SAID.search(record.getMessage())
        if found and found[1] not in self.told:
            self.told.add(found[1])
            say(f"{found[1]} has no deterministic kernel on this device: a rerun or resume may differ in the last bits")


@contextmanager
def warned() -> Iterator[None]:
    """Listen to torch's warnings, which otherwise stand in log.txt alone."""
    handler, logger = Warned(), logging.getLogger("py.warnings")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
