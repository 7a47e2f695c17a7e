"""Downloads with a checksum, whole or not at all."""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

from lightbed.data.bar import bar
from lightbed.errors import UserError

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


class File(NamedTuple):
    """A published file: name, MD5 or SHA-256 sum (as published), and addresses, of which the first good one serves."""

    name: str
    checksum: str  # hexadecimal; its length tells which
    urls: list[str]


def fetch(file: File, folder: Path) -> Path:
    """Download `file` into `folder` and return its path; a file that is there with the right sum is left alone.

    It is written beside its place and renamed when its sum is right, so that a killed download leaves nothing behind
    that looks whole.

    Raises:
        UserError: no address answers, the sum is wrong, or the folder cannot be written.
    """
    target = folder / file.name
    if target.is_file() and checksum(target, file.checksum) == file.checksum:
        return target
    partial = folder / f".{file.name}.{os.getpid()}.part"
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for url in file.urls:
            failure = _download(url, partial, file)
            if failure is None:
                partial.replace(target)
                return target
            failures.append(failure)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; set paths.data to a folder of yours") from error
    finally:
        if folder.is_dir():
            partial.unlink(missing_ok=True)
    reason = "; ".join(dict.fromkeys(failures))
    raise UserError(
        f"cannot download {file.name} ({reason}); put it into {folder} or set paths.data to where the data is"
    )


def _download(url: str, partial: Path, file: File) -> str | None:
    """Download one address to `partial`; returns why it is no good, or None. Faults in writing are raised."""
    try:
        answer = urllib.request.urlopen(url, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{url}: {_reason(error)}"
    with answer, partial.open("wb") as out:
        size = int(answer.headers.get("Content-Length") or 0)
        with bar(f"downloading {file.name}", size or None) as advance:
            while True:
                try:
                    chunk = answer.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    return f"{url} broke off: {_reason(error)}"
                if not chunk:
                    break
                out.write(chunk)
                advance(len(chunk))
        if out.tell() < size:
            return f"{url} broke off after {out.tell():,} of {size:,} bytes"
    found = checksum(partial, file.checksum)
    kind = "MD5" if len(file.checksum) == 32 else "SHA-256"
    return None if found == file.checksum else f"{url} has {kind} {found}, not {file.checksum}"


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def checksum(path: Path, like: str) -> str:
    """The file's sum of the kind that `like` is, hexadecimal: MD5 of 32 digits or SHA-256 of 64."""
    with path.open("rb") as file:
        if len(like) == 32:  # against damage, not against malice
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip file as `folder`, which appears when it is whole.

    Raises:
        UserError: the archive is damaged or the folder cannot be written.
    """
    part = None
    try:
        part = Path(tempfile.mkdtemp(".part", f".{folder.name}.", folder.parent))
        with zipfile.ZipFile(archive) as content:
            content.extractall(part)
        part.chmod(0o755)  # temporary folders are closed to others
        part.rename(folder)
    except (OSError, zipfile.BadZipFile) as error:
        if folder.is_dir():  # another process was faster
            return
        raise UserError(f"cannot unpack {archive} into {folder}: {error}") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
