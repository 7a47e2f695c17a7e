"""`lightbed COMMAND [key=value ...]`: takes the command and lets Hydra compose its config.

Nothing heavy is imported here: help, completion and `--cfg job` answer before torch could be loaded. A command's own
module is imported when its config stands.
"""

import importlib
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightbed.catalogue import conf_dir
from lightbed.errors import RunError, UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lightbed.words import Line

COMMANDS = {
    "train": "train a model, test its best checkpoint, draw pictures",
    "check": "what a training would meet late, met at once: data, one step of everything, time",
    "test": "evaluate a run or checkpoint, also on another data set",
    "predict": "what a run sees in images: JSON lines and drawn pictures",
    "rerun": "repeat a run from its folder alone and compare, to the bit",
    "report": "one table and plots over many runs",
    "export": "a run as one ONNX or torch file that needs no Lightbed",
    "serve": "a page in the browser: give it an image, see what runs find",
}
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Failure(NamedTuple):
    """A job that raised."""

    error: Exception
    job: str  # its name in a multirun
    folder: Path


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `lightbed` script; returns the exit code (0 done, 1 a run failed, 2 wrong usage or data)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _say(error)
    except RunError as error:
        _say(error)
        return FAILED
    except KeyboardInterrupt:
        print("lightbed: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # what the output is piped to has read enough, e.g. `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        if len(arguments) > 1 and arguments[1] in COMMANDS:
            return _dispatch([arguments[1], "--help"])
        from lightbed.help import overview

        print(overview(COMMANDS, [conf_dir(), *_config_dir(arguments)]))
        return OK if arguments else USAGE
    command, rest = arguments[0], arguments[1:]
    if "--version" in arguments[:2]:
        from lightbed import __version__

        print(f"lightbed {__version__}")
        return OK
    if command in ("-sc", "--shell-completion"):
        from lightbed.completion import complete

        return complete(rest, list(COMMANDS))
    if command not in COMMANDS:
        raise UserError(_no_command(command))
    if "--help" in rest or "-h" in rest:
        from lightbed import help as texts

        folders = [conf_dir(), *_config_dir(rest)]
        print(texts.command(command, COMMANDS[command], folders, [word for word in rest if "=" in word]))
        return OK
    return run_hydra(command, rest)


def _no_command(word: str) -> str:
    if "=" in word or word.startswith("-"):
        return f"a command comes first, as in lightbed train {word}; see lightbed --help"
    return f"there is no command '{word}': {nearest(word, list(COMMANDS))} See lightbed --help"


def _config_dir(words: list[str]) -> list[Path]:
    """The user's own folder of configs, if the words name one."""
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            folder = Path(value or next(iter(words[i + 1 :]), "")).expanduser()
            if not folder.is_dir():
                raise UserError(f"--config-dir {folder}: there is no such folder")
            return [folder]
    return []


def run_hydra(command: str, words: list[str]) -> int:
    """Compose `command`'s config with `words` and run it, once or as a multirun; returns the exit code."""
    from lightbed import folders
    from lightbed.sweeps import resume
    from lightbed.words import read

    line = read(command, words)
    if command == "check" and line.runs:
        return _check(line, words)
    if line.runs and resume.named(line):
        from lightbed.sweeps.searching import words_again

        if found := words_again(line):
            again, place = found
            with folders.working_in(place):
                return _run(read(command, again))
    return _run(line)


def _check(line: "Line", words: list[str]) -> int:
    """Run `check` in a folder that is gone afterwards, its jobs one after the other where there are several.

    `words` are the line's as they were typed.
    """
    from lightbed import folders
    from lightbed.words import quote

    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("check starts the processes of a run by itself: leave out torchrun")
    if folders.further():  # one that the first process has started, in its folder
        return _run(line)
    for word in line.overrides:
        if word.startswith(("hydra/sweeper=", "hydra.sweeper.")):
            raise UserError(
                f"{word}: a search chooses its values as it goes; check one line of it, without -m and {word}"
            )
    ours = ("hydra.run.dir=", "hydra.sweep.dir=", "hydra/launcher=", "hydra.launcher.")
    kept = [word for word in line.overrides if not word.startswith(ours)]
    with tempfile.TemporaryDirectory(prefix="lightbed-check-", ignore_cleanup_errors=True) as place:
        places = [quote(f"hydra.{kind}.dir={place}") for kind in ("run", "sweep")]
        code = _run(line._replace(overrides=[*kept, *places, "hydra/launcher=basic", "hydra/sweeper=basic"]))
    if code == OK:
        print("ready:", shlex.join(["lightbed", "train", *(word for word in words if not word.startswith("images="))]))
    return code


def _run(line: "Line") -> int:
    from lightbed import faults, folders, preflight
    from lightbed.sweeps import resume

    folders.register(line.overrides, dry=not line.runs)
    failures: list[Failure] = []
    try:
        if line.runs:
            preflight.check(line)
        if line.runs and (sweep := resume.named(line)):
            resume.go_on(line, sweep)
            return OK
        with _hydra_arguments(line) as original:
            _compose_and_run(line, original, failures)
    except (UserError, RunError):
        raise
    except Exception as error:
        told = faults.explain(error, line)
        if told is not None:
            raise told from error
        traceback.print_exc()
        print(f"lightbed: {line.command} failed: {type(error).__name__}: {faults.one_line(error)}", file=sys.stderr)
        return FAILED
    finally:
        _summarise(line.command)
        folders.discard_empty()
    return max((_exit_code(failure.error) for failure in failures), key=lambda code: code == FAILED, default=OK)


def _compose_and_run(line: "Line", original: list[str], failures: list[Failure]) -> None:
    import hydra

    process = os.getpid()

    def task(cfg: "DictConfig") -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        sys.argv = original  # what Lightning starts again for further processes
        job = HydraConfig.get()
        try:
            return _function(line.command)(cfg)
        except Exception as error:
            folder = Path(job.runtime.output_dir)
            # Hydra's own sweeper only prints what a job raised; others count their jobs' failures, and launchers in
            # other processes hand them over
            if os.getpid() != process or not str(job.sweeper._target_).endswith(".BasicSweeper"):
                raise
            failures.append(Failure(error, folder.name if job.mode is RunMode.MULTIRUN else "", folder))
            _tell(line.command, failures[-1])
            return None

    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=line.command)(task)()


@contextmanager
def _hydra_arguments(line: "Line") -> Iterator[list[str]]:
    """`sys.argv` as Hydra reads it, and its errors raised instead of printed over many lines; gives the original."""
    original, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [original[0], *line.argv]
    try:
        yield original
    finally:
        sys.argv = original
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def _function(command: str) -> Callable[["DictConfig"], Any]:
    function: Callable[[DictConfig], Any] = getattr(importlib.import_module(f"lightbed.commands.{command}"), command)
    return function


def _exit_code(error: Exception) -> int:
    from lightbed import faults

    return FAILED if faults.users_mistake(error) is None else USAGE


def _tell(command: str, failure: Failure) -> None:
    """Say in one line what a job raised; its traceback stands in its log, or follows where there is none."""
    from lightbed import faults

    name = f"{failure.job}: " if failure.job else ""
    mistake = faults.users_mistake(failure.error)
    if mistake is not None:
        print(f"lightbed: {name}{faults.one_line(mistake)}", file=sys.stderr)
        return
    log = failure.folder / ("log.txt" if command != "check" else "")  # of a check nothing stays
    if not log.is_file() and not isinstance(failure.error, RunError):
        traceback.print_exception(failure.error)
    kind, reason = type(failure.error).__name__, faults.one_line(failure.error)
    where = f" (traceback in {log})" if log.is_file() else ""
    if isinstance(failure.error, RunError):
        print(f"lightbed: {name}{reason}", file=sys.stderr)
    else:
        print(f"lightbed: {name}{command} failed: {kind}: {reason}{where}", file=sys.stderr)


def _summarise(command: str) -> None:
    """After a multirun, the table over its jobs, if any finished."""
    from lightbed import folders

    sweep = folders.sweep_folder()
    if command == "train" and sweep is not None and any(sweep.glob("*/metrics.json")):
        importlib.import_module("lightbed.commands.report").summarise(sweep)


def _say(error: Exception) -> int:
    from lightbed import faults

    print(f"lightbed: {faults.one_line(error)}", file=sys.stderr)
    return USAGE
