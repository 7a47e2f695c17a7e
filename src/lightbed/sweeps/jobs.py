"""The jobs of a sweep and what became of them, in files: sweep.json, and a frozen config for each job.

Whoever killed the sweep, its folder says what is left to do: a job's own run.json has the last word on its status.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lightbed.errors import UserError

FILE = "sweep.json"
FROZEN = "frozen"  # folder of the jobs' configs
OVER = ("done", "pruned")  # statuses of jobs with nothing left to do
_PATIENCE = 60.0  # seconds in which the jobs of a killed sweep may still end


@dataclass
class Job:
    """One job of a sweep.

    Its status is waiting, running, done, pruned (by a search), failed, killed, or interrupted.
    """

    id: str  # of its overrides' content: the same in every sweep
    number: int
    overrides: list[str]
    folder: Path
    frozen: Path
    status: str = "waiting"
    attempts: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    code: int = 0  # exit code of the last attempt

    @property
    def name(self) -> str:
        return self.folder.name

    def as_json(self) -> dict[str, Any]:
        """What sweep.json says of it."""
        told = {"id": self.id, "number": self.number, "overrides": self.overrides, "folder": self.folder.name}
        told |= {"status": self.status, "attempts": self.attempts}
        return told | ({"error": self.error} if self.error else {})


class Sweep:
    """A sweep's folder.

    Args:
        folder: of the multirun, which has a folder for each job.
        words: the command line.
    """

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.folder, self.words = folder, list(words)
        self.start = now()
        self.place = Path.cwd()  # where relative paths of its command and configs begin
        self.jobs: list[Job] = []

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        """The sweep of a folder, its jobs' statuses as their own files say.

        Raises:
            UserError: sweep.json is damaged.
        """
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            sweep = cls(folder, content["command"])
            sweep.start, sweep.place = content["start"], Path(content.get("directory", "."))
            for told in content["jobs"]:
                for name in (told["id"], told["folder"]):
                    if Path(name).name != name:
                        raise ValueError(f"{name} is no name of a file in its folder")
                place, frozen = folder / told["folder"], folder / FROZEN / f"{told['id']}.json"
                job = Job(told["id"], told["number"], told["overrides"], place, frozen, attempts=told["attempts"])
                sweep.jobs.append(job)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / FILE} cannot be read: {error}") from error
        for job in sweep.jobs:
            job.status = found_status(job.folder)
        return sweep

    def add(self, number: int, overrides: Sequence[str], content: dict[str, Any]) -> Job:
        """A job with its frozen config, which is written."""
        taken = {job.id for job in self.jobs}
        first = digest(overrides)
        ids = (first if not count else f"{first}-{count}" for count in range(len(taken) + 1))
        own = next(name for name in ids if name not in taken)
        path = self.folder / FROZEN / f"{own}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        job = Job(own, number, list(overrides), Path(content["folder"]), path)
        self.jobs.append(job)
        return job

    def write(self) -> None:
        """Write sweep.json in one piece."""
        jobs = [job.as_json() for job in self.jobs]
        content = {"command": self.words, "directory": str(self.place), "start": self.start, "jobs": jobs}
        write_json(self.folder / FILE, content)

    @contextmanager
    def alone(self) -> Iterator[int]:
        """One process at a time runs a sweep; gives the lock's descriptor, which the processes of jobs hold, too.

        Raises:
            UserError: it is still going on.
        """
        import fcntl

        path = self.folder / ".lock"
        with path.open("a+") as file:
            for wait in range(int(_PATIENCE / 0.5) + 1):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    file.seek(0)
                    owner = file.read().strip()
                    if _alive(owner) or wait * 0.5 >= _PATIENCE:
                        raise UserError(
                            f"{self.folder} is still going on (process {owner}): stop that first"
                        ) from error
                    time.sleep(0.5)  # its jobs are just ending
                except OSError:  # a file system without locks
                    break
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield file.fileno()


def in_its_folder(job: Job) -> dict[str, Any]:
    """The content of a job's file, written anew where the sweep was moved since.

    Raises:
        UserError: it is missing or damaged.
    """
    content = read_json(job.frozen)
    if not {"config", "hydra", "folder"} <= content.keys():
        raise UserError(f"{job.frozen} is missing or damaged: begin the sweep anew")
    here = str(job.folder)
    if content["folder"] != here:
        runtime = {**content["hydra"]["runtime"], "output_dir": here}
        content = {**content, "folder": here, "hydra": {**content["hydra"], "runtime": runtime}}
        write_json(job.frozen, content)
    return content


def digest(overrides: Iterable[str]) -> str:
    """A job's id: that of the content of its overrides, whatever their order."""
    return hashlib.blake2b("\n".join(sorted(overrides)).encode(), digest_size=5).hexdigest()


def found_status(folder: Path) -> str:
    """The status of a job whose process is gone, by its folder: waiting where it never became a run."""
    status = str(read_json(folder / "run.json").get("status", "waiting"))
    return "killed" if status == "running" else status


def set_aside(folder: Path) -> None:
    """Move what a failed attempt left in a job's folder into `attempt_N` there, so that the job can begin anew."""
    if not (folder / "run.json").exists():
        return
    number = 1 + sum(1 for _ in folder.glob("attempt_*"))
    aside = folder / f"attempt_{number}"
    aside.mkdir()
    # run.json last: a kill in between leaves a folder that is still a run that failed
    names = [path for path in folder.iterdir() if not path.name.startswith("attempt_") and path.name != "run.json"]
    for path in [*names, folder / "run.json"]:
        path.rename(aside / path.name)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file; nothing where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: Any) -> None:
    """Write a small file in one piece."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def now() -> str:
    """The time as run.json has it."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
