"""Reading Parquet files."""

from pathlib import Path

import pandas as pd

from heterofl_core.errors import InputError


def read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    """Reads some columns of a Parquet file.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.exists():
        raise InputError(f"data file {path} is missing; put it there")
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's errors are among these
        raise InputError(f"data file {path} is damaged ({error}); fetch it again") from error
