"""A run that goes on in its own folder: with which configuration, and what has changed since."""

import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lightbed.build import Config
from lightbed.errors import UserError
from lightbed.runs.checkpoint import read_checkpoint
from lightbed.runs.files import read_config, read_overrides, read_record
from lightbed.runs.load import load_weights, moved
from lightbed.runs.places import check_download, safe_caches
from lightbed.runs.provenance import changed_modules, code_digest, hardware, own_modules, versions
from lightbed.runs.record import Record, code_state, command_line, writing
from lightbed.runs.trust import check_config, check_links
from lightbed.sweeps import imports
from lightbed.tasks.base import Task

# What may be given beside resume=RUN: it changes no bits, the number of threads and of epochs apart
CHANGEABLE = (
    "data.num_workers",
    "threads",
    "trainer.max_epochs",
    "callbacks.checkpoint",
    "callbacks.progress",
    "paths",
)
_OF_RUN = ("resume", "trust")


class Resumed(Record):
    """The record of a run that goes on: run.json as it was, with one more entry in its list `resumed`.

    Args:
        folder: the run folder.
        config: the run's own.
        step: of its checkpoint; 0 where it begins anew.
    """

    def __init__(self, folder: Path, config: Config, step: int) -> None:
        self.folder, self.started = folder, time.monotonic()
        self.log: logging.Handler | None = None
        self.writes = getattr(rank_zero_only, "rank", 0) == 0
        self.former: dict[str, Any] | None = training_record(folder)
        self.content = {"versions": versions(), **self.former}
        earlier = self.content.get("resumed", [])
        now = {"threads": config["threads"], "versions": versions(), "hardware": hardware(), **self._code(len(earlier))}
        if own := own_modules(config):
            now["modules"] = own
        then = {key: self.content.get(key) for key in now}
        for entry in earlier:
            then |= {key: entry[key] for key in now if key in entry}
        self.differences = differences(then, now)
        changed = {key: value for key, value in now.items() if value != then[key]}
        start = datetime.now().astimezone().isoformat(timespec="seconds")
        self.started -= self.content.get("seconds") or 0.0
        self.content.pop("error", None)
        self.write(
            status="running",
            process={"host": platform.node(), "pid": os.getpid()},
            resumed=[*earlier, {"start": start, "command": command_line(), "step": step, **changed}],
        )

    def begin(self) -> None:
        self.former = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, UserError) and self.former is not None:
            self.content = {}
            self.write(**self.former)  # it did not go on: a finished run stays one

    def _code(self, count: int) -> dict[str, Any]:
        """The code that the run goes on with, as it did `count` times before; what is not committed is kept.

        It is that of today, or of the day when the sweep went on that the run is a job of.
        """
        git, diff = code_state()
        names = ["uncommitted.diff", *(f"uncommitted_{number}.diff" for number in range(1, count + 1))]
        last = next((file for name in reversed(names) if (file := self.folder / name).is_file()), None)
        if self.writes and diff != (last.read_bytes() if last else b""):
            with writing(self.folder):
                (self.folder / f"uncommitted_{count + 1}.diff").write_bytes(diff)
        frozen = imports.used()
        return {"git": git, "code": code_digest(), **({"frozen_code": frozen.folder.name} if frozen else {})}


def training_record(folder: Path) -> dict[str, Any]:
    """What run.json says of a training.

    Raises:
        UserError: it is damaged, or of another command than train.
    """
    content = read_record(folder)
    if content.get("kind", "train") != "train":
        raise UserError(f"resume={folder} is of lightbed {content['kind']}; only a training goes on")
    return content


def own_config(folder: Path, cfg: DictConfig, words: Sequence[str]) -> Config:
    """The run's own configuration, with what the command line may change.

    Args:
        folder: the run folder.
        cfg: composed from the command line.
        words: the command line's overrides.

    Raises:
        UserError: they contradict the run's own, its files are damaged, name a class that is not trusted, or are links.
    """
    config: Config = read_config(folder)
    given = read_overrides(folder)
    if not cfg.trust:
        check_config(config, str(folder / "config.yaml"))
        check_links(folder)
        config = safe_caches(config, str(cfg.paths.cache))
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if key in _OF_RUN:
            continue
        if not any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE):
            if word in given:  # the run's own command, typed again
                continue
            raise UserError(
                f"{word}: resume goes on with the run's own configuration, of which only {', '.join(CHANGEABLE)} "
                "can change; without resume it is a new run"
            )
        config = _changed(config, key, OmegaConf.to_container(cfg, resolve=True))
    if not cfg.trust:
        check_download(config["data"], str(cfg.paths.data), str(folder / "config.yaml"))
    return config


def check_fits(task: Task, last: Path) -> None:
    """Refuse a checkpoint that is not of this run's task and classes, or whose weights are those of another network.

    Raises:
        UserError: it is not.
    """
    content = read_checkpoint(last)
    card, kind = content["lightbed"], type(task).__name__.lower()
    if card.get("task") != kind:
        raise UserError(f"{last} is of a {card.get('task')}, but this run trains a {kind}: it is another run's")
    then, now = list(card["classes"]), task.classes
    if then != now:
        pairs = enumerate(zip(then, now, strict=False))
        other = next((f" (class {i} is {old}, in the data {new})" for i, (old, new) in pairs if old != new), "")
        count = f"{len(then)} classes, this run's data has {len(now)}{other}"
        raise UserError(f"{last} knows {count}: give it its own data")
    load_weights(task, content["state_dict"], last)


def _changed(config: Config, key: str, new: Any) -> Config:
    """`config` with the value that `key` has in `new`."""
    *parents, last = key.split(".")
    old, node = config, new
    for name in parents:
        old, node = old.get(name) or {}, node[name]
    if last not in old:
        raise UserError(f"{key} is not in the run's configuration: it cannot be changed when it is resumed")
    if key == "trainer.max_epochs" and old[last] != node[last]:
        _check_end(config)
    if parents == ["paths"] and old[last] != node[last]:
        config = moved(config, {old[last]: str(node[last])})
        old = config["paths"]
    old[last] = node[last]
    return config


def _check_end(config: Config) -> None:
    """Refuse another end for a schedule that was laid out for the old one."""
    for name, value in (config["scheduler"]["build"] or {}).items():
        if str(value).startswith("auto") and name not in ("mode", "max_lr"):
            raise UserError(
                f"trainer.max_epochs cannot change: scheduler.build.{name}={value} was laid out for "
                f"{config['trainer']['max_epochs']} epochs; begin a new run"
            )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What may change the last bits, each as `torch 2.12.0 (was 2.11.0)`."""
    found = []
    old, new = then.get("versions") or {}, now["versions"]
    found += [f"{name} {new.get(name)} (was {old[name]})" for name in old if new.get(name) != old[name]]
    old, new = then.get("hardware") or {}, now["hardware"]
    for key, name in (("isa", "instruction set"), ("gpus", "GPUs")):
        if key in old and new.get(key) != old[key]:
            found.append(f"{name} {new.get(key) or 'none'} (was {old[key] or 'none'})")
    if then.get("code") not in (None, now.get("code")):
        found.append("other code of Lightbed")
    if others := changed_modules(then.get("modules"), now.get("modules")):
        found.append(f"other code in {', '.join(others)}")
    if then.get("threads") not in (None, now["threads"]):
        found.append(f"threads {now['threads']} (was {then['threads']})")
    return found


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time works on a run; the system frees the lock when that is killed.

    Raises:
        UserError: the run is still going on, or its folder is read-only.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:  # the first of several processes holds it for all
        yield
        return
    lock = folder / ".lock"
    try:
        file = lock.open("w")
    except OSError as error:
        raise UserError(f"cannot write into the run folder {folder}: {error.strerror or error}") from error
    with file:
        try:
            import fcntl  # not on Windows

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # reading processes do not inherit this kind
            if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise BlockingIOError  # it was deleted just now by who had it, and another process may have a new one
        except BlockingIOError as error:
            process = training_record(folder).get("process", {})
            where = f"process {process.get('pid')} on {process.get('host')}"
            raise UserError(f"{folder} is still going on ({where}): stop that first") from error
        except (ImportError, OSError):  # a file system without locks
            pass
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
