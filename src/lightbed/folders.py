"""Names of run folders: the resolvers that Hydra's configs use, and the folders that they made in this process."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from lightbed.errors import UserError

LONGEST = 150  # bytes of a job's folder name; file systems take 255

_made: dict[str, str] = {}
_varying: list[str] = []
_sweeping: list[str] = []
_jobs: dict[str, Any] = {}
_dry: list[bool] = [False]
_typed: list[Path] = []  # where the command was typed, while it works elsewhere


def register(overrides: Sequence[str], *, dry: bool = False) -> None:
    """Register the resolvers `new_folder`, `run_folder`, `sweep_folder` and `job_name` for one command line.

    Args:
        overrides: the command line's key=value.
        dry: create no folders, for a config that is only shown.
    """
    from omegaconf import OmegaConf

    for state in (_made, _sweeping, _jobs):
        state.clear()
    _varying[:] = _swept(overrides)
    _dry[:] = [dry]
    for name, make in (("new_folder", new_folder), ("run_folder", _run_folder), ("sweep_folder", _one_folder)):
        OmegaConf.register_new_resolver(name, _when_composed(make), replace=True)
    OmegaConf.register_new_resolver("job_name", _job_name, replace=True)


def _when_composed(make: Callable[..., str]) -> Callable[..., str]:
    """A resolver that makes its folder once the whole config stands.

    Hydra asks for the name already while it merges files, when neither the experiment's name nor `paths.outputs` is
    known; `hydra.runtime.cwd` is what it sets last.
    """

    def resolver(*arguments: Any, _root_: Any) -> str:
        from omegaconf import OmegaConf

        runtime = OmegaConf.select(_root_, "hydra.runtime")
        composing = runtime is not None and OmegaConf.is_missing(runtime, "cwd")
        return "" if composing else make(*arguments)

    return resolver


def new_folder(parent: str) -> str:
    """Create `parent/DATE_TIME` and return its path; one process gets one folder a parent, two never the same.

    The folder is made when Hydra asks for its name. `mkdir` fails where another process was there first; a counter
    is appended then.

    Raises:
        UserError: it cannot be created there, or this is a further process of a run, which would not find the first's.
    """
    if parent not in _made:
        if further() and not _dry[0]:
            raise UserError(
                "this is a further process of a run, and would take a folder of its own: start all processes with the "
                "same hydra.run.dir=FOLDER"
            )
        base = Path(parent).expanduser()
        if _dry[0]:
            return str(base / time.strftime("%Y-%m-%d_%H-%M-%S"))
        try:
            base.mkdir(parents=True, exist_ok=True)
            _made[parent] = str(claim(base))
        except OSError as error:
            raise UserError(f"cannot create a run folder in {base}: {error.strerror}; set paths.outputs") from error
    return _made[parent]


def further() -> bool:
    """Whether torchrun or srun started this process as another than the first of its run."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _run_folder(resume: str | None, parent: str) -> str:
    """The folder of a run that goes on, or a new one: also where there is no such run, which the command will say."""
    with suppress(UserError):
        if resume is not None:
            return str(find_run(resume))
    return new_folder(parent)


def find_run(resume: str) -> Path:
    """The folder of RUN, where that is to go on: a run folder or its last.ckpt.

    Raises:
        UserError: it is neither.
    """
    if not str(resume):
        raise UserError("resume= names no run: give a run folder, resume=. for this one")
    path = Path(str(resume)).expanduser()  # a folder's name may be a number to YAML
    if path.is_file():
        if path.name != "last.ckpt" or not (path.parent.parent / "config.yaml").is_file():
            raise UserError(f"resume={resume}: a run goes on from last.ckpt in its own folder; give that folder")
        path = path.parent.parent
    if not path.exists():
        raise UserError(f"resume={resume} does not exist: give a run folder")
    if not (path / "config.yaml").is_file() or not (path / "run.json").is_file():
        jobs = sorted(
            child.name for child in path.iterdir() if (child / "run.json").is_file() and not child.is_symlink()
        )
        hint = f"it holds several; choose one: {', '.join(jobs[:5])}" if jobs else "it has no run.json"
        raise UserError(f"resume={resume} is no run folder: {hint}")
    return path.resolve()


def discard_empty() -> None:
    """Remove the folders that this process made and left empty, because the command line was wrong."""
    for made in map(Path, _made.values()):
        for folder in (made, made.parent):
            try:
                folder.rmdir()
            except OSError:  # it holds something
                break


def run_name(folder: Path) -> str:
    """How titles call a run: `NAME/DATE_TIME`, a multirun's job `NAME/DATE_TIME/JOB`, else its folder's name."""
    for parts in (2, 3):
        name = folder.parts[-parts:]
        if len(name) == parts and re.match(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", name[1]):
            return "/".join(name)
    return folder.name


def _one_folder(parent: str) -> str:
    """The folder of a multirun: the first that is asked for, also where jobs have names and so parents of their own."""
    if not _sweeping:
        _sweeping[:] = [new_folder(parent)]
    return _sweeping[0]


def claim(base: Path) -> Path:
    """A new folder in `base` named by date and time; where there is one of this second, a number follows."""
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
    varying = {*_varying, *_swept([f"{key}={value}" for key, value in params.items()]), "trial"}
    chosen = [word for word in overrides if word.split("=")[0].lstrip("+~") in varying] or list(overrides)
    if any(word.startswith("trial=") for word in chosen):  # a search draws numbers of 17 digits; config.yaml has them
        chosen = [re.sub(r"\d+\.\d{4,}(e-?\d+)?$", lambda found: f"{float(found[0]):.3g}", word) for word in chosen]
    number = OmegaConf.select(_root_, "hydra.job.num", throw_on_missing=False)
    return _unique(safe_name([word.lstrip("+~") for word in chosen]), number)


def safe_name(words: Sequence[str]) -> str:
    """A folder name that says `words`, lists as `4-8`; where it cannot say them in full, a digest keeps it apart."""
    lists = r"=\[([\w.]+(?:, ?[\w.]+)*)\]$"
    whole = ",".join(re.sub(lists, lambda found: "=" + re.sub(", ?", "-", found[1]), word) for word in words) or "job"
    name = re.sub(r"[^\w=,.+-]+", "-", whole).strip("-.") or "job"
    short = name.encode()[:LONGEST].decode(errors="ignore")
    if short == whole:
        return short
    return f"{short}-{hashlib.blake2b(whole.encode(), digest_size=3).hexdigest()}"


def _unique(name: str, number: Any) -> str:
    """`name`, with the job's number behind it where another job of this sweep has the name."""
    if _jobs.setdefault(name, number) == number:
        return name
    return _unique(f"{name}_{number}", number)


def note_sweep(folder: Path) -> None:
    """Remember the folder that this process's jobs are in."""
    _sweeping[:] = [str(folder)]


def sweep_folder() -> Path | None:
    """The multirun folder of this process's jobs, if it ran any."""
    return Path(_sweeping[0]) if _sweeping else None


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in another folder, where relative paths are at home; nothing changes where that is gone."""
    _typed.append(Path.cwd())
    try:
        with chdir(folder if folder.is_dir() else Path.cwd()):
            yield
    finally:
        _typed.pop()


def near(path: Path) -> Path:
    """The path as short as it can be typed: relative where it is inside the folder that the command was typed in."""
    full, here = path.expanduser().absolute(), _typed[0] if _typed else Path.cwd()
    return full.relative_to(here) if full.is_relative_to(here) else full
