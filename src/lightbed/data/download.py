"""Downloads with a checksum, whole or not at all."""

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from lightbed.errors import UserError

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


class File(NamedTuple):
    """A published file: its name, MD5 sum (as the publishers state it) and addresses, the first that answers is used."""

    name: str
    md5: str
    urls: list[str]


def fetch(file: File, folder: Path) -> Path:
    """Download `file` into `folder` and return its path; a file that is there with the right sum is left alone.

    It is written beside its place and renamed when its sum is right, so that a killed download leaves nothing behind
    that looks whole.

    Raises:
        UserError: no address answers, the sum is wrong, or the folder cannot be written.
    """
    target = folder / file.name
    if target.is_file() and md5(target) == file.md5:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        failures = []
        for url in file.urls:
            failure = _try(url, target, file.md5)
            if failure is None:
                return target
            failures.append(failure)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; set paths.data to a folder of yours") from error
    reason = "; ".join(dict.fromkeys(failures))
    raise UserError(
        f"cannot download {file.name} ({reason}); put it into {folder} or set paths.data to where the data is"
    )


def _try(url: str, target: Path, expected: str) -> str | None:
    """Download one address to `target`; returns why it failed, or None."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, partial.open("wb") as out:
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
        if (found := md5(partial)) != expected:
            return f"{url} has MD5 {found}, not {expected}"
        partial.replace(target)
        return None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        return f"{url}: {getattr(error, 'reason', error)}"
    finally:
        partial.unlink(missing_ok=True)


def md5(path: Path) -> str:
    """The file's MD5 sum, hexadecimal; a checksum against damage, not against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
