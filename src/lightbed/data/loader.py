"""A loader that knows what to do when one of its reading processes is killed."""

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from lightbed.data.source import Batch
from lightbed.errors import RunError
from lightbed.runs.log import tell

_MOST = 3  # deaths in an epoch that are made good
_DYING = 0.5  # seconds between the end of a process's connections and that of itself


class Loader(DataLoader[Batch]):
    """torch's loader, but the death of a reading process shows when its batch is due, not in the middle of a step.

    torch raises from a signal handler, wherever the run is at that moment. A batch is a function of its keys, so new
    processes can go on with those that have not been given yet.

    Args:
        revive: start new processes, up to three times an epoch; else the run ends.
        settings: the arguments of torch's loader, `batch_sampler` among them.
    """

    def __init__(self, *args: Any, revive: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.revive = revive

    def __iter__(self) -> Any:
        return self._watched() if self.num_workers else super().__iter__()

    def _watched(self) -> Iterator[Batch]:
        keys: list[Any] = list(self.batch_sampler)  # type: ignore[arg-type]
        given = deaths = 0
        batches: Iterator[Batch] = super().__iter__()
        while True:
            _unset_handler()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, EOFError, OSError) as error:  # the last two: of a batch whose maker is gone
                dead = _dead(batches)
                if not dead:
                    raise
                deaths += 1
                self._tell(dead, deaths, error)
                batches = self._restart(keys[given:])
                continue
            given += 1
            yield batch

    def _tell(self, dead: list[tuple[int, int]], deaths: int, error: Exception) -> None:
        """Name the processes.

        Raises:
            RunError: they are not made good.
        """
        text = " and ".join(f"reading process {pid} was ended by {_signal(code)}" for pid, code in dead)
        if not self.revive or deaths > _MOST:
            raise RunError(
                f"{text}; where memory ran out, lower data.num_workers={self.num_workers} or data.batch_size; "
                "lightbed train resume=RUN goes on, and data.broken=skip starts new ones by itself"
            ) from error
        tell(f"{text}; new ones go on")

    def _restart(self, keys: list[Any]) -> Iterator[Batch]:
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=keys,
                num_workers=self.num_workers,
                collate_fn=self.collate_fn,
                worker_init_fn=self.worker_init_fn,
                pin_memory=self.pin_memory,
                generator=self.generator,
            )
        )


def _dead(batches: Any) -> list[tuple[int, int]]:
    """Process numbers and exit codes of the reading processes that are no more."""
    time.sleep(_DYING)
    return [(worker.pid, worker.exitcode) for worker in batches._workers if not worker.is_alive()]


def _signal(code: int) -> str:
    """How a process ended."""
    try:
        return signal.Signals(-code).name if code < 0 else f"itself with exit code {code}"
    except ValueError:
        return f"signal {-code}"


def _unset_handler() -> None:
    """Take back torch's handler of a child's end; the loader itself looks every five seconds."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "") == "torch.utils.data._utils.signal_handling":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
