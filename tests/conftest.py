"""What several test files share."""

from pathlib import Path

import pytest

from heterofl_core.folders import data_folder


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An outputs folder of the test's own, which does not exist yet."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of MNIST's Parquet files."""
    folder = data_folder() / "mnist"
    if not folder.is_dir():
        pytest.skip(f"MNIST's Parquet files are not in {folder}; HETEROFL_DATA names another mirror")
    return folder
