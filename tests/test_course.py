"""The course: chapters have the parts that students count on, and exercises tell right from wrong."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from nbformat import NotebookNode

from heterofl_core import course
from heterofl_core.course import (
    chapters,
    exercises,
    for_instructors,
    for_students,
    has_tag,
    read_chapter,
    unanswered,
    with_answer,
)

ROOT = Path(__file__).resolve().parents[1]
BY_NAME = pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
RUNS_IN = re.compile(r"\*\*Runs in\.\*\* Under (\d+) minutes? on two CPU cores")


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
        assert sorted(answer.split()[0] for answer in answers)[-2:] != ["Yes:", "Yes:"], question
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
    assert stored == for_students(chapter(path)), "run `make course`"


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
    assert kept.metadata.course.source == course.digest(path), "run `make course`"
    stated = RUNS_IN.search(text_of(chapter(path)))
    assert stated is not None
    assert kept.metadata.course.seconds <= 60 * int(stated[1]) <= 300


# What exercises say


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


@BY_NAME
def test_checks_refuse_no_answer_and_mistakes_and_accept_the_solution(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goes through a chapter: at each exercise as a student who has not begun, who errs, who is right.

    Cells tagged `slow` are left out: they have a test of their own.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    student, notebook = Student(), chapter(path)
    checks: dict[str, tuple[int, NotebookNode]] = {
        check.id: (number, cell) for number, cell, check in exercises(notebook)
    }
    for cell in notebook.cells:
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
    capsys.readouterr()
