"""Runs of two processes, as if on two machines, in forked children of one process that has imported everything.

python nodes.py CASES.json: a list of cases, each a list of command lines, the first process's first. Prints, a JSON
line a case, the exit codes and what each process printed.
"""

import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lightbed.callbacks.together
import lightbed.commands.train
from exact import Net
from lightbed.cli import main

lightbed.callbacks.together.PATIENCE = 1.0


class Plain(nn.Module):
    """Without what processes have to themselves, batch norm and dropout; for digits of 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 4 * 4, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


class Ends(Net):
    """In the third training step of the second process it raises, or kills the process.

    Args:
        how: raise or kill.
    """

    steps = 0

    def __init__(self, how: str = "raise") -> None:
        super().__init__()
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        self.steps += self.training
        if self.steps == 3 and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            if self.how == "kill":
                os.kill(os.getpid(), 9)
            raise OSError(5, "the camera's disk is gone")
        return super().forward(images)


def start(words: list[str], rank: int, of: int, port: int, out: Path) -> int:
    """`lightbed train`, as on the machine number `rank`."""
    pid = os.fork()
    if pid:
        return pid
    code: Any = 1
    try:
        file = os.open(out, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1), os.dup2(file, 2)
        if of > 1:
            os.environ |= {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        code = main(["train", *words])
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def run(lines: list[list[str]], folder: Path) -> dict[str, Any]:
    """Exit codes and output of a case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outs = [folder / f"{rank}.out" for rank in range(len(lines))]
    since = time.monotonic()
    pids = [start(words, rank, len(lines), port, outs[rank]) for rank, words in enumerate(lines)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    texts = [out.read_text() for out in outs]
    for out in outs:
        out.unlink()
    return {"codes": codes, "texts": texts, "seconds": time.monotonic() - since}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for case in json.loads(Path(sys.argv[1]).read_text()):
            print(json.dumps(run(case, Path(place))), flush=True)
