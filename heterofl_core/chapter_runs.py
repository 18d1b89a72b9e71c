"""A chapter as it ran: executed with its solutions through papermill, kept, and timed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from heterofl_core.chapters import code_cells, read_chapter
from heterofl_core.errors import InputError
from heterofl_core.files import atomic, sweep
from heterofl_core.folders import ROOT, outputs_folder
from heterofl_core.locks import locked
from heterofl_core.notebooks import read_notebook, through_papermill
from heterofl_core.processor import processor
from heterofl_core.provenance import git


def executed_chapter(path: Path) -> Path:
    """Where a chapter is kept as it ran, with its solutions."""
    return outputs_folder() / "course" / f"{path.stem}.ipynb"


def as_it_ran(path: Path) -> NotebookNode | None:
    """A chapter as it was executed last; None if it never was. In another outputs folder than the checkout's,
    where it was not executed, it is as it came with the checkout.

    Raises:
        InputError: it is damaged.
    """
    places = (executed_chapter(path), ROOT / "outputs" / "course" / f"{path.stem}.ipynb")
    return next((read_notebook(kept) for kept in places if kept.exists()), None)


def has_code_of(ran: NotebookNode, path: Path) -> bool:
    """Whether an executed chapter has today's code; text may change without a new execution."""
    then, now = ([cell.source for cell in code_cells(notebook)] for notebook in (ran, read_chapter(path)))
    return then == now


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


def time_with_mnist(path: Path, settings: dict[str, Any]) -> float:
    """Executes a chapter with MNIST, and notes the seconds where it is kept as it ran with digits.

    Args:
        path: of the source of a chapter that ran with digits.
        settings: see `mnist_settings`.

    Returns:
        The seconds that it took.

    Raises:
        InputError: a cell failed; the message says which, and why.
    """
    with replacing(path) as target:
        _, seconds = timed(path, target, settings)
        ran = as_it_ran(path)  # only now: somebody may have executed it anew meanwhile
        assert ran is not None  # with digits it ran before
        ran.metadata.course.mnist = {"settings": settings, "seconds": seconds}
        nbformat.write(ran, target)
    return seconds
