"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from heterofl_core.errors import InputError
from heterofl_core.files import atomic, write_text


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
