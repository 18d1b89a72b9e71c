"""WikiText2: words numbered by hand, the known sizes, and one sentence when the text cannot be had."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heterofl_core import folders
from heterofl_core.decoded import CODE
from heterofl_core.errors import InputError
from heterofl_core.params import SEQUENCE_LENGTH
from heterofl_core.text import Text, in_rows, load_text

TRAIN = ["", " = The cat = \n", " the cat  saw the dog \n"]
TEST = ["the bird saw the cat", "a dog"]
WORDS = ["<eos>", "=", "The", "cat", "the", "saw", "dog"]  # in the order of their first appearance
CACHED = ["num_tokens.npy", "test.npy", "train.npy"]
"""The files of a cache, by name."""
TRAIN_NUMBERS = [0, 1, 2, 3, 1, 0, 4, 3, 5, 4, 6, 0]
TEST_NUMBERS = [4, 7, 5, 4, 3, 0, 7, 6, 0]  # 7 is unknown


def write(folder: Path, half: str, lines: pa.Array, column: str = "text") -> Path:
    """A file in Hugging Face's layout."""
    path = folder / "wikitext2" / f"{half}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: lines}), path)
    return path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def folder(empty: Path) -> Path:
    """A data folder that holds `TRAIN` and `TEST`."""
    write(empty, "train", pa.array(TRAIN))
    write(empty, "test", pa.array(TEST))
    return empty


def refused() -> str:
    """The sentence with which loading fails."""
    with pytest.raises(InputError) as failure:
        load_text()
    assert "\n" not in str(failure.value)
    return str(failure.value)


# Numbers of words


@pytest.mark.usefixtures("folder")
def test_words_are_numbered_as_they_appear_and_unknown_ones_get_the_last_number() -> None:
    text = load_text()
    assert text.train.tolist() == TRAIN_NUMBERS
    assert text.test.tolist() == TEST_NUMBERS
    assert text.num_tokens == len(WORDS) + 1
    assert text.train.dtype == text.test.dtype == np.int64


def test_a_cached_text_is_the_same_and_needs_no_mirror(folder: Path) -> None:
    first = load_text()
    for path in (folder / "wikitext2").iterdir():
        path.unlink()
    second = load_text()
    assert second.train.tolist() == first.train.tolist()
    assert second.test.tolist() == first.test.tolist()
    assert (second.num_tokens, type(second.num_tokens)) == (first.num_tokens, int)
    assert second.train.dtype == first.train.dtype
    assert [path.name for path in (folder / "cache").iterdir()] == [f"wikitext2_{CODE}"]
    assert sorted(path.name for path in (folder / "cache" / f"wikitext2_{CODE}").iterdir()) == CACHED


@pytest.mark.usefixtures("folder")
def test_a_cached_text_is_mapped_into_memory_and_cannot_be_written_to() -> None:
    load_text()
    text = load_text()
    for tokens in (text.train, text.test):
        assert isinstance(tokens, np.memmap)
        assert tokens.mode == "r"
        with pytest.raises(ValueError, match="read-only"):
            tokens[0] = 0


@pytest.mark.parametrize("lacking", CACHED)
def test_a_cache_that_lacks_a_file_is_made_anew(folder: Path, lacking: str) -> None:
    """As one whose writer was killed between two files."""
    load_text()
    (folder / "cache" / f"wikitext2_{CODE}" / lacking).unlink()
    text = load_text()
    assert (text.train.tolist(), text.test.tolist()) == (TRAIN_NUMBERS, TEST_NUMBERS)
    assert sorted(path.name for path in (folder / "cache" / f"wikitext2_{CODE}").iterdir()) == CACHED


def test_a_read_only_mirror_is_not_written_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o555)
    monkeypatch.setattr(folders, "ROOT", folder / "wikitext2")
    load_text()
    assert not (folder / "cache").exists()
    cache = folder / "wikitext2" / "data" / "cache" / f"wikitext2_{CODE}"
    assert sorted(path.name for path in cache.iterdir()) == CACHED


# The real text


@pytest.fixture(scope="module")
def real(wikitext2: Path, tmp_path_factory: pytest.TempPathFactory) -> Text:
    """WikiText2 from the mirror."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("HETEROFL_DATA", str(folder))
        (folder / "wikitext2").symlink_to(wikitext2.resolve())
        return load_text()


def test_wikitext2_has_its_known_sizes(real: Text) -> None:
    assert (len(real.train), len(real.test), real.num_tokens) == (2_088_628, 245_569, 33_279)


def test_every_word_of_wikitext2_but_the_unknown_one_is_in_the_training_text(real: Text) -> None:
    assert np.unique(real.train).tolist() == list(range(33_278))
    first = np.unique(real.train, return_index=True)[1]
    assert (np.diff(first) > 0).all()  # numbered in the order of their first appearance
    assert real.test.max() < 33_278  # its rare words were replaced by <unk>, a word like any other


def test_wikitext2_has_as_many_line_ends_as_lines(real: Text, wikitext2: Path) -> None:
    end = real.train[0]  # the first line is empty
    for half, numbers in (("train", real.train), ("test", real.test)):
        lines = pq.read_metadata(wikitext2 / f"{half}-00000-of-00001.parquet").num_rows
        assert (numbers == end).sum() == lines


# Rows


def test_text_is_cut_into_rows_and_the_rest_is_dropped() -> None:
    assert in_rows(np.arange(11), 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert in_rows(np.arange(6), 6).tolist() == [[0], [1], [2], [3], [4], [5]]
    assert in_rows(np.arange(11), 11).tolist() == [[number] for number in range(11)]
    assert in_rows(np.arange(4), 1).tolist() == [[0, 1, 2, 3]]


def test_wikitext2_makes_a_hundred_rows_of_326_windows_and_a_rest(real: Text) -> None:
    assert in_rows(real.train, 100).shape == (100, 20_886)
    assert divmod(20_886, SEQUENCE_LENGTH) == (326, 22)


def test_more_rows_than_tokens_are_refused() -> None:
    with pytest.raises(InputError) as failure:
        in_rows(np.arange(11), 12)
    assert str(failure.value) == "11 tokens are too few for 12 rows of text; allowed is one a row or more"


# What cannot be read


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_file_is_named_with_what_to_put_where(folder: Path, missing: str) -> None:
    path = folder / "wikitext2" / f"{missing}-00000-of-00001.parquet"
    path.unlink()
    assert refused() == (
        f"data file {path} is missing; put WikiText2's train-00000-of-00001.parquet and "
        "test-00000-of-00001.parquet (column text) there, or set HETEROFL_DATA to the folder that holds "
        "wikitext2/"
    )
    assert not (folder / "cache").exists()


def test_without_a_mirror_the_first_file_is_asked_for(empty: Path) -> None:
    path = empty / "wikitext2" / "train-00000-of-00001.parquet"
    assert refused().startswith(f"data file {path} is missing; put WikiText2's train-")


@pytest.mark.parametrize("half", ["train", "test"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "no parquet", "another column"])
def test_a_damaged_file_is_named_in_one_sentence(folder: Path, half: str, damage: str) -> None:
    path = folder / "wikitext2" / f"{half}-00000-of-00001.parquet"
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-20])
        case "no parquet":
            path.write_bytes(b"0123456789" * 10)
        case "another column":
            write(folder, half, pa.array(TRAIN), column="line")
    answer = refused()
    assert answer.startswith(f"data file {path} is damaged (")
    assert answer.endswith("); fetch it again")
    assert not (folder / "cache").exists()


NO_UTF_8 = pa.array([b"a caf\xe9 in Latin-1", b"and a line"])


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(NO_UTF_8.view(pa.string()), id="text that is no UTF-8"),
        pytest.param(NO_UTF_8, id="bytes"),
        pytest.param(pa.array([1, 2]), id="numbers"),
        pytest.param(pa.array(["a line", None]), id="no line"),
    ],
)
@pytest.mark.parametrize("half", ["train", "test"])
def test_lines_that_are_no_utf_8_text_are_refused(folder: Path, half: str, lines: pa.Array) -> None:
    path = write(folder, half, lines)
    assert refused() == f"data file {path} is damaged (its lines are no UTF-8 text); fetch it again"
    assert not (folder / "cache").exists()


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("damage", ["empty", "truncated", "no array", "a pickle", "pickled objects"])
def test_a_damaged_cache_is_named_with_what_to_do(folder: Path, name: str, damage: str) -> None:
    load_text()
    path = folder / "cache" / f"wikitext2_{CODE}" / name
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-1])
        case "no array":
            path.write_bytes(b"0123456789" * 10)
        case "a pickle":
            path.write_bytes(pickle.dumps(np.arange(3)))
        case "pickled objects":
            np.save(path, np.array([{}], dtype=object))
    damaged = path.read_bytes()
    answer = refused()
    assert answer.startswith(f"cached data {path} is damaged (")
    assert answer.endswith("); delete it, and it is made anew")
    assert path.read_bytes() == damaged
