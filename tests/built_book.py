"""The book as the tests see it: built from a copy of `book/`, exactly as `make book` does it."""

import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from heterofl_core import course
from heterofl_core.folders import ROOT
from heterofl_core.pages import build_command, copy_pages


def stored_notebook() -> nbformat.NotebookNode:
    """An executed notebook with a progress bar and a formula, which would fail if it were executed."""
    cell = new_code_cell("raise AssertionError('a stored notebook is not executed')", execution_count=1)
    cell.outputs = [
        new_output("stream", name="stdout", text="a stored line\n"),
        new_output("stream", name="stderr", text="10%|#         | 1/10"),
        new_output(
            "display_data",
            {"application/vnd.jupyter.widget-view+json": {"model_id": "bar"}},
        ),
    ]
    widgets = {
        "application/vnd.jupyter.widget-state+json": {
            "state": {"bar": {}},
            "version_major": 2,
        }
    }
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
        "widgets": widgets,
    }
    title = new_markdown_cell("# A stored notebook\n\n$x^2$")
    return new_notebook(cells=[title, cell], metadata=metadata)


def build(book: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds the book in place, as `make book` does."""
    command = build_command(book)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def build_site(checkout: Path) -> Path:
    """Builds all pages in an empty folder, one stored notebook of the tests' own among them; gives the folder
    that a browser is shown.
    """
    book = checkout / "book"
    shutil.copytree(ROOT / "book", book, ignore=shutil.ignore_patterns("_build", "course", "executed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heterofl_core.pages.BOOK", book)
        copy_pages()
    (book / "executed").mkdir(exist_ok=True)
    course.write_pages(book / "course")
    nbformat.write(stored_notebook(), book / "executed" / "stored.ipynb")
    result = build(book)
    assert result.returncode == 0, result.stderr
    return book / "_build" / "html"


def pages(site: Path) -> list[Path]:
    """The files of its pages, in order."""
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)
