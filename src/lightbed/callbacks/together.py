"""Several processes of one run: the same folder, the same settings, the same data, and images that count once."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightbed.errors import UserError
from lightbed.runs.peers import watch
from lightbed.runs.provenance import code_digest
from lightbed.runs.record import Record
from lightbed.types import Share, Step

PATIENCE = 30.0  # seconds after which a file that the first process wrote must be seen; networks keep old listings


class Together(Callback):
    """Has the processes of a run agree before they train, and keeps them together; with one process it does nothing.

    Lightning or Slurm starts the processes of a node with one command line, but those of several nodes may be started
    by hand: that one has other settings, sees other data, or cannot see the run folder is told before the first step,
    in all of them.

    Args:
        config: resolved, of this process.
        record: of the run, as this process has it.
    """

    def __init__(self, config: Mapping[str, Any], record: Record) -> None:
        self.record = record
        data = {name: value for name, value in record.content.get("data", {}).items() if name != "skipped_files"}
        self.facts = {**dict(_flat(config)), **{f"data: {name}": value for name, value in _flat(data)}}
        self.agreed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        if not self.agreed:
            watch(trainer, self.record.fail)
            self._agree(trainer)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit":
            pl_module.share = partial(share, trainer, data.shares)  # type: ignore[assignment]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        pl_module.share = None  # type: ignore[assignment]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the network that a checkpoint would hold: batch norms have seen other images in each process."""
        if trainer.world_size > 1 and trainer.state.fn is TrainerFn.FITTING:
            for buffer in pl_module.model.buffers():  # type: ignore[union-attr]
                torch.distributed.broadcast(buffer, 0)

    def _agree(self, trainer: Trainer) -> None:
        """Compare what this process has with what the first one has.

        Raises:
            UserError: one of them differs; in all of them.
        """
        folder, facts = Path(trainer.default_root_dir), {**self.facts, "code": code_digest()}
        theirs, first, process = trainer.strategy.broadcast((facts, folder, self.record.content.get("process")))
        fault = difference(theirs, facts) or ("" if sees(folder, process) else "folder")
        told: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(told, fault and (fault, platform.node(), str(folder)))
        for rank, found in enumerate(told):
            if found and found[0] == "folder":
                own = f" as {found[2]}" if found[2] != str(first) else ""
                raise UserError(
                    f"process {rank} of the run, on {found[1]}, does not see{own} the run folder {first}, which the "
                    "first one made: start all with the same hydra.run.dir on a file system that all machines share"
                )
            if found:
                raise UserError(f"process {rank} of the run, on {found[1]}, differs from the first: {found[0]}")
        self.agreed = True


def share(trainer: Trainer, shares: Callable[[int], tuple[int, int]], step: Step, batch: int) -> Share:
    """What this process has of a step, see `DataModule.shares`; processes with fewer images or weights count less.

    Strategies average gradients over processes as if each had as much.
    """
    mine, all_ = shares(batch)
    if step.weight is None:
        return Share(mine, mine * trainer.world_size / all_, 1.0)
    own = step.weight.detach().double() * (mine > 0)
    whole = own.clone()
    torch.distributed.all_reduce(whole)
    part = own / whole.clamp(min=1e-12)  # all may be void
    return Share(mine, (part * trainer.world_size).float(), (part * all_ / max(mine, 1)).float())


def sees(folder: Path, process: Any, patience: float | None = None) -> bool:
    """Whether `folder` holds the record of a run whose first process is `process`; waits for it a while."""
    until = time.monotonic() + (PATIENCE if patience is None else patience)
    while True:
        try:
            list(folder.iterdir())  # has a network's file system look again
            if json.loads((folder / "run.json").read_text(encoding="utf-8")).get("process") == process:
                return True
        except (OSError, ValueError):
            pass
        if time.monotonic() > until:
            return False
        time.sleep(0.2)


def difference(first: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What two processes do not have in common, in words; empty where they agree. Paths may differ between machines."""
    for name in [*first, *(name for name in own if name not in first)]:
        then, now = first.get(name), own.get(name)
        if then == now or (_is_path(then) and _is_path(now)):
            continue
        if name == "code":
            return "it has another version of Lightbed's code; give all machines the same"
        if name.startswith("data: "):
            return f"its data has {name[6:]} {now}, not {then}; give all machines the same data"
        return f"{name} is {now}, not {then}; start all with the same settings"
    return ""


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value).expanduser().is_absolute()


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], values
