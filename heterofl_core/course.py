"""The course: the notebooks of its chapters, their pages in the book, and what instructors ask of all."""

import hashlib
import html
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from heterofl_core.chapter_runs import as_it_ran, has_code_of, renew_text, time_with_mnist, work_through
from heterofl_core.chapters import (
    chapters,
    exercises,
    for_instructors,
    for_students,
    mnist_settings,
    prerequisites,
    read_chapter,
    repository,
    tasks,
)
from heterofl_core.files import write_text
from heterofl_core.folders import BOOK
from heterofl_core.notebooks import read_notebook

STUDENTS = BOOK / "students"
INSTRUCTORS = BOOK / "instructors"
PAGES = BOOK / "course"

MARKER = re.compile(r"^ *### (BEGIN|END) SOLUTION\n?", re.MULTILINE)
TITLE = re.compile(r"^# (\d+\. .*)$", re.MULTILINE)
LEARN = re.compile(r"\*\*Time to learn\.\*\* (\d+) minutes")


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


def bring_up_to_date(again: bool = False, mnist: bool = False) -> None:
    """Writes all notebooks, and executes the chapters whose code changed since they ran.

    Args:
        again: execute all of them.
        mnist: execute those that can with MNIST too, unless their seconds are known for the same settings.

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
        if settings and ran and ran.metadata.course.get("mnist", {}).get("settings") != settings:
            print(f"{path.stem}, MNIST: {time_with_mnist(path, settings):.0f} seconds", flush=True)


def write_pages(folder: Path = PAGES, solutions: bool = True) -> None:
    """Puts the executed chapters into the book, with solutions or without."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    for path in chapters():
        if ran := as_it_ran(path):
            page = as_page(ran, path.stem, solutions)
            write_text(folder / f"{path.stem}.ipynb", nbformat.writes(page))


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
