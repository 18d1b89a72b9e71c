"""Executed notebooks as pages of the book."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

from heterofl_core import pages
from heterofl_core.errors import InputError
from heterofl_core.locks import is_locked
from heterofl_core.notebooks import papermill_command, source_of
from heterofl_core.params import RunParams, run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import executed_path, write_run
from heterofl_core.settings import split_settings

PARAMS = run_params(dataset="digits", levels="e")


@pytest.fixture(autouse=True)
def book(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of the test's own, beside an outputs folder of its own."""
    monkeypatch.setattr(pages, "BOOK", tmp_path / "book")
    return tmp_path / "book"


def write_notebook(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "# MNIST\n\nThe question.\n\n```bash\npapermill example\n```"
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def write_record(params: RunParams = PARAMS, code: str | None = None) -> None:
    record = {
        "run_id": params.run_id,
        "params": params.model_dump(mode="json"),
        "rounds_done": params.rounds,
        "code_hash": code or code_hash(),
        "git_dirty": False,
    }
    write_run(record, pd.DataFrame({"round": [1]}))


def test_a_page_has_the_title_of_its_run(book: Path) -> None:
    write_record()
    write_notebook(executed_path(PARAMS.run_id))
    (page,) = pages.copy_pages()
    assert page == book / "executed" / f"{PARAMS.run_id}.ipynb"
    cells = nbformat.read(page, as_version=4).cells
    title, _, rest = cells[0].source.partition("\n\n")
    assert title == "# Digits, IID, levels e (fix), 40 rounds"
    assert rest.startswith(
        "The question.\n\n```bash\n.venv/bin/papermill book/experiments/mnist.ipynb run.ipynb"
    )
    assert cells[1].source == "1 + 1"


def test_a_page_has_todays_words_around_what_was_executed() -> None:
    write_record()
    source = nbformat.read(source_of(PARAMS), as_version=4)
    executed = nbformat.from_dict(source)
    for cell in executed.cells[1:]:
        cell.source = f"{cell.source} once"
    executed.cells.insert(
        3, nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["injected-parameters"]})
    )
    path = executed_path(PARAMS.run_id)
    path.parent.mkdir(parents=True)
    nbformat.write(executed, path)
    (page,) = pages.copy_pages()
    cells = nbformat.read(page, as_version=4).cells
    assert cells[0].source.endswith(
        f'<a href="../runs/{PARAMS.run_id}.html">its page</a> has what is known of it today.'
    )
    assert cells[3].source == "seed = 0"
    for cell, today in zip(cells[1:3] + cells[4:], source.cells[1:], strict=True):
        assert cell.source == (today.source if cell.cell_type == "markdown" else f"{today.source} once")


def test_the_command_of_a_page_gives_its_run() -> None:
    command = papermill_command(
        run_params(dataset="cifar10", levels="a3-e7", milestones=[2, 5], scaler=False)
    )
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == [".venv/bin/papermill", "book/experiments/ablation.ipynb", "run.ipynb"]
    values = {
        name: yaml.safe_load(value)
        for flag, name, value in zip(words[3:], words[4:], words[5:], strict=False)
        if flag == "-p"
    }
    values |= yaml.safe_load(words[words.index("-y") + 1])
    params, execution = split_settings(values)
    assert (params.milestones, params.scaler, params.levels, execution.force) == (
        (2, 5),
        False,
        "a3-e7",
        True,
    )


def test_of_an_experiments_runs_the_longest_of_todays_code_is_featured() -> None:
    kinds = [
        (run_params(dataset="digits", levels="e", rounds=rounds), code)
        for rounds, code in ((9, "other"), (5, None), (7, None))
    ]
    for params, code in kinds:
        write_record(params, code)
        write_notebook(executed_path(params.run_id))
    (page,) = pages.copy_pages()
    assert page.stem == kinds[2][0].run_id


def test_a_run_by_the_papers_schedule_is_featured_rather_than_a_longer_one() -> None:
    runs = [run_params(dataset="mnist", levels="e"), run_params(dataset="mnist", levels="e", rounds=1000)]
    for params in runs:
        write_record(params)
        write_notebook(executed_path(params.run_id))
    (page,) = pages.copy_pages()
    assert page.stem == runs[0].run_id


def test_a_run_of_what_its_notebook_speaks_of_is_featured_rather_than_a_longer_one() -> None:
    """The notebook of the ablation speaks of skewed labels, that of the baselines of FedAvg."""
    skewed, even = (
        run_params(dataset="digits", levels="e", norm="none", partition=partition, rounds=rounds)
        for partition, rounds in (("non-iid-2", 5), ("iid", 9))
    )
    averaged, alone = (
        run_params(dataset="digits", levels="a", method=method, rounds=rounds)
        for method, rounds in (("fedavg", 5), ("standalone", 9))
    )
    for params in (skewed, even, averaged, alone):
        write_record(params)
        write_notebook(executed_path(params.run_id))
    assert {page.stem for page in pages.copy_pages()} == {skewed.run_id, averaged.run_id}


def test_of_several_seeds_the_first_is_featured() -> None:
    runs = [run_params(dataset="digits", levels="e", seed=seed) for seed in (1, 0, 2)]
    for params in runs:
        write_record(params)
        write_notebook(executed_path(params.run_id))
    (page,) = pages.copy_pages()
    assert page.stem == runs[1].run_id


def test_a_book_without_executed_notebooks_says_so(book: Path) -> None:
    write_record()  # of a run without Jupyter
    assert pages.copy_pages() == []
    assert (book / "executed" / "none.md").read_text().startswith("# None so far\n")


def test_each_experiment_is_featured_once() -> None:
    runs = [run_params(dataset="digits", levels=levels) for levels in ("a-e", "e", "b")]
    runs.append(run_params(dataset="digits", levels="a-e", scaler=False))
    for params in runs:
        write_record(params)
        write_notebook(executed_path(params.run_id))
    assert len(pages.copy_pages()) == 2  # of the notebooks mnist and ablation


def test_two_books_in_one_place_are_built_one_after_the_other_whatever_their_outputs(
    book: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    def build(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        held.append(is_locked("book", book))
        return subprocess.CompletedProcess([], 0)

    monkeypatch.setattr(pages, "write_pages", lambda solutions: None)
    monkeypatch.setattr("heterofl_core.pages.subprocess.run", build)
    assert pages.build_book() == book / "_build" / "html" / "index.html"
    assert held == [True]
    assert not (outputs / "locks").exists()


@pytest.mark.parametrize("solutions", [True, False])
def test_a_book_with_a_warning_is_none_and_the_next_one_can_be_built(
    book: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch, solutions: bool
) -> None:
    asked: list[Any] = []

    def build(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(pages, "write_pages", lambda solutions: asked.append(solutions))
    monkeypatch.setattr("heterofl_core.pages.subprocess.run", build)
    with pytest.raises(InputError, match=r"^the book was not built; the warnings above are errors$"):
        pages.build_book(solutions)
    assert asked == [solutions, pages.build_command(book)]
    assert not is_locked("book", book)


def test_a_notebook_with_both_sides_of_a_merge_is_named() -> None:
    write_record()
    path = executed_path(PARAMS.run_id)
    path.parent.mkdir(parents=True)
    path.write_text("<<<<<<< HEAD\n{}\n")
    with pytest.raises(InputError, match=f"^notebook {path} is damaged "):
        pages.copy_pages()


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
