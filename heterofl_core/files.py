"""Writing files so that no reader ever sees half of one."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heterofl_core.errors import InputError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it to `path` if the block succeeds.

    The folder is made if it is missing. If the block fails, the temporary file is removed and what
    stood at `path` before stays as it was.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's files are private; results are for everybody
        to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A new, empty file for what will stand at `path`, in the same folder, which is made if it is missing.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=leftover(path), suffix=path.suffix)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    return Path(name)


def leftover(path: Path) -> str:
    """What the names of the temporary files beside `path` begin with."""
    return f".{path.name}."


def to_disk(path: Path) -> None:
    """Waits until a file's content would survive a power failure: a rename may reach the disk before it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def written_at(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None if there is none, or no longer."""
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def sweep(path: Path) -> None:
    """Removes the temporary files that writers of `path` left when they were killed.

    Only for who holds the lock on `path`: a file of a writer at work would vanish, too.
    """
    for temporary in path.parent.glob(f"{leftover(path)}*"):
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` atomically, as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
