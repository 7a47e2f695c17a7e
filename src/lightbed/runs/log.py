"""What a run says: to the terminal and to the log.txt of its folder."""

import logging
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

_log = logging.getLogger("lightbed")


def open_log(folder: Path) -> logging.Handler:
    """Write all log records and warnings from now on to `folder/log.txt`; close with `close_log`."""
    handler = logging.FileHandler(folder / "log.txt", delay=False)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
    _log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for name in ("lightning.pytorch", "lightning.fabric"):
        # Lightning prints to the terminal by a handler of its own and says much that is no news
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = True
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # none are wanted for data in memory
    return handler


def close_log(handler: logging.Handler) -> None:
    """Stop writing to the run's log."""
    logging.getLogger().removeHandler(handler)
    logging.captureWarnings(False)
    handler.close()


def say(text: str) -> None:
    """A line to the terminal and to log.txt."""
    print(text, flush=True)
    _log.info(text)


def show(table: Table) -> None:
    """A table to the terminal and, as plain text, to log.txt."""
    Console().print(table)
    plain = Console(width=100, file=_Lines(), color_system=None)
    plain.print(table)


class _Lines:
    """A text file whose lines are log records."""

    def write(self, text: str) -> int:
        if text.strip():
            _log.info("\n" + text.rstrip())
        return len(text)

    def flush(self) -> None:
        pass


def interactive() -> bool:
    """Whether the output is a terminal."""
    return sys.stdout.isatty()
