"""The book: executed notebooks as its pages, and its build."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.folders import BOOK
from heterofl_core.locks import locked
from heterofl_core.records import all_records, collect, executed_path
from heterofl_core.report import title_of


def copy_pages() -> list[Path]:
    """Puts the executed notebooks into the book, each under a title that says which run it is."""
    folder = BOOK / "executed"
    shutil.rmtree(folder, ignore_errors=True)
    pages = []
    for record in all_records():
        source = executed_path(record["run_id"])
        if not source.exists():  # a run without Jupyter
            continue
        notebook = nbformat.read(source, as_version=4)
        _, _, rest = notebook.cells[0].source.partition("\n")  # behind the heading
        notebook.cells[0].source = f"# {title_of(record['params'])}\n{rest}"
        pages.append(folder / source.name)
        write_text(pages[-1], nbformat.writes(notebook))
    return pages


def build_book() -> Path:
    """Builds the book from all records, with warnings as errors; trains nothing.

    Returns:
        Its first page.

    Raises:
        InputError: a record is damaged, or the build failed; it has said why.
    """
    with locked("book"):
        collect()
        copy_pages()
        # Sphinx does not see that outputs/ changed: --all reads every page anew
        options = ["--all", "--warningiserror", "--nitpick", "--keep-going", "--quiet"]
        tool = Path(sys.executable).with_name("jupyter-book")
        if subprocess.run([tool, "build", BOOK, *options], check=False).returncode:
            raise InputError("the book was not built; the warnings above are errors")
    return BOOK / "_build" / "html" / "index.html"
