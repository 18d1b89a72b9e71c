"""Files appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from heterofl_core.errors import InputError
from heterofl_core.files import NO_SPACE, atomic, sweep, write_text


def test_a_file_is_there_with_all_its_content_and_readable_by_everybody(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "table.csv"
    write_text(path, "Ratio ½\n")
    assert path.read_bytes() == "Ratio ½\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_the_new_content_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert (temporary.parent, temporary.suffix) == (path.parent, path.suffix)
    assert path.read_text() == "new"


def write_half(path: Path, interruption: BaseException) -> None:
    with atomic(path) as temporary:
        temporary.write_text("half")
        raise interruption


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path, interruption: type[BaseException]) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(interruption):
        write_half(path, interruption())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "table.csv", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["table.csv", "folder/table.csv"])
def test_a_file_in_the_folders_place_is_reported(tmp_path: Path, below: str) -> None:
    in_the_way = tmp_path / "outputs"
    in_the_way.write_text("a file")
    with pytest.raises(
        InputError, match=f"^cannot write {in_the_way / below}: (File exists|Not a directory)$"
    ):
        write_text(in_the_way / below, "text")
    assert in_the_way.read_text() == "a file"


# A disk without room


@pytest.mark.parametrize("number", NO_SPACE)
def test_a_full_disk_or_quota_is_named_and_leaves_what_was_there(tmp_path: Path, number: int) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(InputError) as failure:
        write_half(path, OSError(number, os.strerror(number)))
    assert str(failure.value) == f"cannot write {path}: {os.strerror(number)}"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_has_no_room_when_the_content_goes_to_it_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing is put off, the last chance to hear of it."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "table.csv"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=f"^cannot write {path}: No space left on device$"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_that_has_nothing_to_do_with_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        write_half(tmp_path / "table.csv", FileNotFoundError(errno.ENOENT, "elsewhere"))
    assert list(tmp_path.iterdir()) == []


def test_all_the_content_is_on_the_disk_before_the_file_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    written: list[str] = []

    def fsync(handle: int) -> None:
        assert not path.exists()
        written.append(Path(f"/proc/self/fd/{handle}").read_text())

    monkeypatch.setattr("os.fsync", fsync)
    write_text(path, "new")
    assert written == ["new"]
    assert path.read_text() == "new"


# What a killed process leaves

KILLED = """
import os, signal, sys
from pathlib import Path
from heterofl_core.files import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.read_text() == "half"
    others = [tmp_path / name for name in (".gitkeep", ".table.csvx", "table.csv.old", ".other.csv.abc.csv")]
    for other in others:
        other.touch()
    sweep(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
    assert path.read_text() == "old"


def test_there_may_be_nothing_to_sweep_not_even_a_folder(tmp_path: Path) -> None:
    sweep(tmp_path / "nowhere" / "table.csv")
    assert list(tmp_path.iterdir()) == []
