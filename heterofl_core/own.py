"""Bring your own: data sets and models that the study does not name; nothing here needs torch.

A data set `own-NAME` is a folder of that name in the data folder, with `train.parquet` and `test.parquet` in
Hugging Face's layout: a column `image` of encoded images, all of one size, and a column `label` of integers
from 0 on. A model `MODULE:CLASS` is a `SliceableModel` that Python can import.
"""

import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.folders import data_folder

DATASET = re.compile(r"own-[a-z0-9][a-z0-9-]*")
MODEL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_own_dataset(dataset: str) -> bool:
    """Whether a data set is somebody's own."""
    return bool(DATASET.fullmatch(dataset))


def is_own_model(arch: str) -> bool:
    """Whether an architecture is somebody's own."""
    return bool(MODEL.fullmatch(arch))


def parquet_files(dataset: str) -> tuple[Path, Path]:
    """The files of the training and of the test half of somebody's own data set.

    Raises:
        InputError: one is missing; the message says what to put where.
    """
    folder = data_folder() / dataset
    files = folder / "train.parquet", folder / "test.parquet"
    if not all(file.is_file() for file in files):
        raise InputError(
            f"dataset {dataset!r} is not in {folder}; put train.parquet and test.parquet (columns image, "
            f"label) into that folder, or set HETEROFL_DATA to the folder that holds {dataset}/"
        )
    return files


def fingerprints(dataset: str, arch: str) -> dict[str, str]:
    """What a record says about a data set and a model that are not the study's: SHA-256 digests, by file.

    Returns:
        Empty if both are the study's.

    Raises:
        InputError: a file of the data set is missing.
    """
    return of_dataset(dataset) | of_model(arch)


def of_dataset(dataset: str) -> dict[str, str]:
    """The digests of a data set's files; see `fingerprints`."""
    return digests(parquet_files(dataset), data_folder() / dataset) if is_own_dataset(dataset) else {}


def of_model(arch: str) -> dict[str, str]:
    """The digests of a model's module, or of all modules of its package, if found; see `fingerprints`."""
    if not is_own_model(arch):
        return {}
    package_or_module = re.split("[.:]", arch)[0]  # to find a module in a package would import that
    try:
        spec = importlib.util.find_spec(package_or_module)
    except ValueError:  # `__main__` of a notebook, which has no file
        spec = None
    if spec and spec.submodule_search_locations:
        folders = map(Path, spec.submodule_search_locations)
        return {
            name: its
            for folder in folders
            for name, its in digests(sorted(folder.rglob("*.py")), folder.parent).items()
        }
    if spec and spec.has_location and spec.origin:
        return digests([Path(spec.origin)], Path(spec.origin).parent)
    return {}


def digests(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, by its name from a folder on."""
    return {file.relative_to(folder).as_posix(): digest(file, file.stat().st_mtime_ns) for file in files}


@functools.cache
def digest(file: Path, changed: int) -> str:
    """The SHA-256 of a file that was last changed at some time; pages ask for it again and again."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def changed_files(record: Mapping[str, Any]) -> list[str]:
    """The names of somebody's own files that are others now than when a run was recorded; nothing is known of
    files that are not here.
    """
    if not record.get("own"):
        return []
    now = known_fingerprints(record["params"]["dataset"], record["params"]["arch"])
    return [name for name, then in record["own"].items() if now.get(name, then) != then]


def known_fingerprints(dataset: str, arch: str) -> dict[str, str]:
    """The same as `fingerprints`, without those of a data set that is not here."""
    found = of_model(arch)
    with suppress(InputError):
        found |= of_dataset(dataset)
    return found
