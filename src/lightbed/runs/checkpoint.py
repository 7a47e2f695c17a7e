"""Checkpoint files: written whole or not at all, loaded without running code."""

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as until_done
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from lightbed.errors import UserError, first_sentence

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

FORMAT = 1  # of the key `lightbed` in a checkpoint
_HELD = 256 * 2**20  # bytes of checkpoints held in memory until the disk has them; larger ones go there at once


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk and renames it over the former one.

    Lightning's own writer goes through $TMPDIR; where that is another file system, a kill in the middle of the copy
    destroys the former checkpoint too. The disk is slow where epochs are short, so a checkpoint is copied in memory and
    a thread writes it while the run goes on, in the order in which they were saved.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writer: ThreadPoolExecutor | None = None
        self.pending: dict[Future[None], int] = {}  # and its bytes

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Take the checkpoint as it is now; the disk may have it later, see `wait`.

        Raises:
            OSError: this one or one before could not be written; the file that it would replace is whole.
        """
        target, size = Path(path).absolute(), _bytes(checkpoint)
        self.wait(None if size + sum(self.pending.values()) > _HELD else 0)
        if size > _HELD:
            _write(checkpoint, target)
            return
        content = BytesIO()
        torch.save(checkpoint, content)
        self.writer = self.writer or ThreadPoolExecutor(1, "checkpoint")
        self.pending[self.writer.submit(_write, content, target)] = size

    def wait(self, seconds: float | None = None) -> None:
        """Until the disk has all that was saved, or for so many seconds.

        Raises:
            OSError: one could not be written; the former file is whole.
        """
        for done in until_done(self.pending, seconds).done:
            del self.pending[done]
            done.result()

    def remove_checkpoint(self, path: Any) -> None:
        self.wait()
        super().remove_checkpoint(path)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.wait()
        return super().load_checkpoint(path, *args, **kwargs)

    def teardown(self) -> None:
        """Lightning calls it at the end of a fit and where that fails."""
        try:
            self.wait()
        finally:
            if self.writer is not None:
                self.writer.shutdown()
                self.writer = None


def settle(trainer: "Trainer", seconds: float | None = None) -> None:
    """Wait until the disk has the checkpoints that a trainer saved, or for so many seconds; see `wait` above."""
    writer = trainer.strategy.checkpoint_io
    if isinstance(writer, AtomicCheckpointIO):  # a trainer of somebody's own may have another
        writer.wait(seconds)


def _bytes(value: Any) -> int:
    """How large the tensors of a nest are."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def _write(content: BytesIO | dict[str, Any], target: Path) -> None:
    """Write a checkpoint, or the bytes of one, in the place of the former one, once it is whole on the disk.

    Raises:
        OSError: it cannot be written.
    """
    beside = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            if isinstance(content, BytesIO):
                file.write(content.getbuffer())
            else:
                torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        # torch reports a full disk as a position that it did not expect; the cause is behind it
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            why = os.strerror(cause.errno) if cause.errno else str(cause)
            raise OSError(cause.errno, f"cannot write {target} ({why}); the former checkpoint is whole") from error
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_readable(path: Path) -> None:
    """Read a run's first checkpoint back: what a callback of one's own puts into it may be saved and yet never load.

    Raises:
        UserError: it holds more than tensors and plain values.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(
            f"{path} was written but cannot be read back ({first_sentence(error)}): let callbacks, "
            "schedules and optimizers keep only tensors and plain values in their states"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightbed checkpoint's content, on the CPU; only tensors and plain values are ever unpickled.

    Raises:
        UserError: the file is missing, damaged, not Lightbed's, or of a newer version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}") from error
    except Exception as error:  # a damaged file ends in one of a dozen kinds of error
        raise UserError(
            f"{path} cannot be read as a checkpoint: it is truncated, damaged or unsafe ({first_sentence(error)})"
        ) from error
    card = content.get("lightbed") if isinstance(content, dict) else None
    if not isinstance(card, dict) or not card.get("config_json"):
        raise UserError(f"{path} is no checkpoint of a Lightbed run: it does not say how its model is built")
    found = card.get("format")
    if not isinstance(found, int) or found > FORMAT:
        raise UserError(f"{path} has format {found}, this Lightbed knows up to {FORMAT}: use a newer Lightbed")
    missing = [key for key in ("classes", "preprocess") if not card.get(key)]
    if missing or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} is incomplete: it lacks {', '.join(missing) or 'its weights'}")
    if not isinstance(card["classes"], list) or not all(isinstance(name, str | int) for name in card["classes"]):
        raise UserError(f"{path} is damaged: its classes are no list of names")
    return content  # type: ignore[no-any-return]
