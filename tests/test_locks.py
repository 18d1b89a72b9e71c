"""Locks: one process at a time, and free again however their holder ends."""

import fcntl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from heterofl_core.errors import InputError
from heterofl_core.locks import is_locked, lock_path, locked

HOLD = """
import sys, time
from heterofl_core.locks import locked
with locked("one"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(outputs: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock "one" until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_nobody_holds_a_lock_that_was_never_taken(outputs: Path) -> None:
    assert not is_locked("one")
    assert not lock_path("one").exists()


def test_a_lock_lies_in_the_folder_of_what_is_locked(outputs: Path, tmp_path: Path) -> None:
    with locked("one", folder=tmp_path):
        assert is_locked("one", tmp_path)
        assert not is_locked("one")  # it is another lock
    assert lock_path("one", tmp_path) == tmp_path / "locks" / "one"
    assert lock_path("one", tmp_path).exists()


def test_a_lock_is_held_as_long_as_its_block(outputs: Path) -> None:
    with locked("one"):
        assert is_locked("one")
        assert not is_locked("two")
    assert not is_locked("one")


def test_who_only_asks_is_not_taken_for_a_holder(outputs: Path) -> None:
    with locked("one"):
        pass
    with lock_path("one").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as somebody else who asks
        assert not is_locked("one")


def test_who_meets_somebody_that_only_asks_says_nothing(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked("one"):
        pass
    with lock_path("one").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with locked("one"):
            assert capsys.readouterr().out == ""


def test_who_waits_says_so_and_gets_the_lock_when_its_holder_is_done(
    holder: subprocess.Popen[str], capfd: pytest.CaptureFixture[str]
) -> None:
    waiter = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == b"another process works on one; waiting for it\n"
    assert waiter.poll() is None
    holder.communicate("")
    assert waiter.communicate()[0] == b"held\n"
    assert waiter.returncode == 0


def test_sigkill_frees_a_lock(holder: subprocess.Popen[str]) -> None:
    assert is_locked("one")
    holder.kill()
    holder.wait()
    assert not is_locked("one")


def test_an_error_in_the_block_frees_the_lock_and_is_raised(outputs: Path) -> None:
    def fail() -> None:
        with locked("one"):
            raise OSError(2, "of the block")

    with pytest.raises(OSError, match="of the block"):
        fail()
    assert not is_locked("one")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs").write_text("a file in the folder's place")
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(tmp_path / "outputs"))
    with pytest.raises(InputError, match=r"cannot write .*/outputs/locks/one: "), locked("one"):
        pass
    assert not is_locked("one")
