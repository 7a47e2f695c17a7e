"""What a run says: to the terminal and to the log.txt of its folder."""

import logging
import warnings
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

_log = logging.getLogger("lightbed")
# what Lightning says of things that are meant to be so, and torch of Lightning
_NO_NEWS = (
    ".*does not have many workers.*",  # none are wanted for data in memory
    ".*`isinstance\\(treespec, LeafSpec\\)`.*",
    ".*You have overridden `.*` in `LightningModule` but have passed in a `LightningDataModule`.*",
    ".*is smaller than the logging interval.*",  # values are logged once an epoch
    ".*srun.*command is available.*",
)


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
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message=message)
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
    lines = StringIO()
    Console(width=100, file=lines, color_system=None).print(table)
    _log.info("\n%s", lines.getvalue().rstrip())
