"""Checkpoint files: written whole or not at all, loaded without running code."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightbed.errors import UserError, first_sentence

FORMAT = 1  # of the key `lightbed` in a checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk and renames it over the former one.

    Lightning's own writer goes through $TMPDIR; where that is another file system, a kill in the middle of the copy
    destroys the former checkpoint too.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        target = Path(path).absolute()
        beside = target.with_name(f".{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
            sync_folder(target.parent)
        except BaseException as error:
            beside.unlink(missing_ok=True)
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
    if missing or "state_dict" not in content:
        raise UserError(f"{path} is incomplete: it lacks {', '.join(missing) or 'its weights'}")
    return content  # type: ignore[no-any-return]
