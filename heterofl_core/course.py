"""The course: each chapter is one source, which gives the student's and the instructor's notebook and a page.

A chapter is a MyST notebook in `book/chapters/`. Its cells tagged `exercise` define a function, with the
solution between `### BEGIN SOLUTION` and `### END SOLUTION`, as nbgrader marks them; the cell tagged
`check` behind it says what is wrong with an answer, and `mistakes` are answers that it must refuse, each with
words that it then says. Text is plain Markdown, which reads the same in Jupyter, on Colab and in the book.
A chapter that also runs with MNIST lists under `mnist`, in its front matter, what else it then sets.
"""

import hashlib
import html
import json
import re
import shutil
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from heterofl_core.errors import InputError
from heterofl_core.files import atomic, sweep, write_text
from heterofl_core.folders import BOOK, ROOT, outputs_folder
from heterofl_core.locks import locked
from heterofl_core.notebooks import read_notebook, through_papermill
from heterofl_core.provenance import git, processor

CHAPTERS = BOOK / "chapters"
STUDENTS = BOOK / "students"
INSTRUCTORS = BOOK / "instructors"
PAGES = BOOK / "course"

SOLUTION = re.compile(r"^(?P<indent> *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION", re.DOTALL | re.MULTILINE)
MARKER = re.compile(r"^ *### (BEGIN|END) SOLUTION\n?", re.MULTILINE)
TITLE = re.compile(r"^# (\d+\. .*)$", re.MULTILINE)
NEEDS = re.compile(r"\*\*Prerequisites\.\*\* (.+?)\n\n", re.DOTALL)
LEARN = re.compile(r"\*\*Time to learn\.\*\* (\d+) minutes")
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


def as_page(executed: NotebookNode, name: str, solutions: bool) -> NotebookNode:
    """An executed chapter as a page of the book.

    Args:
        executed: with its solutions.
        name: of the chapter's file.
        solutions: whether they are there, folded away below what students get, or left out.
    """
    page, task = nbformat.from_dict(executed), tasks(executed)
    cells: list[NotebookNode] = []
    for cell in page.cells:
        if cell.id in task and not solutions:
            cell.source = task[cell.id]
        elif cell.id in task:
            cells.append(new_markdown_cell(f"```python\n{task[cell.id]}\n```"))
            cell.source = MARKER.sub("", cell.source)
            cell.metadata.tags = [*cell.metadata.tags, "hide-input"]
            cell.metadata.mystnb = {
                "code_prompt_show": "Show a solution",
                "code_prompt_hide": "Hide the solution",
            }
        cells.append(cell)
    cells.insert(1, new_markdown_cell(how_it_ran(executed, name)))
    page.cells = cells
    return page


def how_it_ran(executed: NotebookNode, name: str) -> str:
    """Where to open a chapter, and how long it took."""
    ran, notebook = executed.metadata.course, f"book/students/{name}.ipynb"
    with_mnist = ""
    if "mnist" in ran:
        told = ", ".join(f"`{setting} = {value!r}`" for setting, value in ran.mnist.settings.items())
        with_mnist = f" With {told}, it ran in {ran.mnist.seconds:.0f} seconds."
    owner_and_name = repository().removeprefix("https://github.com/")
    return (
        f"[Open in Colab](https://colab.research.google.com/github/{owner_and_name}/blob/main/{notebook}) · "
        f"[Open in Binder](https://mybinder.org/v2/gh/{owner_and_name}/main?urlpath=lab/tree/{notebook}) · "
        f"{{download}}`Download, to complete <../students/{name}.ipynb>`\n\n"
        f"*Everything below ran from top to bottom in {ran.seconds:.0f} seconds on {ran.device}.{with_mnist}*"
    )


def repository() -> str:
    """The address at which the project is published, from `pyproject.toml`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def executed_chapter(path: Path) -> Path:
    """Where a chapter is kept as it ran, with its solutions."""
    return outputs_folder() / "course" / f"{path.stem}.ipynb"


def has_code_of(ran: NotebookNode, path: Path) -> bool:
    """Whether an executed chapter has today's code; text may change without a new execution."""
    then, now = ([cell.source for cell in code_cells(notebook)] for notebook in (ran, read_chapter(path)))
    return then == now


def write_notebooks() -> None:
    """Writes the student's and the instructor's notebook of each chapter, and removes those of no chapter.

    A notebook in which somebody has written stays as it is, and is named.
    """
    for folder, version in ((STUDENTS, for_students), (INSTRUCTORS, for_instructors)):
        targets = {folder / f"{path.stem}.ipynb": path for path in chapters()}
        ours = {path for path in folder.glob("*.ipynb") if is_as_written(read_notebook(path))}
        for other in ours - targets.keys():
            other.unlink()
        for target, path in targets.items():
            if target.exists() and target not in ours:
                print(f"{target} has changes by hand and stays as it is; to have it anew, move it away")
            else:
                write_text(target, nbformat.writes(with_digest(version(read_chapter(path)))) + "\n")


def with_digest(notebook: NotebookNode) -> NotebookNode:
    """The notebook with a digest of what a person may write into it."""
    notebook.metadata.heterofl = {"written": written(notebook)}
    return notebook


def is_as_written(notebook: NotebookNode) -> bool:
    """Whether a notebook is what `write_notebooks` once wrote, executed or not."""
    return bool(notebook.metadata.get("heterofl", {}).get("written") == written(notebook))


def written(notebook: NotebookNode) -> str:
    """A digest of the cells' text and nbgrader's marks; outputs come back by execution."""
    told = [(cell.cell_type, cell.source, cell.metadata.get("nbgrader")) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def work_through(path: Path) -> float:
    """Executes a chapter with its solutions through papermill, and keeps it.

    Returns:
        The seconds that it took.

    Raises:
        InputError: a cell failed; the message says which, and why.
    """
    with replacing(path) as target:
        notebook, seconds = timed(path, target, {})
        notebook.metadata = {
            "kernelspec": notebook.metadata.kernelspec,
            "course": {
                "seconds": seconds,
                "device": processor(),
                "git_commit": git("rev-parse", "HEAD"),
            },
        }
        forget_how_it_ran(notebook)
        nbformat.write(notebook, target)
    return seconds


def forget_how_it_ran(notebook: NotebookNode) -> None:
    """Leaves the metadata of cells that a page needs."""
    for cell in notebook.cells:
        cell.metadata = {name: cell.metadata[name] for name in ("tags", "mystnb") if cell.metadata.get(name)}


def renew_text(path: Path, ran: NotebookNode) -> None:
    """Gives an executed chapter today's text, if that has changed; its code has not."""
    notebook = read_chapter(path)
    notebook.metadata = ran.metadata
    for cell, done in zip(code_cells(notebook), code_cells(ran), strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    forget_how_it_ran(notebook)
    if notebook.cells != ran.cells:
        with replacing(path) as target:
            nbformat.write(notebook, target)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file that takes the place of a chapter as it ran once it is complete; nobody else runs it."""
    kept = executed_chapter(path)
    with locked(kept.name):
        sweep(kept)
        with atomic(kept) as temporary:
            yield temporary


def timed(path: Path, target: Path, settings: dict[str, Any]) -> tuple[NotebookNode, float]:
    """A chapter as it ran with some settings, and its seconds.

    Args:
        path: of the source.
        target: a file that is overwritten.
        settings: of its first cell.

    Raises:
        InputError: a cell failed; the message says which, and why.
    """
    nbformat.write(read_chapter(path), target)
    try:
        notebook = through_papermill(target, target, settings)
    except InputError as error:
        raise InputError(f"chapter {path.stem} failed: {error}") from error
    return notebook, float(notebook.metadata.papermill.duration)


def mnist_settings(path: Path) -> dict[str, Any] | None:
    """What a chapter sets in order to run with MNIST; None if it does not say that it can."""
    extra = read_chapter(path).metadata.get("mnist")
    return None if extra is None else {"dataset": "mnist", **extra}


def time_with_mnist(path: Path, settings: dict[str, Any]) -> float:
    """Executes a chapter with MNIST, and notes the seconds where it is kept as it ran with digits.

    Args:
        path: of the source, of which an executed chapter is kept.
        settings: see `mnist_settings`.

    Returns:
        The seconds that it took.

    Raises:
        InputError: a cell failed; the message says which, and why.
    """
    with replacing(path) as target:
        _, seconds = timed(path, target, settings)
        notebook = read_notebook(executed_chapter(path))
        notebook.metadata.course.mnist = {"settings": settings, "seconds": seconds}
        nbformat.write(notebook, target)
    return seconds


def as_it_ran(path: Path) -> NotebookNode | None:
    """A chapter as it was executed last; None if it never was.

    Raises:
        InputError: it is damaged.
    """
    kept = executed_chapter(path)
    return read_notebook(kept) if kept.exists() else None


def bring_up_to_date(again: bool = False, mnist: bool = False) -> None:
    """Writes all notebooks, and executes the chapters whose code changed since they ran.

    Args:
        again: execute all of them.
        mnist: execute those that can with MNIST too, unless their seconds are known.

    Raises:
        InputError: a chapter failed.
    """
    write_notebooks()
    for path in chapters():
        ran = as_it_ran(path)
        if again or ran is None or not has_code_of(ran, path):
            print(f"{path.stem}: {work_through(path):.0f} seconds", flush=True)
        else:
            renew_text(path, ran)
    for path in chapters() if mnist else []:
        settings, ran = mnist_settings(path), as_it_ran(path)
        if settings and ran and "mnist" not in ran.metadata.course:
            print(f"{path.stem}, MNIST: {time_with_mnist(path, settings):.0f} seconds", flush=True)


def write_pages(folder: Path = PAGES, solutions: bool = True) -> None:
    """Puts the executed chapters into the book, with solutions or without."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in chapters():
        if ran := as_it_ran(path):
            page = as_page(ran, path.stem, solutions)
            write_text(folder / f"{path.stem}.ipynb", nbformat.writes(page))


def overview() -> pd.DataFrame:
    """The chapters: what each asks of a student's time, and of a machine's when it ran."""
    rows = []
    for path in chapters():
        text = path.read_text(encoding="utf-8")
        title, minutes = TITLE.search(text), LEARN.search(text)
        ran = as_it_ran(path)
        times = ran.metadata.course if ran else {}
        rows.append(
            {
                "Chapter": f'<a href="course/{path.stem}.html">{title[1] if title else path.stem}</a>',
                "Needs": ", ".join(str(number) for number in prerequisites(text)),
                "To learn (minutes)": minutes[1] if minutes else "",
                "Exercises": str(text.count("### BEGIN SOLUTION")),
                "Ran in (seconds)": in_seconds(times),
                "With MNIST (seconds)": in_seconds(times.get("mnist", {})),
            }
        )
    return pd.DataFrame(rows)


def prerequisites(text: str) -> list[int]:
    """The chapters that a chapter leads to under its prerequisites."""
    found = NEEDS.search(text)
    return sorted({int(name[:2]) for name in CHAPTER_LINK.findall(found[1] if found else "")})


def in_seconds(times: Mapping[str, float]) -> str:
    """The seconds that were measured; empty if none were."""
    return f"{times['seconds']:.0f}" if "seconds" in times else ""


def common_mistakes() -> str:
    """What students get wrong in each exercise, and what its check then says: HTML."""
    parts = []
    for path in chapters():
        notebook = read_chapter(path)
        for number, cell, _ in exercises(notebook):
            answers = "".join(
                f"<li><pre>{html.escape(answer)}</pre> “… {html.escape(words)} …”</li>"
                for answer, words in cell.metadata.get("mistakes", {}).items()
            )
            name = cell.source.partition("(")[0].removeprefix("def ")
            summary = f"{int(path.stem[:2])}, exercise {number}: <code>{name}</code>"
            parts.append(f'<details class="quiz"><summary>{summary}</summary><ul>{answers}</ul></details>')
    return f'<div class="plain">{"".join(parts)}</div>'
