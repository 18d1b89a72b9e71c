"""What several test files share."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from built_book import build_site
from hypothesis import settings

from heterofl_core.cost import Cost
from heterofl_core.folders import data_folder
from heterofl_core.locks import locked
from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import write_run

OTHERS = "all other files"
ORDER = (
    "test_book",
    "test_course",
    "test_profiles",
    "test_compiled",
    "test_browser",
    "test_end_to_end",
    "test_disasters",
    "test_notebooks",
    "test_runs",
    "test_engines",
    "test_vectorised",
    OTHERS,
    "test_backends",
    "test_language",
    "test_federation",
    "test_flower",
)
"""In which files are begun: the longest first, so that no process waits for one of them at the end. Ray, of
the backends, gives up if it has not started within 30 seconds: it starts when little else is left to do.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Brings the files into their order."""
    place = {name: number for number, name in enumerate(ORDER)}
    items.sort(key=lambda item: place.get(item.path.stem, place[OTHERS]))


settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")  # machines are busy; how long an example takes says nothing of the code


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An outputs folder of the test's own, which does not exist yet."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(folder))
    return folder


@pytest.fixture
def finish(outputs: Path) -> Callable[..., None]:
    """Writes the record of a run, from the curve of each of its metrics and from its settings."""

    def write(curve: Mapping[str, list[float]], **settings: Any) -> None:
        params = run_params(**settings)
        rounds = pd.DataFrame({"round": range(1, 1 + len(next(iter(curve.values())))), **curve})
        metrics = {f"best_{name}": max(values) for name, values in curve.items()}
        metrics |= {f"final_{name}": values[-1] for name, values in curve.items()}
        record = {
            "run_id": params.run_id,
            "params": params.model_dump(mode="json"),
            "metrics": metrics,
            "cost": vars(Cost(1, 1, 1, 1, 1.0)),
            "code_hash": code_hash(),
            "git_dirty": False,
        }
        write_run(record, rounds)

    return write


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book's pages: built by the first process that asks, for all processes of a test run."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    site = shared / "site"
    with locked("site", folder=shared):
        if not site.exists():
            site.symlink_to(build_site(tmp_path_factory.mktemp("checkout")))
    return site


def mirrored(name: str) -> Path:
    """The folder of a data set's Parquet files; skips the test where they are not."""
    folder = data_folder() / name
    if not folder.is_dir():
        pytest.skip(f"the Parquet files of {name} are not in {folder}; HETEROFL_DATA names another mirror")
    return folder


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of MNIST's Parquet files."""
    return mirrored("mnist")


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """The folder of CIFAR10's Parquet files."""
    return mirrored("cifar10")


@pytest.fixture(scope="session")
def wikitext2() -> Path:
    """The folder of WikiText2's Parquet files."""
    return mirrored("wikitext2")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small models are slower on several threads, the more so on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def in_double() -> Iterator[None]:
    """New tensors and models are in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
