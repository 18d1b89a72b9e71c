"""Data sets are decoded once, and then mapped into memory from a cache, a file for each array."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from heterofl_core.errors import InputError
from heterofl_core.files import atomic
from heterofl_core.folders import cache_folder
from heterofl_core.provenance import hashed

CODE = hashed(("data", "parquet", "text"))
"""A hash of the modules that decode: a cache is of no use to others."""


def decoded(dataset: str, kind: type, decode: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a data set: from the cache, else decoded and kept there.

    Args:
        kind: the dataclass whose fields they are.
        decode: makes the arrays.

    Raises:
        InputError: a file of the cache is damaged, or cannot be written.
    """
    folder = cache_folder() / f"{dataset}_{CODE}"
    arrays = read_cache(folder, kind)
    if arrays is None:
        arrays = decode()
        write_cache(folder, arrays)
    return arrays


def write_cache(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Keeps decoded arrays, a file for each."""
    for name, array in arrays.items():
        with atomic(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def read_cache(folder: Path, kind: type) -> dict[str, np.ndarray] | None:
    """Maps arrays that were decoded before into memory, where all processes share them; never a pickle.

    Args:
        kind: the dataclass whose fields the folder must have.

    Returns:
        Arrays that cannot be written to; None if one is not there.

    Raises:
        InputError: a file is damaged.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in (folder / f"{field.name}.npy" for field in fields(kind)):
        try:
            arrays[path.stem] = np.lib.format.open_memmap(path, mode="r")  # of nothing but an .npy file
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"cached data {path} is damaged ({error}); delete it, and it is made anew"
            ) from error
    return arrays
