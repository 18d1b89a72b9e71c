"""The whole way of the data: parameters, papermill notebook, record, results, book."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from heterofl_core.folders import ROOT

TOC = """\
format: jb-book
root: report/runs
chapters:
  - file: glossary
  - file: report/figures
    sections:
      - file: report/figure9
  - file: bibliography
  - glob: executed/*
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a fresh clone has, without any run."""
    for folder in ("heterofl_core", "params", "book"):
        ignore = shutil.ignore_patterns("_build", "executed", "course", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    # The pages that show runs; all others are built by the book's own tests.
    (tmp_path / "book" / "_toc.yml").write_text(TOC, encoding="utf-8")
    return tmp_path


def test_a_run_becomes_a_page_and_a_row_of_the_book(checkout: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    environment.pop("HETEROFL_OUTPUTS", None)

    def step(*command: str) -> str:
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    core = [sys.executable, "-m", "heterofl_core"]
    step(*core, "notebook", "-f", "params/quickstart.yaml", "-p", "protocol=smoke", "-p", "num_clients=20")
    built = step(*core, "book")
    assert built.splitlines()[-1] == f"The book: {checkout / 'book' / '_build' / 'html' / 'index.html'}"

    results = pd.read_csv(checkout / "outputs" / "results.csv")
    (run_id,) = results["run_id"]
    site = checkout / "book" / "_build" / "html"
    page = (site / "executed" / f"{run_id}.html").read_text()
    assert "Digits, IID, levels a-c-e (dynamic), num_clients 20, local_epochs 1, 2 rounds" in page
    table = (site / "report" / "runs.html").read_text()
    assert f'href="../runs/{run_id}.html"' in table
    assert f"{results['best_global_accuracy'][0]:.2f}" in table
