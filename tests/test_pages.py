"""Executed notebooks as pages of the book."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from heterofl_core import pages
from heterofl_core.params import run_params
from heterofl_core.records import executed_path, write_run

PARAMS = run_params(dataset="digits", levels="e")


@pytest.fixture(autouse=True)
def book(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of the test's own, beside an outputs folder of its own."""
    monkeypatch.setattr(pages, "BOOK", tmp_path / "book")
    return tmp_path / "book"


def write_notebook(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [nbformat.v4.new_markdown_cell("# MNIST\n\nThe question."), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def write_record() -> None:
    params = PARAMS.model_dump(mode="json")
    write_run({"run_id": PARAMS.run_id, "params": params}, pd.DataFrame({"round": [1]}))


def test_a_page_has_the_title_of_its_run(book: Path) -> None:
    write_record()
    write_notebook(executed_path(PARAMS.run_id))
    (page,) = pages.copy_pages()
    assert page == book / "executed" / f"{PARAMS.run_id}.ipynb"
    cells = nbformat.read(page, as_version=4).cells
    assert cells[0].source == "# Digits, IID, levels e (fix), 40 rounds\n\nThe question."
    assert cells[1].source == "1 + 1"


def test_a_run_without_a_notebook_has_no_page() -> None:
    write_record()
    assert pages.copy_pages() == []


def test_a_page_whose_record_is_gone_leaves_the_book(book: Path) -> None:
    (book / "executed").mkdir(parents=True)
    (book / "executed" / "old.ipynb").touch()
    write_notebook(executed_path(PARAMS.run_id))
    assert pages.copy_pages() == []
    assert not (book / "executed" / "old.ipynb").exists()


def test_a_notebook_that_papermill_is_writing_is_no_page() -> None:
    write_record()
    path = executed_path(PARAMS.run_id)
    write_notebook(path.with_name(f".{path.name}.abc.ipynb"))
    assert pages.copy_pages() == []
