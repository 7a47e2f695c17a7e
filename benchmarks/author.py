"""The author's recipe as a program of its own: `python -m benchmarks.author DATA SCRATCH 0.8939 THREADS LIMIT`.

Trains until the test accuracy is reached or LIMIT seconds of training are over, and prints the epochs and the seconds
that testing took on the way there: an author who knew the number of epochs would not have spent them.
"""

import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.rivals import AuthorsLoop


def main(data: Path, scratch: Path, goal: float, threads: int, limit: float) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    loop, testing, reached = AuthorsLoop(data, scratch), 0.0, 0.0
    epochs, begun = 0, time.perf_counter()
    while reached < goal and time.perf_counter() - begun - testing < limit:
        loop()
        epochs += 1
        start = time.perf_counter()
        reached = loop.accuracy()
        last = time.perf_counter() - start
        testing += last
    print(json.dumps({"epochs": epochs, "accuracy": reached, "testing": testing - last}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
