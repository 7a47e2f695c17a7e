"""What makes a step cheaper changes nothing in what it computes."""

import subprocess
import sys
from functools import partial

import lightning.pytorch as L
import pytest
import torch

from lightbed.data.digits import Digits
from lightbed.models.dnn import DNN
from lightbed.runs.overhead import NoProfiler, skip_empty_hooks
from lightbed.tasks import Classifier


class Counting(L.Callback):
    """Fills one of the hooks of each step."""

    steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1


class Clipped(Classifier):
    """A task of a user that fills another one."""

    seen = 0

    def on_before_optimizer_step(self, optimizer):
        self.seen += 1


def trained(tmp_path, *, cheaper):
    torch.manual_seed(0)
    data = Digits(batch_size=128)
    task = Clipped(DNN(64, 10, [8]), 10, preprocess=data.preprocess, optimizer=partial(torch.optim.Adam, lr=1e-2))
    counting = Counting()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[counting],
        num_sanity_val_steps=0,
        profiler=NoProfiler() if cheaper else None,
    )
    if cheaper:
        skip_empty_hooks(trainer, task)
    trainer.fit(task, datamodule=data)
    return task, counting


def test_the_same_weights_and_all_filled_hooks_are_called(tmp_path):
    plain, cheaper = (trained(tmp_path, cheaper=cheaper) for cheaper in (False, True))
    for one, other in zip(plain[0].model.parameters(), cheaper[0].model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert plain[1].steps == cheaper[1].steps == 22  # 1,294 images are 11 batches of 128, twice
    assert plain[0].seen == cheaper[0].seen == 22


PAGES = """
import resource, sys, torch
from lightbed.runs.overhead import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for step in range(30):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)  # 64 MB: over the 32 MB from which glibc always maps anew
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library of Linux is meant")
def test_kept_memory_is_not_paid_for_again(tmp_path):
    faults = {}
    for how in ("returned", "kept"):
        done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        faults[how] = int(done.stdout)
    assert faults["kept"] < faults["returned"] / 10
