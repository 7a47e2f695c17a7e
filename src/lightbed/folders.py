"""Names of run folders: the resolvers that Hydra's configs use, and the folders that they made in this process."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_made: dict[str, str] = {}
_varying: list[str] = []
_sweeping: list[str] = []


def register(overrides: Sequence[str]) -> None:
    """Register the resolvers `new_folder` and `job_name` for one command line."""
    from omegaconf import OmegaConf

    _made.clear()
    _sweeping.clear()
    _varying[:] = _swept(overrides)
    OmegaConf.register_new_resolver("new_folder", new_folder, replace=True)
    OmegaConf.register_new_resolver("job_name", _job_name, replace=True)


def new_folder(parent: str) -> str:
    """Create `parent/DATE_TIME` and return its path; one process gets one folder a parent, two never the same.

    The folder is made when Hydra asks for its name. `mkdir` fails where another process was there first; a counter
    is appended then.
    """
    if parent not in _made:
        base = Path(parent).expanduser()
        try:
            base.mkdir(parents=True, exist_ok=True)
            _made[parent] = str(_claim(base))
        except OSError as error:
            from lightbed.errors import UserError

            raise UserError(f"cannot create a run folder in {base}: {error.strerror}; set paths.outputs") from error
    return _made[parent]


def _claim(base: Path) -> Path:
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1000):
        folder = base / (f"{stamp}_{number}" if number else stamp)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(17, "1000 runs in one second", str(base))


def _swept(overrides: Sequence[str]) -> list[str]:
    """Keys that these overrides sweep over: those with several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [word for word in overrides if "=" in word and not word.startswith("-")]
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except Exception:  # Hydra tells it better when it composes
        return []
    return [str(override.key_or_group) for override in parsed if override.is_sweep_override()]


def _job_name(overrides: Sequence[str], _root_: Any) -> str:
    """A job's folder in a multirun: its values of what varies, e.g. `model=cnn,seed=1`."""
    from omegaconf import OmegaConf

    params = OmegaConf.select(_root_, "hydra.sweeper.params") or {}
    varying = {*_varying, *_swept([f"{key}={value}" for key, value in params.items()])}
    chosen = [word for word in overrides if word.split("=")[0].lstrip("+~") in varying] or list(overrides)
    name = ",".join(word.lstrip("+~") for word in chosen)
    return re.sub(r"[^\w=,.+-]+", "-", name).strip("-")[:200] or "job"


def note_sweep(folder: Path) -> None:
    """Remember the folder that this process's jobs are in."""
    _sweeping[:] = [str(folder)]


def sweep_folder() -> Path | None:
    """The multirun folder of this process's jobs, if it ran any."""
    return Path(_sweeping[0]) if _sweeping else None
