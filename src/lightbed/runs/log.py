"""What a run says: to the terminal and to the log.txt of its folder."""

import logging
import sys
import threading
import warnings
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from lightbed.errors import RunError, printable
from lightbed.terminal import Plain

_log = logging.getLogger("lightbed")
# what Lightning says of things that are meant to be so, and torch of Lightning
_NO_NEWS = (
    ".*does not have many workers.*",  # none are wanted for data in memory
    ".*`isinstance\\(treespec, LeafSpec\\)`.*",
    ".*You have overridden `.*` in `LightningModule` but have passed in a `LightningDataModule`.*",
    ".*is smaller than the logging interval.*",  # values are logged once an epoch
    ".*Total length of `list` across ranks is zero.*",  # data without a validation split
    ".*`training_step` returned `None`.*",  # a batch that trainer.nan=skip leaves out
    ".*srun.*command is available.*",
    ".*module\\(s\\) in eval mode at the start of training.*",  # frozen parts, and networks that only look
    ".*your dataloader is not resumable.*",  # ours asks the trainer where it stands, and so goes on there
)


class LogFile(logging.FileHandler):
    """A log whose faults end the run in one line instead of a traceback on the terminal for each record.

    Raises:
        RunError: by whoever logs, where the disk is full.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise RunError(f"cannot write {self.baseFilename}: {error.strerror or error}") from error
        super().handleError(record)


def _thread_ended(fault: Any) -> None:
    """A line for a thread that ended, e.g. TensorBoard's writer on a full disk; whoever needs it is told by it."""
    with suppress(Exception):
        _log.error("%s ended: %s: %s", fault.thread.name, fault.exc_type.__name__, fault.exc_value)


def open_log(folder: Path) -> logging.Handler:
    """Write all log records and warnings from now on to `folder/log.txt`; close with `close_log`."""
    threading.excepthook = _thread_ended
    handler = LogFile(folder / "log.txt", delay=False)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
    _log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    leave_out_no_news()
    return handler


def leave_out_no_news() -> None:
    """Let libraries be silent of what is meant to be so, in all processes of a run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        # Lightning prints to the terminal by a handler of its own and says much that is no news
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = True
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message=message)


def close_log(handler: logging.Handler) -> None:
    """Stop writing to the run's log."""
    logging.getLogger().removeHandler(handler)
    logging.captureWarnings(False)
    threading.excepthook = threading.__excepthook__
    with suppress(OSError):  # what a full disk did not take is told already
        handler.close()


@rank_zero_only
def say(text: str) -> None:
    """A line to the terminal and to log.txt, from the first process of a run; see `tell`."""
    tell(text)


def tell(text: str) -> None:
    """A line of what one process alone may know; those of a run's further processes go to the terminal only.

    Raises:
        RunError: the output goes into a file, and its disk is full.
    """
    text = printable(text)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"cannot write to the standard output: {error.strerror or error}") from error
    _log.info(text)


def show(table: Table) -> None:
    """A table to the terminal and, as plain text, to log.txt."""
    Plain().print(table)
    lines = StringIO()
    Plain(width=100, file=lines, color_system=None).print(table)
    _log.info("\n%s", lines.getvalue().rstrip())
