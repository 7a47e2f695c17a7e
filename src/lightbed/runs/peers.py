"""The other processes of a run: how they were started, and what becomes of it when one of them is gone."""

import os
import shlex
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.utilities import rank_zero_only

from lightbed.errors import RunError, UserError
from lightbed.folders import near

_SAID = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "communicator was aborted")
_PATIENCE = 3.0  # seconds in which the process that is gone may still write why


class PeerError(RunError):
    """Another process of the run is gone, so this one cannot go on."""


def settle_rank(trainer: Mapping[str, Any]) -> None:
    """Let the process that a user starts on a further machine know that it is not the first, before Lightning does.

    Of torchrun's and Slurm's processes Lightning knows it by RANK and SLURM_PROCID. Otherwise NODE_RANK says it.
    """
    node = int(os.environ.get("NODE_RANK") or 0)
    if (trainer.get("num_nodes") or 1) > 1 and node and not {"RANK", "SLURM_PROCID"} & os.environ.keys():
        rank_zero_only.rank = max(node, getattr(rank_zero_only, "rank", 0))


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


def leave_word(folder: Path, error: BaseException) -> None:
    """Write why this process fails, which is not the first and writes nothing else, into process_RANK.txt."""
    if isinstance(error, PeerError):
        return
    kind = "" if isinstance(error, UserError | RunError) else f"{type(error).__name__}: "
    text = f"{kind}{' '.join(str(error).split())}\n{''.join(traceback.format_exception(error))}"
    with suppress(OSError):  # without a common file system there may be no such folder
        (folder / f"process_{getattr(rank_zero_only, 'rank', 0)}.txt").write_text(text, encoding="utf-8")


@contextmanager
def told(trainer: L.Trainer) -> Iterator[None]:
    """Say in one line that another process of the run is gone, and why, where it left word.

    Raises:
        PeerError: in place of torch's error.
    """
    since = time.time() - 60  # clocks of machines differ
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not any(said in str(error) for said in _SAID):
            raise
        folder = Path(trainer.default_root_dir)
        word = _word(folder, since)
        again = shlex.quote(f"resume={near(folder)}")
        _let_go(trainer)
        raise PeerError(f"another process of the run is gone{word}; lightbed train {again} goes on") from error


def _word(folder: Path, since: float) -> str:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        for file in sorted(folder.glob("process_*.txt")):
            if file.stat().st_mtime >= since and (text := file.read_text(encoding="utf-8", errors="replace")):
                return f": {text.splitlines()[0]} (its traceback is in {near(file)})"
        time.sleep(0.1)
    return ""


def _let_go(trainer: L.Trainer) -> None:
    """End the processes that this one started, before Lightning, which looks for one that is gone, kills this one."""
    processes = getattr(trainer.strategy.launcher, "procs", [])
    for process in processes:
        process.kill()
        process.wait()
    processes.clear()
