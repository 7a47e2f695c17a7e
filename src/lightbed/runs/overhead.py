"""What is around a step, made cheaper: Lightning's bookkeeping, and memory given back only to be asked for again."""

import ctypes
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.profilers import PassThroughProfiler

_NOTHING = nullcontext("")
_EACH_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, with one context for all; Lightning makes a generator for each of some 50 hooks a step."""

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # type: ignore[override]  # noqa: ARG002
        return _NOTHING


def skip_empty_hooks(trainer: L.Trainer, task: L.LightningModule) -> None:
    """Let Lightning pass over hooks of each step that nobody has filled.

    It calls a hook only where it can be called, and surrounds each of some 50 calls a step, most of them of empty
    functions, with bookkeeping.
    """
    for part, base in [(task, L.LightningModule), *((callback, L.Callback) for callback in trainer.callbacks)]:  # type: ignore[attr-defined]
        for hook in _EACH_STEP:
            if getattr(type(part), hook) is getattr(base, hook):
                part.__dict__.setdefault(hook, None)
    # Lightning reads the signature of training_step in each step, to see whether it takes the batch's number
    trainer.fit_loop.epoch_loop._build_kwargs = _both  # type: ignore[method-assign]


def _both(kwargs: Any, batch: Any, batch_idx: int) -> Any:
    return {**kwargs, "batch": batch, "batch_idx": batch_idx}


def settle_devices() -> None:
    """Where there is no CUDA device, let torch ask its runtime, which remembers that, and not the driver's library.

    Lightning chooses the latter for the sake of processes that fork, by an environment variable. Every step of every
    optimizer asks, and without a device the library is searched for anew each time.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def skip_filling() -> None:
    """Let torch leave new memory as it is in deterministic mode.

    Otherwise it writes NaN into every tensor before a kernel fills it, which is for finding programs that read what
    nobody wrote; kernels are chosen as before.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step instead of returning it to the kernel.

    glibc maps every large block anew and unmaps it when it is freed, so on a CPU each step pays for its tensors page by
    page: a step of a convolutional network on 32 images of 300x300 takes 2.3 times as long. The price is a higher
    peak, some 15 % there. Other systems and C libraries go without; results are the same bits.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a C library without it
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX in malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
