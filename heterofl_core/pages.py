"""The book: executed notebooks as its pages, and its build."""

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from heterofl_core.course import write_pages
from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.folders import BOOK
from heterofl_core.locks import locked
from heterofl_core.notebooks import defaults_of, notebook_of, papermill_command, read_notebook, source_of
from heterofl_core.params import RunParams
from heterofl_core.records import all_records, collect, executed_path
from heterofl_core.report.badges import write_badges
from heterofl_core.report.evidence import state
from heterofl_core.report.titles import title_of

NOTHING_EXECUTED = """# None so far

`make run` executes an experiment's notebook, and `make book` then shows it here.
"""
EXAMPLE = re.compile(r"```bash\n.*?```", re.DOTALL)
"""In a notebook's first cell, the command that executes it."""


def featured(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each experiment's runs the one that tells most: of today's code, of the method and the partition
    that its notebook speaks of, by the paper's schedule, with many rounds, with the first seed.

    All others have a page with their numbers (`run_pages`); their executed notebooks stay in `outputs/`.
    """
    found: dict[str, Mapping[str, Any]] = {}

    def telling(record: Mapping[str, Any]) -> tuple[bool, bool, bool, int, int]:
        params = record["params"]
        spoken_of = defaults_of(source_of(RunParams.model_validate(params)))
        fits = all(params[name] == spoken_of[name] for name in ("method", "partition"))
        by_the_paper = params["protocol"] == "paper"
        return state(record) != "stale", fits, by_the_paper, record["rounds_done"], -params["seed"]

    for record in sorted(records, key=telling):
        if executed_path(record["run_id"]).exists():  # not by a run without Jupyter
            found[notebook_of(RunParams.model_validate(record["params"]))] = record
    return list(found.values())


def copy_pages() -> list[Path]:
    """Puts the featured notebooks into the book, each with today's words, under a title that says which run
    it is, and with the command that executes it again.
    """
    folder = BOOK / "executed"
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    pages = []
    for record in featured(all_records()):
        source = executed_path(record["run_id"])
        notebook = read_notebook(source)
        renew_words(notebook, read_notebook(source_of(RunParams.model_validate(record["params"]))))
        notebook.cells[0].source = introduction(notebook.cells[0].source, record["params"])
        pages.append(folder / source.name)
        write_text(pages[-1], nbformat.writes(notebook))
    if not pages:
        write_text(folder / "none.md", NOTHING_EXECUTED)
    return pages


def renew_words(executed: NotebookNode, source: NotebookNode) -> None:
    """Gives an executed notebook the words that its source has today, if their cells correspond.

    Code and outputs stay as they were executed.
    """
    cells = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.cell_type for cell in cells] == [cell.cell_type for cell in source.cells]:
        for cell, today in zip(cells, source.cells, strict=True):
            if cell.cell_type == "markdown":
                cell.source = today.source


def introduction(text: str, params: Mapping[str, Any]) -> str:
    """A notebook's first cell, for one run: its title, the command with its parameters, and where to look for
    what is known of its record today.
    """
    _, _, rest = text.partition("\n")  # behind the heading
    run = RunParams.model_validate(params)
    told = EXAMPLE.sub(lambda _: f"```bash\n{papermill_command(run)}\n```", rest)
    page = f'<a href="../runs/{run.run_id}.html">its page</a>'
    today = f"Below is what the run said of itself; {page} has what is known of it today."
    return f"# {title_of(params)}\n{told}\n\n{today}"


def build_command(book: Path) -> list[str]:
    """The command that builds the pages in a folder, with warnings as errors."""
    tool = Path(sysconfig.get_path("scripts")) / "jupyter-book"  # not beside Python on Debian or Colab
    # Sphinx does not see that outputs/ changed: --all reads every page anew
    options = ["--all", "--warningiserror", "--nitpick", "--keep-going", "--quiet"]
    return [str(tool), "build", str(book), *options]


def build_book(solutions: bool = True) -> Path:
    """Builds the book from all records, with warnings as errors; trains nothing.

    Args:
        solutions: whether the course's exercises have theirs, folded away.

    Returns:
        Its first page.

    Raises:
        InputError: a record or notebook is damaged, or the build failed; it has said why.
    """
    with locked("book", folder=BOOK):  # that is written, whatever outputs it is made from
        collect()
        write_badges()
        copy_pages()
        write_pages(solutions=solutions)
        if subprocess.run(build_command(BOOK), check=False).returncode:
            raise InputError("the book was not built; the warnings above are errors")
    return BOOK / "_build" / "html" / "index.html"
