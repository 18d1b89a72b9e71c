"""A chapter of the course: one source, which gives the student's and the instructor's notebook.

A chapter is a MyST notebook in `book/chapters/`. Its cells tagged `exercise` define a function, with the
solution between `### BEGIN SOLUTION` and `### END SOLUTION`, as nbgrader marks them; the cell tagged
`check` behind it says what is wrong with an answer, and `mistakes` are answers that it must refuse, each with
words that it then says. Text is plain Markdown, which reads the same in Jupyter, on Colab and in the book.
A chapter that also runs with MNIST lists under `mnist`, in its front matter, what else it then sets.
"""

import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from heterofl_core.folders import BOOK, ROOT

CHAPTERS = BOOK / "chapters"

SOLUTION = re.compile(r"^(?P<indent> *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION", re.DOTALL | re.MULTILINE)
NEEDS = re.compile(r"\*\*Prerequisites\.\*\* (.+?)\n\n", re.DOTALL)
CHAPTER_LINK = re.compile(r"\]\((\d\d-[\w-]+)\.md")

FETCH = """\
# Where the study is not installed, as on Colab, this fetches it. Colab has the packages that chapters need.
import importlib.util
import sys

if importlib.util.find_spec("heterofl_core") is None:
    !git clone --quiet --depth 1 {repository} heterofl-study
    sys.path.insert(0, "heterofl-study")"""


def chapters() -> list[Path]:
    """The sources of the chapters, in order."""
    return sorted(CHAPTERS.glob("[0-9][0-9]-*.md"))


def read_chapter(path: Path) -> NotebookNode:
    """A chapter as a notebook, with the same cell ids each time."""
    from myst_nb.core.read import read_myst_markdown_notebook

    notebook = read_myst_markdown_notebook(path.read_text(encoding="utf-8"))
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        cell.source = CHAPTER_LINK.sub(r"](\1.ipynb", cell.source)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that are executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def exercises(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode, NotebookNode]]:
    """Each exercise's number in its chapter, its cell, and the cell that checks it."""
    cells = code_cells(notebook)
    found = [place for place, cell in enumerate(cells) if has_tag(cell, "exercise")]
    for number, place in enumerate(found, start=1):
        yield number, cells[place], cells[place + 1]


def has_tag(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell has a tag."""
    return tag in cell.metadata.get("tags", [])


def with_answer(source: str, answer: str) -> str:
    """An exercise with other lines in the place of its solution."""

    def lines(match: re.Match[str]) -> str:
        return textwrap.indent(textwrap.dedent(answer), match["indent"])

    return SOLUTION.sub(lines, source)


def unanswered(source: str, number: int) -> str:
    """An exercise as students get it: in the place of the solution stands what tells them to write one."""
    message = f"Exercise {number} is yours: write it above, run that cell, then this one again."
    return with_answer(source, f'# Your code here.\nraise NotImplementedError("{message}")')


def tasks(notebook: NotebookNode) -> dict[str, str]:
    """By the cell's id, each exercise as students get it."""
    return {cell.id: unanswered(cell.source, number) for number, cell, _ in exercises(notebook)}


def for_students(notebook: NotebookNode) -> NotebookNode:
    """Without solutions, and with a first cell that fetches the study where it is missing."""
    student, task = for_instructors(notebook), tasks(notebook)
    for cell in student.cells:
        cell.source = task.get(cell.id, cell.source)
    return student


def for_instructors(notebook: NotebookNode) -> NotebookNode:
    """With solutions between nbgrader's marks."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        cell.metadata.pop("mistakes", None)
    copy.metadata.pop("mnist", None)
    copy.cells.insert(1, new_code_cell(FETCH.format(repository=repository()), id="fetch"))
    return copy


def repository() -> str:
    """The address at which the project is published, from `pyproject.toml`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def mnist_settings(path: Path) -> dict[str, Any] | None:
    """What a chapter sets in order to run with MNIST; None if it does not say that it can."""
    extra = read_chapter(path).metadata.get("mnist")
    return None if extra is None else {"dataset": "mnist", **extra}


def prerequisites(text: str) -> list[int]:
    """The chapters that a chapter leads to under its prerequisites."""
    found = NEEDS.search(text)
    return sorted({int(name[:2]) for name in CHAPTER_LINK.findall(found[1] if found else "")})
