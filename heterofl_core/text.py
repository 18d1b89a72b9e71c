"""WikiText2 as numbered tokens."""

from dataclasses import dataclass

import numpy as np

from heterofl_core.decoded import decoded
from heterofl_core.errors import InputError
from heterofl_core.folders import data_folder
from heterofl_core.parquet import read_parquet

END_OF_LINE = "<eos>"


@dataclass(frozen=True)
class Text:
    """Running text as numbers of tokens.

    The vocabulary holds the tokens of the training text in the order of their first appearance, and behind
    them one that stands for every token of the test text that the training text lacks.

    Attributes:
        train, test: shape (tokens,).
        num_tokens: size of the vocabulary; its last entry is the unknown token.
    """

    train: np.ndarray
    test: np.ndarray
    num_tokens: int


def load_text() -> Text:
    """Loads WikiText2: from the cache, else from the mirror.

    Raises:
        InputError: a file is missing or damaged; the message says exactly what to put where.
    """
    arrays = decoded("wikitext2", Text, numbered)
    return Text(arrays["train"], arrays["test"], int(arrays["num_tokens"]))


def numbered() -> dict[str, np.ndarray]:
    """The fields of `Text`, from the mirror."""
    train, test = read_words("train"), read_words("test")
    numbers = {word: number for number, word in enumerate(dict.fromkeys(train))}
    unknown = len(numbers)
    return {
        "train": np.array([numbers[word] for word in train]),
        "test": np.array([numbers.get(word, unknown) for word in test]),
        "num_tokens": np.array(unknown + 1),
    }


def read_words(half: str) -> list[str]:
    """The words of `train` or `test`, with a mark at the end of each line.

    Raises:
        InputError: the file is missing or damaged, or its text is not UTF-8.
    """
    import pyarrow as pa

    path = data_folder() / "wikitext2" / f"{half}-00000-of-00001.parquet"
    if not path.exists():
        raise InputError(
            f"data file {path} is missing; put WikiText2's train-00000-of-00001.parquet and "
            "test-00000-of-00001.parquet (column text) there, or set HETEROFL_DATA to the folder that holds "
            "wikitext2/"
        )
    table = read_parquet(path, ["text"])
    try:
        lines = table["text"].tolist()
    except (ValueError, pa.ArrowException):  # bytes that are no UTF-8
        lines = [None]
    if not all(isinstance(line, str) for line in lines):  # no text at all, or bytes of whatever encoding
        raise InputError(f"data file {path} is damaged (its lines are no UTF-8 text); fetch it again")
    return [word for line in lines for word in [*line.split(), END_OF_LINE]]


def in_rows(tokens: np.ndarray, rows: int) -> np.ndarray:
    """Cuts running text into rows of equal length; a rest that fills no column is dropped.

    Returns:
        Shape (rows, len(tokens) // rows).

    Raises:
        InputError: there are fewer tokens than rows.
    """
    length = len(tokens) // rows
    if length == 0:
        raise InputError(
            f"{len(tokens)} tokens are too few for {rows} rows of text; allowed is one a row or more"
        )
    return tokens[: rows * length].reshape(rows, length)
