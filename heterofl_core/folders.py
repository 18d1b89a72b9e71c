"""Where things lie: parameters, data and outputs."""

import os
import stat
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params"
BOOK = ROOT / "book"
if not PARAMS.is_dir():
    raise ImportError(
        f"heterofl_core is used from its checkout, where params/ stands beside it, but {ROOT} has none; "
        "install it from there with: pip install --editable ."
    )
VARIABLES = ("HETEROFL_DATA", "HETEROFL_OUTPUTS")
"""The environment's variables that name folders."""


def fix_folders() -> None:
    """Makes the folders that the environment names absolute: processes that it starts may stand elsewhere."""
    for name in VARIABLES:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())


def outputs_folder() -> Path:
    """The folder for runs and results: `HETEROFL_OUTPUTS`, else `outputs/` of this checkout."""
    return Path(os.environ.get("HETEROFL_OUTPUTS") or ROOT / "outputs")


def bench_folder() -> Path:
    """The folder for what benchmarks measure."""
    return outputs_folder() / "bench"


def data_folder() -> Path:
    """The folder for data sets: `HETEROFL_DATA`, else `data/` of this checkout."""
    return Path(os.environ.get("HETEROFL_DATA") or ROOT / "data")


def cache_folder() -> Path:
    """The folder for decoded data, built programs and timings: `cache/` in the data folder, or in this
    checkout's `data/` when the data folder is a mirror that its permissions protect from writing (even from
    root), or somebody else's.
    """
    folder = data_folder()
    if folder.is_dir() and not (folder.stat().st_mode & stat.S_IWUSR and os.access(folder, os.W_OK)):
        folder = ROOT / "data"
    return folder / "cache"
