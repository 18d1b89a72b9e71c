"""Executed notebooks as pages of the book."""

import shutil
from pathlib import Path

import nbformat

from heterofl_core.files import write_text
from heterofl_core.folders import BOOK, outputs_folder
from heterofl_core.records import read_record, record_path
from heterofl_core.report import title_of


def copy_pages() -> list[Path]:
    """Puts the executed notebooks into the book, each under a title that says which run it is."""
    folder = BOOK / "executed"
    shutil.rmtree(folder, ignore_errors=True)
    pages = []
    for source in sorted((outputs_folder() / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(source, as_version=4)
        params = read_record(record_path(source.stem))["params"]
        _, _, rest = notebook.cells[0].source.partition("\n")  # behind the heading
        notebook.cells[0].source = f"# {title_of(params)}\n{rest}"
        pages.append(folder / source.name)
        write_text(pages[-1], nbformat.writes(notebook))
    return pages
