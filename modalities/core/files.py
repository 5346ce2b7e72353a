"""Writing so that a kill at any instant leaves either the old file or the new one, never half of one."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modalities.core.errors import PcsError, RunFailed

# Characters of a name that is made from a text.
LONGEST_NAME = 60
LOCK = ".lock"


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is synced and renamed over `path`.

    The temporary name keeps the suffix of `path`, so that writers which choose a format by suffix work.

    Raises:
        RunFailed: the disk is full or the folder is read-only.
    """
    # Cut, so that a name as long as may be leaves room.
    temporary = path.with_name(f".{path.stem[:40]}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically; bytes of file names that are none become JSON's `\\udcXX`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        PcsError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PcsError(f"{path}: cannot be read ({error}).") from error


def read_record(path: Path, version: int) -> dict[str, Any]:
    """Read a JSON object that names the version of its format.

    Raises:
        PcsError: it cannot be read, or is of another version.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != version:
        raise PcsError(f"{path}: was written by another version of pcs; install the one it names.")
    return record


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return PcsError(f"{path}: cannot be written, a file or a folder is in its way; choose another --out.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailed(f"{path}: the disk is full; free some space and run the same command with --resume.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return RunFailed(f"{path}: cannot be written ({error.strerror}); choose another --out.")
    return error


def require_writable(folder: Path, megabytes: float) -> None:
    """Check before any work that `folder` can be made, takes a file, and has `megabytes` (10^6 bytes) free.

    Raises:
        PcsError: it cannot, does not, or has not.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise PcsError(f"{existing}: is a file, so {folder} cannot be a folder; choose another --out.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise PcsError(f"{existing}: cannot be written ({error.strerror}); choose another --out.") from error
    free = shutil.disk_usage(existing).free / 1e6
    if free < megabytes:
        raise PcsError(
            f"{existing}: {free:.0f} MB free, about {megabytes:.0f} MB needed; free some space or choose another --out."
        )


@contextmanager
def lock(folder: Path) -> Generator[None]:
    """Hold the run folder `folder` for this process; the lock goes with the process, even when it is killed.

    Raises:
        PcsError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            owner = held.read().strip() or "unknown"
            raise PcsError(
                f"{folder}: another run (process {owner}) is working here; wait for it or choose another --out."
            ) from None
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


def slug(text: str) -> str:
    """A file name that still reads like the text; where more than spaces is left out it ends in a hash of the whole."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if plain and len(plain) <= LONGEST_NAME and re.fullmatch(r"[\w <>{}/.-]*", text, re.ASCII):
        return plain
    told = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{plain[:LONGEST_NAME].strip('-') or 'image'}-{told}"


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
