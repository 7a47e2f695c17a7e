"""The other processes of a run: how they were started, and what becomes of it when one of them is gone."""

import os
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.utilities import rank_zero_only

from lightbed.errors import RunError, UserError
from lightbed.folders import near

_SAID = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "communicator was aborted")
_LOOK, _GRACE = 0.5, 10.0  # seconds between looks, and for the first process to end by itself
_PATIENCE = 3.0  # seconds in which the process that is gone may still write why


class PeerError(RunError):
    """Another process of the run is gone, so this one cannot go on."""


def settle_rank(trainer: Mapping[str, Any]) -> None:
    """Let the process that a user starts on a further machine know that it is not the first, before Lightning does.

    Of torchrun's and Slurm's processes Lightning knows it by RANK and SLURM_PROCID. Otherwise NODE_RANK says it.
    """
    node = int(os.environ.get("NODE_RANK") or 0)
    if (trainer.get("num_nodes") or 1) > 1 and node and not {"RANK", "SLURM_PROCID"} & os.environ.keys():
        rank_zero_only.rank = max(node, getattr(rank_zero_only, "rank", 0))  # type: ignore[attr-defined]  # as Lightning


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


def log_name() -> str:
    """The file of the run folder that this process's traceback goes into."""
    rank = getattr(rank_zero_only, "rank", 0)
    return f"process_{rank}.txt" if rank else "log.txt"


def leave_word(folder: Path, error: BaseException) -> None:
    """Write why this process fails, which is not the first and writes nothing else, into a file of its own."""
    if isinstance(error, PeerError):
        return
    kind = "" if isinstance(error, UserError | RunError) else f"{type(error).__name__}: "
    text = f"{kind}{' '.join(str(error).split())}\n{''.join(traceback.format_exception(error))}"
    with suppress(OSError):  # without a common file system there may be no such folder
        (folder / log_name()).write_text(text, encoding="utf-8")


class Watch(threading.Thread):
    """Looks after the processes that Lightning started, in place of Lightning's own watch, which kills the run unsaid.

    Where one fails, the first process is mostly told by its connection and ends the run itself, see `told`. Where it
    waits for the other one instead, as GPUs may for ever, the run is ended here.

    Args:
        processes: from number 1 on.
        folder: of the run.
        failed: writes down why the run has failed.
    """

    def __init__(
        self, processes: Sequence[Popen[bytes]], folder: Path, failed: Callable[[BaseException], None]
    ) -> None:
        super().__init__(daemon=True, name="lightbed-peers")
        self.processes, self.folder, self.failed = processes, folder, failed
        self.since, self.over = time.time(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(_LOOK):
            codes = [process.poll() for process in self.processes]
            if any(codes):
                if not self.over.wait(_GRACE):
                    self.end()
                return

    def end(self) -> None:
        """End the run as failed, and this process with it."""
        error = PeerError(explain(self.folder, self.since))
        with suppress(OSError, RunError):
            self.failed(error)
        print(f"lightbed: {error}", file=sys.stderr, flush=True)
        for process in self.processes:
            process.kill()
        os._exit(1)


def watch(trainer: L.Trainer, failed: Callable[[BaseException], None]) -> None:
    """Begin to look after the processes that Lightning has started, if it has."""
    launcher: Any = trainer.strategy.launcher
    started = getattr(launcher, "procs", None)
    if started:
        launcher.procs = [*started]
        started.clear()  # the list that Lightning's own watch has, which then ends
        launcher.watch = Watch(launcher.procs, Path(trainer.default_root_dir), failed)
        launcher.watch.start()


@contextmanager
def told(trainer: L.Trainer) -> Iterator[None]:
    """Say in one line that another process of the run is gone, and why, where it left word.

    Raises:
        PeerError: in place of torch's error.
    """
    since = time.time()
    try:
        yield
    except BaseException as error:
        launcher: Any = trainer.strategy.launcher
        if (watching := getattr(launcher, "watch", None)) is not None:
            watching.over.set()
        known = isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
        if trainer.world_size == 1 or not known:
            raise
        for process in getattr(launcher, "procs", []):
            process.kill()
        raise PeerError(explain(Path(trainer.default_root_dir), since)) from error


def explain(folder: Path, since: float) -> str:
    """Why the run cannot go on: what the process that is gone left word of since then, if it did."""
    again = shlex.quote(f"resume={near(folder)}")
    until, word = time.monotonic() + _PATIENCE, ""
    while not word and time.monotonic() < until:
        for file in sorted(folder.glob("process_*.txt")):
            text = file.read_text(encoding="utf-8", errors="replace")
            if text and file.stat().st_mtime >= since - 60:  # clocks of machines differ
                word = f": {text.splitlines()[0]} (its traceback is in {near(file)})"
        time.sleep(0.1)
    return f"another process of the run is gone{word}; lightbed train {again} goes on"
