"""Kills runs with SIGKILL, resumes them, and compares them with runs that were left alone.

python tests/kills.py --kills 1000              at random moments, over all configurations
python tests/kills.py --writes 200              while a checkpoint is being written
python tests/kills.py --kills 20 --processes 2  a run in two processes (DDP)

Each run is a forked child of this process, which has imported everything and computed nothing, so a run takes a second.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torchmetrics.classification  # noqa: F401 - so that no child has to import it
from lightning.pytorch.utilities import rank_zero_only

import lightbed.commands.train  # noqa: F401 - likewise
from exact import WORDS, result
from lightbed.cli import main

EMA = "+callbacks.ema={_target_:lightbed.callbacks.ema.Ema}"
UNFREEZING = "+callbacks.unfreezing={_target_:lightbed.callbacks.unfreezing.Unfreezing,parts:{trunk:1}}"
KAPPA = "+task.metrics={kappa:{_target_:torchmetrics.classification.MulticlassCohenKappa,num_classes:10}}"
STOPPING = (
    "+callbacks.early_stopping={_target_:lightbed.callbacks.stopping.Stopping,monitor:val/loss,mode:min,patience:1}"
)
N_STEPS = "callbacks.checkpoint.every_n_steps"
CONFIGURATIONS: dict[str, list[str]] = {
    "an epoch": ["augment=flip_crop"],
    "three steps, augmentation": ["augment=flip_crop", "scheduler=cosine", f"{N_STEPS}=3"],
    "accumulation, averaged": ["trainer.accumulate_grad_batches=2", "scheduler=onecycle", EMA, f"{N_STEPS}=2"],
    "plateau, stopping": ["scheduler=plateau", "scheduler.build.patience=0", STOPPING, KAPPA, f"{N_STEPS}=4"],
    "unfreezing, samples, a worker": ["augment=torchvision_v2", "data.num_workers=1", UNFREEZING,
                                      "callbacks.checkpoint.every_minutes=0.002", "trainer.precision=bf16-mixed"],
}  # fmt: skip
LONGEST = 8  # kills of one run
Moment = Callable[[Callable[[], bool]], bool]  # waits, and says whether to kill; what it is given says: still running?


def start(words: list[str], log: Path, processes: int) -> list[int]:
    """`lightbed train` with these words, in forked children; their process ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_child(words, log, rank, processes, port) for rank in range(processes)]


def _child(words: list[str], log: Path, rank: int, processes: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code: Any = 1
    try:
        out = os.open(log.with_name(f"{log.name}.{rank}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        if processes > 1:  # as torchrun says it
            os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            rank_zero_only.rank = rank
            words = words if "resume=" in words[0] else [*words, "trainer.strategy=ddp", f"trainer.devices={processes}"]
        code = main(["train", *words])
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


def finish(pids: list[int], moment: Moment) -> bool:
    """Wait for the children until `moment` says to kill them; whether they were killed."""
    left = dict.fromkeys(pids)

    def running() -> bool:
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del left[pid]
                if status:
                    raise RuntimeError(f"process {pid} ended with {os.waitstatus_to_exitcode(status)}")
        return bool(left)

    try:
        killed = moment(running)
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for pid in left:
            os.waitpid(pid, 0)
    return killed


def at(seconds: float) -> Moment:
    """The moment after so many seconds."""
    end = time.monotonic() + seconds

    def moment(running: Callable[[], bool]) -> bool:
        while running():
            if time.monotonic() > end:
                return True
            time.sleep(0.002)
        return False

    return moment


def in_write(folder: Path, number: int, later: float) -> Moment:
    """The moment `later` seconds after the number-th write of a checkpoint began."""
    parts = [str(folder / "checkpoints" / f".{name}.ckpt.tmp") for name in ("last", "best")]

    def moment(running: Callable[[], bool]) -> bool:
        seen, before = 0, False
        for turn in cycle(range(200)):
            now = any(map(os.path.exists, parts))
            seen += now and not before
            before = now
            if now and seen >= number:
                end = time.monotonic() + later
                while time.monotonic() < end:
                    pass
                return True
            if turn == 0 and not running():
                return False
        return False

    return moment


def sometime(seconds: float) -> Iterator[Moment]:
    """Random moments of a run that takes so long, few of them before it begins to train."""
    while True:
        yield at(random.uniform(0.3, 1.0) * seconds)


def writing(folder: Path) -> Iterator[Moment]:
    """Random moments of random writes."""
    while True:
        yield in_write(folder, random.randint(1, 12), random.random() ** 2 * 0.01)


def check_whole(folder: Path, former: dict[str, int]) -> None:
    """Each checkpoint that was there is there, whole, and not older."""
    for name in ("last", "best"):
        path = folder / "checkpoints" / f"{name}.ckpt"
        if path.exists():
            step = torch.load(path, weights_only=True)["global_step"]
            if step < former.get(name, 0):
                raise RuntimeError(f"{path} went back from step {former[name]} to {step}")
            former[name] = step
        elif name in former:
            raise RuntimeError(f"{path} is gone")


def chain(words: list[str], folder: Path, moments: Iterator[Moment], processes: int) -> int:
    """A run, killed and resumed until it is done; the number of kills."""
    kills, former = 0, dict[str, int]()
    while True:
        if (folder / "run.json").is_file():
            line = [f"resume={folder}", "trust=true"]
        else:  # killed before it was a run
            shutil.rmtree(folder, ignore_errors=True)
            line = [*WORDS, *words, f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}"]
        pids = start(line, folder.parent / f"{folder.name}.log", processes)
        moment = next(moments) if kills < LONGEST else at(600)
        try:
            if not finish(pids, moment):
                return kills
        except RuntimeError as error:
            logs = sorted(folder.parent.glob(f"{folder.name}.log.*"))
            ends = (f"{log}: {log.read_text().strip().rpartition(chr(10))[2]}" for log in logs)
            raise RuntimeError("; ".join([str(error), *ends])) from error
        kills += 1
        check_whole(folder, former)


def campaign(root: Path, kills: int, writes: int, processes: int, seed: int) -> int:
    """All of it; returns the exit code."""
    random.seed(seed)
    wanted, count, runs, wrong = kills or writes, 0, Counter[str](), []
    names = list(CONFIGURATIONS)[: 3 if processes > 1 else None]
    ballast = ["+model.ballast=500_000", f"{N_STEPS}=1"] if writes else []
    whole: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    begun = time.monotonic()
    for name in cycle(names):
        words = [*CONFIGURATIONS[name], *ballast]
        if name not in whole:
            since = time.monotonic()
            place = root / f"whole{len(whole)}"
            line = [*WORDS, *words, f"hydra.run.dir={place}", f"paths.outputs={root}"]
            if finish(start([w for w in line if N_STEPS not in w], root / "whole.log", processes), at(600)):
                raise RuntimeError(f"{name} takes longer than ten minutes")
            seconds[name], whole[name] = time.monotonic() - since, result(place)
        folder = root / f"run{sum(runs.values())}"
        count += chain(words, folder, writing(folder) if writes else sometime(seconds[name]), processes)
        runs[name] += 1
        found = result(folder)
        differing = [key for key in whole[name] if found.get(key) != whole[name][key]]
        if differing:
            wrong.append(f"{name} in {folder}: {', '.join(differing)}")
        else:
            shutil.rmtree(folder)
        if count >= wanted:
            break
    where = "while checkpoints were written" if writes else "at random moments"
    print(f"{count} kills {where}, {sum(runs.values())} runs ({', '.join(f'{n} {k}' for k, n in runs.items())}), "
          f"{time.monotonic() - begun:.0f} s: {len(wrong)} not identical")  # fmt: skip
    print("".join(f"{line}\n" for line in wrong), end="")
    return bool(wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--writes", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs go; those that differ stay there")
    chosen = parser.parse_args()
    place = chosen.folder or Path(tempfile.mkdtemp(prefix="kills"))
    sys.exit(campaign(place, chosen.kills, chosen.writes, chosen.processes, chosen.seed))
