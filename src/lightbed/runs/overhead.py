"""Lightning's bookkeeping around a step, made cheaper: a step of a small network on a CPU takes about a millisecond."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning.pytorch.profilers import PassThroughProfiler

_NOTHING = nullcontext("")


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, with one context for all; Lightning makes a generator for each of some 50 hooks a step."""

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # type: ignore[override]  # noqa: ARG002
        return _NOTHING


def settle_devices() -> None:
    """Where there is no CUDA device, let torch ask its runtime, which remembers that, and not the driver's library.

    Lightning chooses the latter for the sake of processes that fork, by an environment variable. Every step of every
    optimizer asks, and without a device the library is searched for anew each time.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
