"""The author's recipe as a program of its own: `python -m benchmarks.author DATA SCRATCH 0.8939 THREADS`.

Trains until the test accuracy is reached and prints the epochs and the seconds that testing took on the way there: an
author who knew the number of epochs would not have spent them.
"""

import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.rivals import AuthorsLoop

MOST = 120  # epochs


def main(data: Path, scratch: Path, goal: float, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    loop, testing, reached = AuthorsLoop(data, scratch), 0.0, 0.0
    for epoch in range(1, MOST + 1):
        loop()
        start = time.perf_counter()
        reached = loop.accuracy()
        last = time.perf_counter() - start
        testing += last
        if reached >= goal:
            break
    print(json.dumps({"epochs": epoch, "accuracy": reached, "testing": testing - last}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
