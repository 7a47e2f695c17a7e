"""Several processes of one run: how they were started, and what ends one of them ends all, and is said."""

import json
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightbed.errors import RunError, UserError
from lightbed.folders import near
from lightbed.runs.record import Record, write_text
from lightbed.runs.signals import Stop

_OFTEN = 0.2  # seconds between two looks
_SETTLING = 1.0  # seconds in which a process that ended with an error may leave its note
_BEGINNING = 60.0  # seconds in which the first process may begin its run
_GRACE = 10.0  # seconds in which a process that waits for one that is gone may notice it by itself
_LOST = (  # what torch says where another process is gone
    "closed by peer",
    "Connection reset",
    "reset by peer",
    "Broken pipe",
    "Connection refused",
    "Socket Timeout",
    "remote process exited",
    "communicator was aborted",
)


class Fault(NamedTuple):
    """What ended one of the processes."""

    text: str
    mistake: bool = False  # the user's: exit code 2
    trace: str = ""
    consequence: bool = False  # of what ended another one

    def error(self) -> Exception:
        """The fault as an error of this process."""
        return UserError(self.text) if self.mistake else RunError(self.text)


def settle_rank(trainer: Mapping[str, Any]) -> None:
    """Let the process that a user starts on a further machine know that it is not the first, before Lightning does.

    Of torchrun's and Slurm's processes Lightning knows it by RANK and SLURM_PROCID. Otherwise NODE_RANK says it.
    """
    node = int(os.environ.get("NODE_RANK") or 0)
    if (trainer.get("num_nodes") or 1) > 1 and node and not {"RANK", "SLURM_PROCID"} & os.environ.keys():
        rank_zero_only.rank = max(node, getattr(rank_zero_only, "rank", 0))  # type: ignore[attr-defined]


def check_number(trainer: L.Trainer) -> None:
    """Refuse other processes than torchrun has started: each would train by itself, or wait for ever.

    Raises:
        UserError: there are others.
    """
    started, here = (int(os.environ.get(name) or 0) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if "TORCHELASTIC_RUN_ID" in os.environ and here and started != trainer.world_size:
        raise UserError(
            f"torchrun started {started} processes, but trainer.devices and trainer.num_nodes make "
            f"{trainer.world_size}: give trainer=ddp trainer.devices={here} trainer.num_nodes={started // here}"
        )


@contextmanager
def noted(record: Record) -> Iterator[None]:
    """In a run's further processes, leave a note of what ends this one in the run's folder, for the first process.

    The first process of a further machine says it there, too. Of others nothing is said, and they end with 0, for
    Lightning would kill the first one otherwise; where torchrun or srun started them, with 1, for these shall end the
    others. They end, too, when who started them is gone.
    """
    if record.writes:
        yield
        return
    first_here = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0) == 0
    if not first_here:
        _end_with(os.getppid())
    try:
        yield
    except (Stop, SIGTERMException, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        if isinstance(error, RunError) and error.agreed:
            raise
        rank = rank_zero_only.rank  # type: ignore[attr-defined]
        started_by_lightning = "TORCHELASTIC_RUN_ID" not in os.environ and "SLURM_PROCID" not in os.environ
        kind = "" if isinstance(error, UserError | RunError) else f"{type(error).__name__}: "
        text = f"process {rank + 1} of the run: {kind}{' '.join(str(error).split())}"
        trace, lost = "".join(traceback.format_exception(error)), _is_consequence(error)
        left = _leave(record.folder, rank, Fault(text, isinstance(error, UserError), trace, lost))
        if first_here and lost:
            raise RunError(f"another process of the run is gone: {_again(record.folder)}") from error
        if first_here:
            raise
        if not left:
            print(f"lightbed: {text}", file=sys.stderr, flush=True)
        raise SystemExit(0 if started_by_lightning and left else 1) from error


@contextmanager
def together(trainer: L.Trainer, record: Record) -> Iterator[None]:
    """In a run's first process, end when another one has ended, even while this one waits for it, and say why.

    Raises:
        RunError: in place of the error that the loss of the other one led to.
        UserError: likewise, where its fault is a mistake of the user.
    """
    if trainer.world_size == 1 or not record.writes:
        yield
        return
    watch = Watch(trainer.world_size, record)
    watch.start()
    try:
        yield
    except BaseException as error:
        watch.closed.set()
        fault = watch.fault_behind(error)
        if not (isinstance(error, Stop) or (isinstance(error, RunError) and error.agreed)):
            watch.end_others()
        if fault is None:
            raise
        record.note(fault.trace)
        raise fault.error() from error
    finally:
        watch.close()


class Watch(threading.Thread):
    """Looks for notes of the other processes, and for those of them that ended without one.

    Args:
        count: of processes.
        record: of the run.
    """

    def __init__(self, count: int, record: Record) -> None:
        super().__init__(daemon=True, name="processes")
        self.count, self.record = count, record
        self.closed = threading.Event()
        self.dead_since: float | None = None
        lock = record.folder / ".lock"  # as old as this process's work on the run
        for note in _notes(record.folder):
            if lock.exists() and note.stat().st_mtime < lock.stat().st_mtime:
                note.unlink(missing_ok=True)

    def run(self) -> None:
        while not self.closed.wait(_OFTEN):
            fault = self.fault()
            if fault is None:
                continue
            grace = _GRACE * (6 if fault.consequence else 1)  # perhaps of what is just ending this one
            if not self.closed.wait(grace):  # it waits in a kernel or a socket for the one that is gone
                self._end(fault)
            return

    def close(self) -> None:
        """Look no more, and leave nothing behind."""
        self.closed.set()
        for note in _notes(self.record.folder):
            note.unlink(missing_ok=True)

    def fault(self) -> Fault | None:
        """What ended another process, if one has ended."""
        told = _read_notes(self.record.folder)
        for fault in told:
            if not fault.consequence:
                return fault
        ended = [(i, code) for i, child in enumerate(self._children()) if (code := child.poll())]
        if not ended and not told:
            return None
        self.dead_since = self.dead_since or time.monotonic()
        if time.monotonic() - self.dead_since < _SETTLING:
            return None
        if not ended:
            return told[0]
        number, code = ended[0]
        how = f"was ended by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        return Fault(
            f"process {number + 2} of {self.count} {how}: {_again(self.record.folder)}; where memory ran out, lower "
            "data.num_workers or data.batch_size"
        )

    def fault_behind(self, error: BaseException) -> Fault | None:
        """The fault of another process that led to `error` here; None where it is this one's own."""
        asked = isinstance(error, Stop | SIGTERMException)  # perhaps by torchrun, because another one ended
        if not asked and not _is_consequence(error):
            return None
        end = time.monotonic() + (0 if asked else _GRACE)
        while (fault := self.fault()) is None and time.monotonic() < end:
            time.sleep(_OFTEN)
        if (fault is None or fault.consequence) and not asked:
            return Fault(f"another of the {self.count} processes is gone: {_again(self.record.folder)}")
        return fault

    def end_others(self) -> None:
        """End the processes that Lightning started here; they may wait for this one without end."""
        for child in self._children():
            child.kill()

    def _children(self) -> "list[Popen[bytes]]":
        """The processes that Lightning started, which from then on leaves it to us to end this one."""
        for thread in threading.enumerate():
            if thread.name == "child-process-observer":
                vars(thread)["_terminate_all"] = lambda: None  # it would kill this process before it can say why
                return list(getattr(thread, "_child_processes", ()))
        return []

    def _end(self, fault: Fault) -> None:
        """Say what happened and end this process, whatever it waits for."""
        with suppress(Exception):
            self.record.note(fault.trace)
            self.record.finish("failed", error=fault.text)
        print(f"lightbed: {fault.text}", file=sys.stderr, flush=True)
        self.end_others()
        self.close()
        (self.record.folder / ".lock").unlink(missing_ok=True)
        os._exit(2 if fault.mistake else 1)


def _again(folder: Path) -> str:
    return f"lightbed train {shlex.quote(f'resume={near(folder)}')} goes on"


def _is_consequence(error: BaseException) -> bool:
    """Whether another process's end is behind an error."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _LOST)


def _notes(folder: Path) -> list[Path]:
    return sorted(folder.glob(".fault.*.json"), key=lambda note: note.stat().st_mtime)


def _read_notes(folder: Path) -> list[Fault]:
    """The faults that other processes noted, the first one first."""
    found = []
    for note in _notes(folder):
        with suppress(OSError, ValueError, TypeError):
            found.append(Fault(**json.loads(note.read_text(encoding="utf-8"))))
    return found


def _leave(folder: Path, rank: int, fault: Fault) -> bool:
    """Write the note, unless the first process has said its own fault already; False where that is impossible.

    Without Lightning's launcher the first process may be slower than this one, and its run still to begin.
    """
    end = time.monotonic() + _BEGINNING
    while True:
        status = None
        with suppress(OSError, ValueError):
            status = json.loads((folder / "run.json").read_text(encoding="utf-8")).get("status")
        begun = status == "running" and (folder / ".lock").exists()
        if begun or status not in (None, "running") or time.monotonic() > end:
            break
        time.sleep(_OFTEN)
    with suppress(OSError, RunError):
        if status == "running":
            write_text(folder / f".fault.{rank}.json", json.dumps(fault._asdict()))
        return status is not None
    return False


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="parent").start()


def _signal(number: int) -> Any:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
