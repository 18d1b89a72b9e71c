"""The course: chapters have the parts that students count on, and exercises tell right from wrong."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import pytest
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from heterofl_core import chapter_runs, course
from heterofl_core.chapters import (
    chapters,
    code_cells,
    exercises,
    for_instructors,
    for_students,
    has_tag,
    mnist_settings,
    prerequisites,
    read_chapter,
    repository,
    unanswered,
    with_answer,
)
from heterofl_core.errors import InputError
from heterofl_core.folders import ROOT

BY_NAME = pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
RUNS_IN = re.compile(
    r"\*\*Runs in\.\*\* Under (\d+) minutes? on two CPU cores(?:, and with MNIST under (\d+))?"
)


@cache
def chapter(path: Path) -> NotebookNode:
    return read_chapter(path)


def text_of(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


# What a chapter has


@BY_NAME
def test_a_chapter_begins_with_what_it_asks_and_ends_with_what_comes_next(path: Path) -> None:
    text = text_of(chapter(path))
    assert text.startswith(f"# {int(path.stem[:2])}. ")
    for part in ("**Overview.**", "**Prerequisites.**", "**Time to learn.**", "**Runs in.**"):
        assert text.index(part) < text.index("\n## "), part
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[-3:] == ["Summary", "Quiz", "What's next"]
    assert (
        sum(heading.startswith("Exercise: ") for heading in headings)
        == len(list(exercises(chapter(path))))
        >= 2
    )


@BY_NAME
def test_each_question_of_a_quiz_has_one_right_answer_and_says_why_the_others_are_wrong(path: Path) -> None:
    quiz = text_of(chapter(path)).split("\n## Quiz\n")[1].split("\n## What's next")[0]
    questions = re.split(r"^\*\*\d\. ", quiz, flags=re.MULTILINE)[1:]
    assert len(questions) >= 3
    for question in questions:
        answers = re.findall(r"<details><summary>.+?</summary>(.+?)</details>", question)
        assert len(answers) >= 3, question
        assert sum(answer.startswith("Yes: ") for answer in answers) == 1, question
        assert all(answer.startswith(("Yes: ", "No: ")) for answer in answers), question


@BY_NAME
def test_a_chapter_links_to_pages_that_exist(path: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


@BY_NAME
def test_a_chapter_reads_the_same_in_jupyter_and_in_the_book(path: Path) -> None:
    assert re.findall(r"\{[\w-]+\}`|^:::", text_of(chapter(path)), re.MULTILINE) == []


@BY_NAME
def test_code_of_a_chapter_is_clean(path: Path, tmp_path: Path) -> None:
    notebook = tmp_path / f"{path.stem}.ipynb"
    nbformat.write(for_instructors(chapter(path)), notebook)
    ruff = [str(Path(sys.executable).with_name("ruff"))]
    options = ["--config", str(ROOT / "pyproject.toml")]
    for command in (["check", "--ignore", "D,E402"], ["format", "--diff"]):
        found = subprocess.run(
            [*ruff, *command, *options, str(notebook)], capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout


# The two versions


@BY_NAME
def test_students_notebooks_are_what_their_sources_give(path: Path) -> None:
    stored = nbformat.read(course.STUDENTS / f"{path.stem}.ipynb", as_version=4)
    assert stored == course.with_digest(for_students(chapter(path))), "run `make course`"


@BY_NAME
def test_students_get_no_solution_and_instructors_all(path: Path) -> None:
    student, instructor = for_students(chapter(path)), for_instructors(chapter(path))
    assert "SOLUTION" not in nbformat.writes(student)
    assert nbformat.writes(instructor).count("### BEGIN SOLUTION") == len(list(exercises(chapter(path))))
    for number, cell, _ in exercises(student):
        assert f"Exercise {number} is yours" in cell.source


@BY_NAME
def test_the_executed_chapter_is_of_todays_source_and_kept_its_time(path: Path) -> None:
    kept = nbformat.read(ROOT / "outputs" / "course" / f"{path.stem}.ipynb", as_version=4)
    sources = [cell.source for cell in chapter(path).cells]
    assert [cell.source for cell in kept.cells] == sources, "run `make course`"
    stated = RUNS_IN.search(text_of(chapter(path)))
    assert stated is not None
    assert kept.metadata.course.seconds <= 60 * int(stated[1]) <= 300
    assert (stated[2] is not None) == (mnist_settings(path) is not None)
    if stated[2]:
        mnist = kept.metadata.course.get("mnist", {})
        assert mnist.get("settings") == mnist_settings(path), "run `make course P=--mnist`"
        assert mnist.seconds <= 60 * int(stated[2]) <= 300


# What exercises say


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Chapters set variables, too: no later test shall see them."""
    with patch.dict(os.environ, {"MPLBACKEND": "agg"}):
        yield


class Student:
    """Works through a chapter in a shell of their own."""

    def __init__(self) -> None:
        InteractiveShell.clear_instance()
        self.shell = InteractiveShell.instance()

    def run(self, source: str) -> ExecutionResult:
        return self.shell.run_cell(source, store_history=False)

    def complaint(self, source: str) -> BaseException | None:
        """What running a cell raises."""
        result = self.run(source)
        return result.error_before_exec or result.error_in_exec


QUICK = {"10-reading": {"num_seeds": 3, "rounds": 4}}
"""Parameters of chapters that train much before their last exercise, whose checks need no results of it."""


@BY_NAME
def test_checks_refuse_no_answer_and_mistakes_and_accept_the_solution(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goes through a chapter: at each exercise as a student who has not begun, who errs, who is right.

    Cells tagged `slow`, and what comes behind the last exercise, is left to `make course`.
    """
    monkeypatch.chdir(tmp_path)
    student, notebook = Student(), chapter(path)
    checks: dict[str, tuple[int, NotebookNode]] = {
        check.id: (number, cell) for number, cell, check in exercises(notebook)
    }
    last = max(place for place, cell in enumerate(notebook.cells) if cell.id in checks)
    for cell in notebook.cells[: last + 1]:
        if cell.cell_type != "code" or has_tag(cell, "slow"):
            continue
        if cell.id in checks:
            number, exercise = checks[cell.id]
            assert has_tag(cell, "check")
            answers: dict[str, Any] = exercise.metadata.get("mistakes", {})
            assert answers, f"exercise {number} lists no mistakes"
            assert student.complaint(unanswered(exercise.source, number)) is None
            missing = student.complaint(cell.source)
            assert isinstance(missing, NotImplementedError), missing
            assert f"Exercise {number} is yours" in str(missing)
            for mistake, words in answers.items():
                assert student.complaint(with_answer(exercise.source, mistake)) is None, mistake
                told = student.complaint(cell.source)
                assert isinstance(told, AssertionError), f"{mistake}: {told!r}"
                assert words in str(told), f"{mistake}: {told}"
            assert student.complaint(exercise.source) is None
        assert student.complaint(cell.source) is None, cell.source
        if has_tag(cell, "parameters"):
            student.shell.push(QUICK.get(path.stem, {}))
    capsys.readouterr()


# Small chapters by hand


CHAPTER = """---
kernelspec: {name: python3, display_name: Python 3, language: python}
---

# 1. Doubling

See [2. Halving](02-halving.md).

**Time to learn.** 5 minutes.

```{code-cell} ipython3
---
tags: [exercise]
mistakes:
  "return x": "twice"
---
def double(x: int) -> int:
    \"\"\"Twice x.\"\"\"
    ### BEGIN SOLUTION
    y = x
    return x + y
    ### END SOLUTION
```

```{code-cell} ipython3
:tags: [check]

assert double(2) == 4, "Add x to itself: it is twice x."
print("Right.")
```
"""
TASK = (
    'def double(x: int) -> int:\n    """Twice x."""\n    # Your code here.\n    raise NotImplementedError('
    '"Exercise 1 is yours: write it above, run that cell, then this one again.")'
)


@pytest.fixture
def doubling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: Path) -> Path:
    """The source of a chapter, the only one."""
    for name in ("chapters.CHAPTERS", "course.STUDENTS", "course.INSTRUCTORS"):
        monkeypatch.setattr(f"heterofl_core.{name}", tmp_path / name.partition(".")[2].lower())
    path = tmp_path / "chapters" / "01-doubling.md"
    path.parent.mkdir()
    path.write_text(CHAPTER, encoding="utf-8")
    return path


def test_the_two_versions_of_a_chapter(doubling: Path) -> None:
    student, instructor = for_students(read_chapter(doubling)), for_instructors(read_chapter(doubling))
    assert student.cells[2].source == TASK
    assert (
        "### BEGIN SOLUTION\n    y = x\n    return x + y\n    ### END SOLUTION" in instructor.cells[2].source
    )
    assert "mistakes" not in student.cells[2].metadata
    for version in (student, instructor):
        assert "[2. Halving](02-halving.ipynb)" in version.cells[0].source
        assert f"git clone --quiet --depth 1 {repository()}" in version.cells[1].source
        nbformat.validate(version)


def test_a_wrong_answer_takes_the_place_of_the_solution(doubling: Path) -> None:
    ((_, cell, _),) = exercises(read_chapter(doubling))
    assert with_answer(cell.source, "if x:\n    return x\nreturn 0") == (
        'def double(x: int) -> int:\n    """Twice x."""\n    if x:\n        return x\n    return 0'
    )


def test_a_chapter_is_executed_once_until_it_changes(
    doubling: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    course.bring_up_to_date()
    assert re.fullmatch(r"01-doubling: \d+ seconds\n", capsys.readouterr().out)
    kept = nbformat.read(outputs / "course" / "01-doubling.ipynb", as_version=4)
    assert kept.cells[2].outputs[0].text == "Right.\n"
    course.bring_up_to_date()
    doubling.write_text(CHAPTER.replace("# 1. Doubling", "# 1. Doubling, told anew"), encoding="utf-8")
    course.bring_up_to_date()  # the text alone
    assert capsys.readouterr().out == ""
    kept.cells[0].source = kept.cells[0].source.replace("Doubling", "Doubling, told anew")
    assert nbformat.read(outputs / "course" / "01-doubling.ipynb", as_version=4) == kept
    doubling.write_text(CHAPTER.replace("4,", "5,"), encoding="utf-8")
    with pytest.raises(InputError, match=r"^chapter 01-doubling failed: Add x to itself: .* \(cell 2\)$"):
        course.bring_up_to_date()
    assert nbformat.read(outputs / "course" / "01-doubling.ipynb", as_version=4) == kept


def test_code_that_moved_to_another_cell_is_other_code(doubling: Path) -> None:
    ran = read_chapter(doubling)
    assert chapter_runs.has_code_of(ran, doubling)
    merged = new_code_cell("\n\n".join(cell.source for cell in code_cells(ran)))
    ran.cells = [*(cell for cell in ran.cells if cell.cell_type != "code"), merged]
    assert not chapter_runs.has_code_of(ran, doubling)


def test_a_chapter_is_timed_with_mnist_once_and_keeps_what_it_showed_without(
    doubling: Path, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doubling.write_text(CHAPTER.replace("kernelspec:", "mnist: {factor: 3}\nkernelspec:"), encoding="utf-8")
    course.bring_up_to_date(mnist=True)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"01-doubling: \d+ seconds", first)
    assert re.fullmatch(r"01-doubling, MNIST: \d+ seconds", second)
    kept = nbformat.read(outputs / "course" / "01-doubling.ipynb", as_version=4)
    assert kept.metadata.course.mnist.settings == {"dataset": "mnist", "factor": 3}
    assert "mnist" not in nbformat.writes(for_students(read_chapter(doubling)))
    assert [cell.source for cell in kept.cells] == [cell.source for cell in read_chapter(doubling).cells]
    course.write_pages(tmp_path / "pages")
    page = nbformat.read(tmp_path / "pages" / "01-doubling.ipynb", as_version=4)
    assert re.search(
        r"With `dataset = 'mnist'`, `factor = 3`, it ran in \d+ seconds\.\*$", page.cells[1].source
    )
    course.bring_up_to_date(mnist=True)
    assert capsys.readouterr().out == ""
    doubling.write_text(
        doubling.read_text(encoding="utf-8").replace("{factor: 3}", "{factor: 4}"), encoding="utf-8"
    )
    course.bring_up_to_date(mnist=True)  # other settings have another time
    assert re.fullmatch(r"01-doubling, MNIST: \d+ seconds\n", capsys.readouterr().out)


def test_a_chapter_whose_kernel_dies_is_one_sentence(doubling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("Kernel died")

    monkeypatch.setattr("papermill.execute_notebook", dies)
    with pytest.raises(InputError, match=r"^chapter 01-doubling failed: Kernel died$"):
        course.bring_up_to_date()


def test_in_another_outputs_folder_a_chapter_is_as_it_came_with_the_checkout(outputs: Path) -> None:
    chapter = ROOT / "book" / "chapters" / "01-fedavg.md"
    ran = chapter_runs.as_it_ran(chapter)
    assert ran is not None
    assert ran.metadata.course["seconds"] > 0
    assert not outputs.exists()


def test_a_chapter_with_both_sides_of_a_merge_is_named(doubling: Path, outputs: Path) -> None:
    kept = outputs / "course" / "01-doubling.ipynb"
    kept.parent.mkdir(parents=True)
    kept.write_text("<<<<<<< HEAD\n{}\n")
    with pytest.raises(InputError, match=f"^notebook {kept} is damaged "):
        chapter_runs.as_it_ran(doubling)


def test_notebooks_of_a_chapter_that_is_gone_are_removed(doubling: Path) -> None:
    course.write_notebooks()
    doubling.rename(doubling.with_name("02-doubling.md"))
    course.write_notebooks()
    assert [path.name for path in course.STUDENTS.iterdir()] == ["02-doubling.ipynb"]


def test_what_somebody_wrote_into_a_notebook_is_kept_and_named(
    doubling: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    course.write_notebooks()
    own = course.STUDENTS / "my-notes.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), own)
    answered, marked = (folder / "01-doubling.ipynb" for folder in (course.STUDENTS, course.INSTRUCTORS))
    for path, edit in (
        (answered, lambda cell: cell.update(source="def double(x): return 2 * x")),
        (marked, lambda cell: cell.metadata.update(nbgrader={"grade_id": "double"})),
    ):
        notebook = nbformat.read(path, as_version=4)
        edit(notebook.cells[2])
        nbformat.write(notebook, path)
    before = {path: path.read_bytes() for path in (own, answered, marked)}
    doubling.write_text(CHAPTER.replace("Twice x", "Two times x"), encoding="utf-8")
    course.write_notebooks()
    assert {path: path.read_bytes() for path in before} == before
    ends = "has changes by hand and stays as it is; to have it anew, move it away"
    assert capsys.readouterr().out.splitlines() == [f"{answered} {ends}", f"{marked} {ends}"]


def test_a_notebook_that_was_only_executed_is_renewed(doubling: Path) -> None:
    course.write_notebooks()
    path = course.STUDENTS / "01-doubling.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].execution_count = 3
    notebook.cells[2].metadata["collapsed"] = True
    nbformat.write(notebook, path)
    doubling.write_text(CHAPTER.replace("Twice x", "Two times x"), encoding="utf-8")
    course.write_notebooks()
    assert "Two times x" in path.read_text(encoding="utf-8")


def test_a_page_shows_the_task_and_folds_the_solution_or_has_none(doubling: Path, tmp_path: Path) -> None:
    chapter_runs.work_through(doubling)
    course.write_pages(tmp_path / "with", solutions=True)
    course.write_pages(tmp_path / "without", solutions=False)
    pages = [
        nbformat.read(tmp_path / folder / "01-doubling.ipynb", as_version=4) for folder in ("with", "without")
    ]
    for page in pages:
        assert "colab.research.google.com" in page.cells[1].source
        assert re.search(r"ran from top to bottom in \d+ seconds on", page.cells[1].source)
    task, solution = pages[0].cells[2:4]
    assert task.source == f"```python\n{TASK}\n```"
    assert "hide-input" in solution.metadata.tags
    assert "SOLUTION" not in solution.source
    assert "return x + y" in solution.source
    assert pages[1].cells[2].source == TASK
    assert "return x + y" not in nbformat.writes(pages[1])


@BY_NAME
def test_a_chapter_needs_earlier_ones_only(path: Path) -> None:
    number, needed = int(path.stem[:2]), prerequisites(path.read_text(encoding="utf-8"))
    assert all(1 <= other < number for other in needed)
    assert needed or number == 1


def test_the_instructors_page_lists_chapters_and_mistakes(doubling: Path) -> None:
    chapter_runs.work_through(doubling)
    (row,) = course.overview().to_dict("records")
    assert row["Chapter"] == '<a href="course/01-doubling.html">1. Doubling</a>'
    assert row["Needs"] == ""
    assert row["To learn (minutes)"] == "5"
    assert row["Exercises"] == "1"
    assert row["Ran in (seconds)"].isdecimal()
    assert row["With MNIST (seconds)"] == ""
    assert "<pre>return x</pre> “… twice …”" in course.common_mistakes()
