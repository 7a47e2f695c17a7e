"""What a sweep's folder from somebody else may say without `trust=true`: no code to run, no other place to write to."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lightbed.errors import UserError
from lightbed.runs.trust import HOW, check_config, check_links
from lightbed.sweeps.jobs import FILE, Job, Sweep, read_json

# Hydra's own keys that a sweep's command may set; each other one could name a class, a logger or a program
_PLAIN = (
    *(f"hydra/{group}" for group in ("launcher", "sweeper")),
    *(f"hydra.sweep.{key}" for key in ("dir", "subdir")),
    *(f"hydra.launcher.{key}" for key in ("jobs", "jobs_per_gpu", "gpus_per_job", "start")),
    *(f"hydra.launcher.{key}" for key in ("minutes", "cpus_per_task", "cpus_per_job")),
    *(f"hydra.sweeper.{key}" for key in ("trials", "sampler", "seed", "pruner", "pruner_startup", "pruner_warmup")),
)
# What Hydra acts on when it runs a job, as it is where nobody has changed it
_HYDRA = {
    "callbacks": {},
    "job_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
    "verbose": False,
    "job.chdir": False,
    "job.env_set": {},
    "job.env_copy": [],
}


def trusted(words: Iterable[str]) -> bool:
    """Whether a command line says trust=true."""
    values = [word.partition("=")[2].lower() for word in words if word.startswith("trust=")]
    return values[-1:] == ["true"]


def check_words(words: Iterable[str], origin: str) -> None:
    """Refuse a command from a file that would name classes, loggers, programs, or a folder of configs.

    Args:
        words: the command line without the command.
        origin: the file, for the message.

    Raises:
        UserError: one would; it is named.
    """
    for word in words:
        key, _, value = word.partition("=")
        key = key.lstrip("+~")
        code = "_target_" in word or value.strip("'\"") == "custom" or word.startswith("-")
        if code or ("hydra" in word and key not in _PLAIN) or (key in _PLAIN and "{" in value):
            raise UserError(f"{origin}: its command has {word}, which may run code; {HOW}")


def check_sweep(sweep: Sweep, given: Collection[str] = ()) -> None:
    """Refuse a sweep that would run code or write anywhere but into its own folder.

    Args:
        sweep: read from its folder.
        given: words that the user has typed now.

    Raises:
        UserError: it would; the file and what it says are named.
    """
    check_links(sweep.folder)
    check_words([word for word in sweep.words if "hydra" in word and word not in given], str(sweep.folder / FILE))
    for job in sweep.jobs:
        _check_frozen(job)


def check_search(folder: Path) -> None:
    """Likewise of a search, whose whole command is given again.

    Raises:
        UserError: likewise.
    """
    from lightbed.sweeps.search import STUDY, command_of, study_of

    check_links(folder)
    origin = str(folder / STUDY)
    check_words([word for word in command_of(folder) if word not in ("-m", "--multirun")], origin)
    if any(key.startswith("cma") for trial in study_of(folder).trials for key in trial.system_attrs):
        raise UserError(f"{origin} has pickled states of the sampler cmaes, which may run code; {HOW}")
    if (folder / FILE).is_file():
        check_sweep(Sweep.read(folder))


def _check_frozen(job: Job) -> None:
    content, origin = read_json(job.frozen), str(job.frozen)
    check_config(content.get("config") or {}, origin)
    hydra: dict[str, Any] = content.get("hydra") or {}
    for name, usual in _HYDRA.items():
        node, key = (hydra.get("job") or {}, name[4:]) if name.startswith("job.") else (hydra, name)
        found = node.get(key) if isinstance(node, Mapping) else None
        if found != usual:
            raise UserError(f"{origin}: hydra.{name}={found} may run code; {HOW}")
