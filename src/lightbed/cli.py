"""`lightbed COMMAND [key=value ...]`: takes the command and lets Hydra compose its config.

Nothing heavy is imported here: help, completion and `--cfg job` answer before torch could be loaded. A command's own
module is imported when its config stands.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightbed.errors import UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMANDS = {
    "train": "train a model, test its best checkpoint, draw pictures",
    "test": "evaluate a run or checkpoint, also on another data set",
    "predict": "what a run sees in images: JSON lines and drawn pictures",
    "report": "one table and plots over many runs",
}
OK, FAILED, USAGE = 0, 1, 2


def conf_dir() -> Path:
    """The folder of configs: inside the package where it is installed, at the top of the tree where it is edited."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `lightbed` script; returns the exit code (0 done, 1 a run failed, 2 wrong usage or data)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(arguments)
    except UserError as error:
        return _say(error)
    except KeyboardInterrupt:
        print("lightbed: interrupted", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    from lightbed import help as texts

    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(texts.overview(COMMANDS))
        return OK if arguments else USAGE
    if arguments[0] == "--version":
        from lightbed import __version__

        print(f"lightbed {__version__}")
        return OK
    if arguments[0] in ("-sc", "--shell-completion"):
        return texts.complete(arguments, list(COMMANDS))
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise UserError(f"there is no command '{command}': {nearest(command, list(COMMANDS))} See lightbed --help")
    if "--help" in rest or "-h" in rest:
        print(texts.command(command, COMMANDS[command], conf_dir()))
        return OK
    return run_hydra(command, rest)


def run_hydra(command: str, overrides: list[str]) -> int:
    """Compose `command`'s config with `overrides` and run it, once or as a multirun; returns the exit code."""
    import hydra

    from lightbed import faults, folders

    folders.register(overrides)
    original = sys.argv
    result: dict[str, Any] = {}

    def task(cfg: "DictConfig") -> Any:
        sys.argv = original  # what Lightning starts again for further processes
        result["value"] = _function(command)(cfg)
        return result["value"]

    # Hydra then raises instead of printing its own many-line report, and the faults are told here
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [original[0], *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(task)()
    except UserError:
        raise
    except Exception as error:
        told = faults.explain(error, command, overrides, conf_dir())
        if told is not None:
            raise told from error
        traceback.print_exc()
        print(f"lightbed: {command} failed: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    finally:
        sys.argv = original
    sweep = folders.sweep_folder()
    if sweep is not None and command == "train":
        importlib.import_module("lightbed.commands.report").summarise(sweep)
    return OK


def _function(command: str) -> Callable[["DictConfig"], Any]:
    function: Callable[[DictConfig], Any] = getattr(importlib.import_module(f"lightbed.commands.{command}"), command)
    return function


def _say(error: Exception) -> int:
    from lightbed import faults

    print(f"lightbed: {faults.one_line(error)}", file=sys.stderr)
    return USAGE
