"""What a run leaves behind about itself: config.yaml, overrides.yaml, run.json, metrics.json."""

import json
import logging
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightbed.data.files import write_listing
from lightbed.errors import Pruned, RunError, UserError
from lightbed.runs.checkpoint import sync_folder
from lightbed.runs.git import git_state
from lightbed.runs.log import close_log, leave_out_no_news, open_log
from lightbed.runs.peak import begin_peak, peak_memory
from lightbed.runs.provenance import code_digest, hardware, own_modules, packages, variables, versions
from lightbed.runs.signals import Stop
from lightbed.sweeps import imports


class Record:
    """The record of a running job: its folder and its run.json, rewritten in one piece at each change of status.

    As a context manager it opens log.txt and, at the end, sets the status: done, failed (with the error, its traceback
    in log.txt), interrupted, or pruned by a search. Of several processes of one run, only the first writes.

    Args:
        folder: the run folder; never one that holds a run already.
        command: the words that started it.
        overrides: Hydra's, without the command.
        config: resolved.
        kind: the command: train, test or predict.
        more: further entries of run.json, e.g. `parent`, the multirun or the run that it belongs to.

    Raises:
        UserError: the folder holds a run or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        command: list[str],
        overrides: list[str],
        config: dict[str, Any],
        kind: str = "train",
        **more: Any,
    ) -> None:
        self.folder, self.overrides = folder, overrides
        self.started = time.monotonic()
        self.log: logging.Handler | None = None
        self.content: dict[str, Any] = {"versions": versions()}
        self.writes = getattr(rank_zero_only, "rank", 0) == 0
        if not self.writes:
            return
        if (folder / "run.json").exists():
            raise UserError(f"{folder} holds a run already; choose another hydra.run.dir")
        try:
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            self.write_config(config)
            write_text(folder / "overrides.yaml", yaml.safe_dump(overrides, allow_unicode=True))
            write_text(folder / "packages.txt", "".join(f"{line}\n" for line in packages()))
            git, diff = code_state()
            if diff:
                (folder / "uncommitted.diff").write_bytes(diff)
        except (OSError, RunError) as error:
            reason = getattr(error.__cause__ or error, "strerror", None) or error
            raise UserError(f"cannot write into the run folder {folder}: {reason}; set paths.outputs") from error
        self.content = {
            "kind": kind,
            "command": command,
            "status": "running",
            "start": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": None,
            "seed": config.get("seed"),
            "threads": config.get("threads"),
            "process": {"host": platform.node(), "pid": os.getpid()},
            "versions": versions(),
            "hardware": hardware(),
            "variables": variables(),
            "git": git,
            "code": code_digest(),
            **({"modules": own} if (own := own_modules(config)) else {}),
            **more,
        }
        self.write()
        for parent in (folder, folder.parent):  # the names themselves
            sync_folder(parent)

    @classmethod
    def of_job(cls, config: dict[str, Any], kind: str, **more: Any) -> "Record":
        """The record of Hydra's job: `parent` is the folder name of its multirun, `choices` what each group chose."""
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        if hydra.mode == RunMode.MULTIRUN:
            more = {"parent": folder.parent.name, **more}
        choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/")}
        if frozen := imports.used():
            more = {**more, "frozen_code": frozen.folder.name}
        return cls(folder, command_line(), list(hydra.overrides.task), config, kind, choices=choices, **more)

    def begin(self) -> None:
        """Told when data and network are there and the training begins."""

    def write(self, **changes: Any) -> None:
        """Change and save run.json."""
        self.content |= changes
        if self.writes:
            write_text(self.folder / "run.json", json.dumps(self.content, indent=2, ensure_ascii=False) + "\n")

    def write_config(self, config: dict[str, Any]) -> None:
        """Save config.yaml; again when the data's facts are filled in, so that it alone rebuilds the model."""
        if self.writes:
            write_text(self.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def write_data(self, facts: dict[str, Any], hashes: Mapping[str, str]) -> None:
        """Save what the data was: `facts` in run.json, the hash of each of its files in data.sha256."""
        if self.writes and hashes:
            with writing(self.folder / "data.sha256"):
                write_listing(hashes, self.folder / "data.sha256")
        self.write(data=facts)

    def finish(self, status: str, **changes: Any) -> None:
        """Set the final status: done, failed, interrupted or pruned; and what the run took of time and memory."""
        before = self.content.get("memory", {})  # where a resumed run was before
        memory = {name: max(value, before.get(name, 0.0)) for name, value in peak_memory().items()}
        self.write(status=status, seconds=round(time.monotonic() - self.started, 3), memory=memory, **changes)

    def spent(self) -> dict[str, float]:
        """Seconds and MiB of the largest process so far, as the HParams page names them."""
        peak = peak_memory()
        memory = {"run/memory_mib": max(peak["process"], peak["child"])} if peak.keys() >= {"process", "child"} else {}
        return {"run/seconds": round(time.monotonic() - self.started, 3), **memory}

    def __enter__(self) -> "Record":
        begin_peak()
        if self.writes:
            self.log = open_log(self.folder)
        else:
            leave_out_no_news()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                self.finish("done")
            elif _interrupted(error):
                self.finish("interrupted")
            elif isinstance(error, Pruned):
                self.finish("pruned", pruned=str(error))
            elif self.writes:
                with suppress(OSError, RunError):  # the disk may be full, which `error` then says
                    self.fail(error)
        finally:
            if self.log is not None:
                close_log(self.log)
        if not self.writes and (isinstance(error, Stop) or (isinstance(error, RunError) and error.agreed)):
            raise SystemExit(0) from error  # Lightning kills the first process where another one ends otherwise
        if isinstance(error, SIGTERMException):
            raise SystemExit(143) from error  # the shell's number for it; Lightning's exception would end with 0
        ctrl_c = error.number == signal.SIGINT if isinstance(error, Stop) else isinstance(error, SystemExit)
        if ctrl_c and _interrupted(error):
            raise KeyboardInterrupt from error  # Lightning turns Ctrl-C into exit(1)

    def fail(self, error: BaseException) -> None:
        """Write down that the run has failed, and why."""
        kind = "" if isinstance(error, UserError | RunError) else f"{type(error).__name__}: "
        self.finish("failed", error=f"{kind}{error}")
        self.note("".join(traceback.format_exception(error)))

    def note(self, text: str) -> None:
        """Add lines to log.txt that nobody is told on the terminal."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(text)


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C or SIGTERM is behind `error`."""
    if isinstance(error, SystemExit) and not isinstance(error, SIGTERMException | Stop):
        return isinstance(error.__context__, KeyboardInterrupt)
    return isinstance(error, KeyboardInterrupt | SIGTERMException | Stop)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell a full disk and the like in one line.

    Raises:
        RunError: the system refused to write.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file in one piece, flushed to the disk; the former one stays where that fails.

    Raises:
        RunError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
            beside.replace(path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise


@rank_zero_only
def point_latest(folder: Path, outputs: Path) -> None:
    """Let `outputs/latest` link to `folder`; a file system without links goes without."""
    link = outputs / "latest"
    beside = outputs / f".latest.{os.getpid()}"
    try:
        beside.symlink_to(os.path.relpath(folder, outputs), target_is_directory=True)
        beside.replace(link)
    except OSError:
        beside.unlink(missing_ok=True)


def code_state() -> tuple[dict[str, Any] | None, bytes]:
    """See `git_state`; in a job of a sweep as it was when its code was frozen, for that is what the job runs."""
    frozen = imports.used()
    return git_state() if frozen is None else (frozen.content["git"], frozen.diff())


def command_line() -> list[str]:
    """The words that started this process, to start it again."""
    return ["lightbed", *sys.argv[1:]]
