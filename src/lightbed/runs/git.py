"""The checkout that a run is started in; nothing here needs torch."""

import os
import subprocess
from pathlib import Path
from typing import Any

_LARGEST = 1_000_000  # bytes of an uncommitted new file that is kept


def git_state() -> tuple[dict[str, Any] | None, bytes]:
    """Commit of the working directory's checkout and whether it is changed; and the difference, for `git apply`.

    None where the working directory is no checkout. The difference is that of tracked files, and Python and YAML files
    that are not tracked yet: a model of one's own is often one of those.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None, b""
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
    diff = _git("diff", *plain, "HEAD") or b""
    top = Path(os.fsdecode((_git("rev-parse", "--show-toplevel") or b".").removesuffix(b"\n")))
    new = _git("ls-files", "-z", "--others", "--exclude-standard", "--", "*.py", "*.yaml", "*.yml", folder=top) or b""
    for name in map(os.fsdecode, new.split(b"\0")[:-1]):
        path = top / name
        if path.is_file() and path.stat().st_size <= _LARGEST:
            diff += _git("diff", *plain, "--no-index", "--", os.devnull, name, folder=top) or b""
    return {"commit": os.fsdecode(commit).strip(), "changed": bool(diff)}, diff


def _git(*arguments: str, folder: Path | None = None) -> bytes | None:
    try:
        words = ["git", "--no-optional-locks", *arguments]
        done = subprocess.run(words, capture_output=True, timeout=10, check=False, cwd=folder)
    except (OSError, subprocess.SubprocessError):
        return None
    # a difference between two files ends with 1
    return done.stdout if done.returncode == 0 or (done.returncode == 1 and "--no-index" in arguments) else None
