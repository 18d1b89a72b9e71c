"""One process at a time: locks that the system releases when their holder dies, however it dies."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from heterofl_core.errors import InputError
from heterofl_core.folders import outputs_folder

AN_ASKER = 0.2
"""Seconds in which somebody who only asks (`is_locked`) is gone again."""


def lock_path(name: str, folder: Path | None = None) -> Path:
    """The file that is locked; it stays when nobody holds it."""
    return (folder or outputs_folder()) / "locks" / name


@contextmanager
def locked(name: str, folder: Path | None = None) -> Iterator[None]:
    """Holds the lock of a run, or of anything else that has a name, as long as the block lasts; waits until
    another process lets go of it, and says so.

    Args:
        folder: with what is locked; the outputs folder unless given.

    Raises:
        InputError: the folder cannot be written.
    """
    path = lock_path(name, folder)
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=AN_ASKER, poll_interval=0.01)
        except Timeout:
            print(f"another process works on {name}; waiting for it", flush=True)
            lock.acquire(poll_interval=1)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(name: str, folder: Path | None = None) -> bool:
    """Whether a process holds the lock. Who asks shares it for a moment with all who ask, and so is not taken
    for its holder.

    Args:
        folder: see `locked`.
    """
    try:
        with lock_path(name, folder).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # never taken, or in a folder without locks
        return False
    return False
