"""SIGTERM and Ctrl-C: a training is stopped where it can go on from, anything else at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_SAME = 1.0  # seconds in which a second signal is taken for the first one, sent to the process and to its group


class Stop(SystemExit):
    """A run was asked to stop; it is marked as interrupted, and the exit code is the shell's: 130 or 143.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """SIGTERM raises `Stop` at once, as Ctrl-C raises KeyboardInterrupt, where no `Request` waits for a better time."""

    def stop(number: int, _: Any) -> None:
        raise Stop(number)

    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in no other
        yield
        return
    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


class Request:
    """Notes the first SIGTERM or Ctrl-C; a second one does what it would have done at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.since = 0.0
        self.former: dict[int, Any] = {}
        self.noted: Callable[[], Any] = lambda: None  # called at the first one

    def listen(self) -> None:
        """Take the place of the present handlers."""
        if threading.current_thread() is threading.main_thread() and not self.former:
            self.former = {number: signal.signal(number, self._note) for number in _NUMBERS}

    def close(self) -> None:
        """Put the former handlers back."""
        for number, handler in self.former.items():
            signal.signal(number, handler)
        self.former = {}

    def _note(self, number: int, _: Any) -> None:
        if self.number is None:
            self.number, self.since = number, time.monotonic()
            self.noted()
        elif time.monotonic() - self.since > _SAME:
            self.close()
            os.kill(os.getpid(), number)


def patient_worker(_: int) -> None:
    """Set up a reading process so that a signal to the whole group does not end it before the run has used its batches.

    The second SIGTERM ends it: the first may be its own loader's.
    """

    def once(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, once)
