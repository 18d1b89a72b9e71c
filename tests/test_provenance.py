"""Where results come from: the code's hash follows what the code does, and no module is forgotten."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heterofl_core import provenance
from heterofl_core.provenance import RESULT_MODULES, git, hashed, meaning

CORE = Path(provenance.__file__).parent
NO_RESULT = {
    *("params", "schedules", "strict_yaml", "traces", "errors", "files", "folders", "own"),
    *("locks", "records", "checkpoints", "cost", "provenance", "contract", "printing"),
    "processor",  # decides last digits, and a record names it
    "estimate",  # by which `auto` chooses an engine, and a record says which
}
"""Modules that a run uses and that cannot change its accuracy."""
AROUND = {
    *("__init__", "__main__", "settings", "studies", "notebooks", "pipeline"),
    *("status", "timings", "verify", "figures", "pages", "results", "equivalence"),
    *("chapters", "chapter_runs", "course", "confusions", "ensembles"),
}
"""Modules that no run uses: they start runs, or read what runs left."""


def same(one: str, other: str) -> bool:
    """Whether two sources mean the same to `code_hash`."""
    return list(meaning(ast.parse(one))) == list(meaning(ast.parse(other)))


def imported(module: str) -> set[str]:
    """The modules of the core that one of them imports, wherever the import stands."""
    nodes = list(ast.walk(ast.parse((CORE / f"{module}.py").read_text(encoding="utf-8"))))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.removeprefix("heterofl_core.") for name in names if name.startswith("heterofl_core.")}


def test_every_module_that_a_run_uses_is_hashed_unless_it_cannot_change_a_result() -> None:
    used, new = {"runs"}, {"runs"}
    while new:
        new = {name for module in new for name in imported(module)} - used
        used |= new
    assert used - NO_RESULT == set(RESULT_MODULES)
    assert used >= NO_RESULT, "the exceptions name a module that a run no longer uses"


def test_every_other_module_is_one_that_no_run_uses() -> None:
    modules = {path.stem for path in CORE.glob("*.py")}
    assert modules - set(RESULT_MODULES) - NO_RESULT == AROUND


def test_every_architecture_task_and_data_set_is_hashed() -> None:
    assert {"cnn", "preresnet", "transformer", "mlp"} < set(RESULT_MODULES)
    assert {"classification", "language", "tasks", "examples", "data", "text"} < set(RESULT_MODULES)
    assert sorted(set(RESULT_MODULES)) == list(RESULT_MODULES)  # each once, easy to find
    assert not set(RESULT_MODULES) & NO_RESULT


FUNCTION = '''
def half(x, *, places=2):
    """Half of x."""
    return round(x / 2, places)
'''


@pytest.mark.parametrize(
    "other",
    [
        FUNCTION.replace('    """Half of x."""\n', ""),
        FUNCTION.replace("Half of x.", "x over two."),
        FUNCTION.replace("(x / 2, places)", "(\n        x / 2,  # by two\n\n        places,\n    )"),
        '"""A module with a docstring."""\n\n\n# and a comment\n' + FUNCTION,
    ],
    ids=["no docstring", "another docstring", "layout and comments", "a module's docstring"],
)
def test_comments_docstrings_and_layout_do_not_count(other: str) -> None:
    assert same(FUNCTION, other)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x / 2", "x / 3"),
        ("x / 2", "x // 2"),
        ("x / 2", "x / 2.0"),
        ("x / 2, places", "places, x / 2"),
        ("x / 2, places", "x / 2, ndigits=places"),
        ("places=2", "places=3"),
        ("x, *, places=2", "x, places=2"),
        ("def half", "async def half"),
        ("return round", "yield round"),
        ("round(x / 2, places)", "round(x / 2)"),
        ("round(x / 2, places)", "[round(x / 2, places)]"),
        ("round(x / 2, places)", "round(x / 2, *places)"),
        ("round(x / 2, places)", "'round(x / 2, places)'"),
    ],
)
def test_a_change_of_the_code_counts(old: str, new: str) -> None:
    assert old in FUNCTION
    assert not same(FUNCTION, FUNCTION.replace(old, new))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("f([1, 2], 3)", "f([1], 2, 3)"),
        ("f(a, b)", "f(b, a)"),
        ("f(a=1, b=2)", "f(a=2, b=1)"),
        ("f(1)", "f(True)"),
        ("f(None)", "f()"),
        ("x[a:]", "x[:a]"),
        ("a and (b or c)", "(a and b) or c"),
        ("global a, b", "global a; global b"),
        ("from . import a", "from .. import a"),
    ],
)
def test_lists_and_keywords_count(one: str, other: str) -> None:
    assert not same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("for a in b:\n    f()\n    g()", "for a in b:\n    f()\ng()"),
        ("if a:\n    f()\n    g()", "if a:\n    f()\ng()"),
        ("with a:\n    f()\n    g()", "with a:\n    f()\ng()"),
        ("x = {'k': a, **b}", "x = {**a, 'k': b}"),
        ("lambda *, a, b=1: 0", "lambda *, a=1, b: 0"),
    ],
)
def test_where_a_block_ends_counts(one: str, other: str) -> None:
    assert not same(one, other)


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """No test sees what another one was told."""
    provenance.code.cache_clear()
    yield
    provenance.code.cache_clear()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the core, which `code_hash` then reads."""
    folder = tmp_path / "heterofl_core"
    shutil.copytree(CORE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
    return folder


def test_the_hash_follows_the_code_that_trains_and_no_other(copy: Path) -> None:
    before = hashed(RESULT_MODULES)
    for change in ("# a comment\n", '"""A text that nobody reads."""\n'):
        with (copy / "heterofl.py").open("a") as file:
            file.write(change)
    with (copy / "figures.py").open("a") as file:
        file.write("COLOUR = 'red'\n")
    assert hashed(RESULT_MODULES) == before
    with (copy / "heterofl.py").open("a") as file:
        file.write("DECAY = 1\n")
    assert hashed(RESULT_MODULES) != before


def test_each_hashed_module_counts(copy: Path) -> None:
    before = hashed(RESULT_MODULES)
    for module in RESULT_MODULES:
        path = copy / f"{module}.py"
        source = path.read_text(encoding="utf-8")
        path.write_text(f"{source}ANSWER = 42\n", encoding="utf-8")
        assert hashed(RESULT_MODULES) != before, module
        path.write_text(source, encoding="utf-8")


def test_provenance_names_versions_machine_commit_and_code() -> None:
    found = provenance.provenance()
    assert set(found) == {"versions", "device", "git_commit", "git_dirty", "code_hash"}
    assert set(found["versions"]) == {"python", "torch", "numpy", "scikit-learn", "joblib"}
    assert found["code_hash"] == hashed(RESULT_MODULES)
    assert found["device"]
    assert json.loads(json.dumps(found)) == found


def test_a_dirty_checkout_is_one_with_changes_that_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # a hook's, which would lead to its own repository
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "--quiet"], [*author, "commit", "--quiet", "--allow-empty", "--message=0"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    (tmp_path / "notes.txt").write_text("changes no result")
    found = provenance.provenance()
    assert (found["git_commit"], found["git_dirty"]) == (head.stdout.strip(), False)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "schedules.yaml").write_text("changes results")
    assert provenance.provenance() == found  # what a run began with is what made it
    provenance.code.cache_clear()
    assert provenance.provenance()["git_dirty"] is True


def test_the_repository_around_a_copy_of_the_study_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    commit = ["git", *author, "commit", "--quiet", "--allow-empty", "--message=theirs"]
    subprocess.run(commit, cwd=tmp_path, check=True)
    (tmp_path / "study").mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "study")
    assert git("rev-parse", "HEAD") is None
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert git("log", "--format=%s") == "theirs"


def test_the_package_without_its_checkout_says_so(tmp_path: Path) -> None:
    shutil.copytree(CORE, tmp_path / "heterofl_core")
    command = [sys.executable, "-c", "import heterofl_core.params"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        "ImportError: heterofl_core is used from its checkout, where params/ stands beside it, but "
        f"{tmp_path} has none; install it from there with: pip install --editable ."
    )


def test_there_is_no_commit_outside_a_checkout_or_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert git("rev-parse", "HEAD") is None
    assert provenance.provenance()["git_dirty"] is None
    monkeypatch.setattr(provenance, "ROOT", CORE.parent)
    assert git("rev-parse", "HEAD") is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git("rev-parse", "HEAD") is None
