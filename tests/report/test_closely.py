"""The pages of "Reading the paper closely" and their tables."""

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.io.formats.style import Styler

from heterofl_core.folders import BOOK
from heterofl_core.levels import LEVELS
from heterofl_core.params import run_params
from heterofl_core.report import closely, exhibits, run_tables


@pytest.fixture(autouse=True)
def records_read_anew() -> None:
    """A page reads the records once; each test has its own."""
    exhibits.all_evidence.cache_clear()


def cells(table: Styler) -> pd.DataFrame:
    """What a styled table shows."""
    return pd.DataFrame(table.data)  # type: ignore[attr-defined]


# Tables of the page


def test_tables_show_counts_with_commas_and_decimals_as_asked() -> None:
    values = pd.DataFrame({"name": ["x", "y"], "count": [1234, 5], 3: [0.5, np.nan], "flag": [True, False]})
    assert cells(closely.shown(values, decimals=1)).to_dict("list") == {
        "name": ["x", "y"],
        "count": ["1,234", "5"],
        "3": ["0.5", "–"],
        "flag": ["True", "False"],
    }


def test_rows_become_a_table() -> None:
    assert cells(closely.shown([("x", 1), ("y", 2)], "name", "count")).to_dict("list") == {
        "name": ["x", "y"],
        "count": ["1", "2"],
    }


def test_a_table_without_rows_says_so() -> None:
    table = closely.shown(run_tables.beside_paper(pd.DataFrame({"run_id": []})))
    assert "no such run yet" in table.to_html()


def test_levels_stand_below_each_other() -> None:
    printed = pd.Series({"e": 5, "a": 1, "b": 2, "c": 3, "d": 4, "a-e": 9})
    table = cells(closely.by_level({"rate": lambda rate: rate, "printed": printed}, decimals=4))
    assert table["level"].tolist() == list(LEVELS)
    assert table["rate"].tolist() == ["1.0000", "0.5000", "0.2500", "0.1250", "0.0625"]
    assert table["printed"].tolist() == ["1", "2", "3", "4", "5"]


# The pages


def test_the_overview_leads_to_each_section() -> None:
    """That no link is broken, the build of the book tells."""
    report = BOOK / "report"
    overview = (report / "closely.md").read_text(encoding="utf-8")
    pages = re.findall(r"^## \[.+\]\((.+)\)$", overview, re.MULTILINE)
    links = re.findall(r"^- \[\]\((.+)#(.+)\)$", overview, re.MULTILINE)
    sections = {
        page: len(re.findall("^## ", (report / page).read_text(encoding="utf-8"), re.MULTILINE))
        for page in pages
    }
    assert Counter(page for page, _ in set(links)) == sections


# Records


def test_what_was_not_run_is_said(outputs: Path) -> None:
    shown = closely.recorded("global_accuracy", dataset="mnist", levels="a-e", scaler=[True, False])
    assert vars(shown)["caption"] == "Global accuracy: accuracy (%); dataset mnist, levels a-e"
    table = cells(shown)
    assert table["Setting"].tolist() == ["scaler True", "scaler False"]
    assert all(cell.startswith("<details><summary>not run</summary>") for cell in table["Code"])
    assert "-p scaler=false" in table["Code"][1]
    assert table["Best"].tolist() == ["–", "–"]


def test_a_run_that_diverged_has_a_dash(finish: Callable[..., None]) -> None:
    finish({"perplexity": [5.0, math.nan]}, dataset="wikitext2", levels="e")
    table = cells(closely.recorded("perplexity", dataset="wikitext2", levels="e"))
    assert (table["Best"].tolist(), table["Final"].tolist()) == (["5.00"], ["–"])


def test_each_schedule_that_was_run_has_its_row(finish: Callable[..., None]) -> None:
    """The mean over the seeds of one schedule; fewer rounds first."""
    common: dict[str, Any] = {"dataset": "mnist", "levels": "a-e"}
    finish({"global_accuracy": [90.0, 80.0]}, **common, rounds=2)
    finish({"global_accuracy": [91.0, 70.0]}, **common, rounds=2, seed=1)
    finish({"global_accuracy": [60.0]}, **common, rounds=1)
    finish({"global_accuracy": [50.0]}, **common, rounds=1, scaler=False)
    table = cells(closely.recorded("global_accuracy", **common, norm=["sbn", "gn"]))
    assert table.to_dict("list") == {
        "Setting": ["norm sbn", "norm sbn", "norm gn"],
        "Rounds": ["1", "2", "–"],
        "Seeds": ["1", "2", "–"],
        "Best": ["60.00", "90.50", "–"],
        "Final": ["60.00", "75.00", "–"],
        "Code": ["current", "current", exhibits.not_run(run_params(**common, norm="gn"))],
    }
