"""What the tests of clusters let their jobs do: be alone on a GPU, fail, or wait until they are told to end."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightbed.callbacks.checkpoint import Checkpoints
from lightbed.models.cnn import CNN
from lightbed.sweeps.search import open_storage

PATIENCE = 600.0  # seconds; machines may be busy
SMALL = ["trainer.accelerator=cpu", "threads=1", "data.limit=300", "callbacks.pictures=null", "callbacks.curves=null"]
QUICK = [*SMALL, "logger.tensorboard=false", "callbacks.layers=null"]


def probes(folder: Path, whats: str) -> list[str]:
    """The words of a multirun of `build`, which notes in this folder; its config is written there."""
    (folder / "conf" / "model").mkdir(parents=True)
    option = "_target_: cluster_jobs.build\nwhat: fine\nnotes: ???\nin_channels: auto\nnum_classes: auto\n"
    (folder / "conf" / "model" / "probe.yaml").write_text(option)
    words = ["-cd", str(folder / "conf"), "model=probe", f"model.notes={folder}", f"model.what={whats}"]
    return [*words, *QUICK, "trainer.max_epochs=0"]


def states(sweep: Path) -> dict[str, str]:
    """How the trials of a search over `model.what` ended, as its study has it."""
    storage = open_storage(sweep)
    (study,) = storage.get_all_studies()
    return {trial.params["model.what"]: trial.state.name for trial in storage.get_all_trials(study._study_id)}


def build(what: str, notes: str, in_channels: int, num_classes: int) -> CNN:
    """A small network, or a failure; notes which GPU it is on.

    Args:
        what: fine or other: alone on its GPU; meet: until a second one is there; raise; kill.
        notes: folder.
        in_channels: of the network.
        num_classes: likewise.
    """
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    with Path(notes, "seen").open("a") as file:
        file.write(f"{what} {device}\n")
    if what in ("fine", "other"):
        held = Path(notes, f"{device}.held")
        held.touch(exist_ok=False)  # fails where another job is on it
        time.sleep(0.3)
        held.unlink()
    if what == "meet":
        Path(notes, f"{os.getpid()}.here").touch()
        until = time.monotonic() + PATIENCE
        while len(list(Path(notes).glob("*.here"))) < 2:
            if time.monotonic() > until:
                raise RuntimeError("nobody came")
            time.sleep(0.05)
    if what == "raise":
        raise MemoryError("no room for it")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return CNN(in_channels, num_classes, [4])


class Meet(Callback):
    """Once in a run of these names, waits in the middle of an epoch until the run is asked to end.

    Args:
        names: of runs.
        name: of this one.
    """

    def __init__(self, names: list[str], name: str) -> None:
        self.waits = name in names

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        met = Path(trainer.default_root_dir, "met")
        if not self.waits or trainer.global_step < 4 or met.exists():
            return
        met.touch()
        request = next(callback.request for callback in trainer.callbacks if isinstance(callback, Checkpoints))
        until = time.monotonic() + PATIENCE
        while request.number is None and time.monotonic() < until:
            time.sleep(0.05)
