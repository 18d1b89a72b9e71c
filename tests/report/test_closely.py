"""What "Reading the paper closely" compares and draws agrees with the layers and the records."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.io.formats.style import Styler
from torch.nn import functional as F

from heterofl_core.cost import Cost
from heterofl_core.folders import BOOK
from heterofl_core.layers import mask_logits
from heterofl_core.levels import LEVELS
from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import write_run
from heterofl_core.report import closely, exhibits, run_tables

LOGITS = np.array([2.0, 1.0, -1.0, 0.5])
HELD = np.array([True, True, False, False])


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


def test_the_figure_of_heads_shows_a_prefix_of_each() -> None:
    prefix, each_head = closely.heads("c").axes[0].images[0].get_array().data  # type: ignore[union-attr]
    assert np.flatnonzero(prefix).tolist() == list(range(64))
    assert np.flatnonzero(each_head).tolist() == [32 * head + own for head in range(8) for own in range(8)]


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


# Loss and norm, beside torch


@pytest.mark.parametrize("masked_loss", closely.MASKS)
def test_masks_agree_with_those_of_training(masked_loss: str) -> None:
    """Loss and gradient, by torch's own derivative."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = F.cross_entropy(mask_logits(logits, torch.tensor(HELD), masked_loss), torch.tensor(0))
    (gradient,) = torch.autograd.grad(loss, logits)
    row = closely.masks(LOGITS, HELD, label=0).set_index("masked_loss").loc[masked_loss]
    assert row["loss"] == pytest.approx(loss.item())
    assert [row[f"gradient {number}"] for number in range(4)] == pytest.approx(gradient.tolist())


def test_an_absent_label_keeps_its_place_in_the_softmax_of_zero_only() -> None:
    """Two labels with logit 0 held, two absent."""
    even = np.zeros(4)
    assert closely.masked_softmax(even, HELD, "zero").tolist() == [0.25] * 4
    assert closely.masked_softmax(even, HELD, "neg_inf").tolist() == [0.5, 0.5, 0, 0]


def test_one_class_learns_nothing_from_minus_infinity() -> None:
    alone = np.array([True, False, False, False])
    row = closely.masks(LOGITS, alone, label=0).set_index("masked_loss").loc["neg_inf"]
    assert (row == 0).all()


def test_the_norm_is_that_of_torch_and_cancels_a_scale() -> None:
    x = np.random.default_rng(0).normal(size=(10, 4))
    expected = F.batch_norm(torch.tensor(x), None, None, training=True, eps=closely.EPSILON)
    assert closely.batch_norm(x) == pytest.approx(expected.numpy())
    assert closely.batch_norm(16 * x) == pytest.approx(closely.batch_norm(x), abs=1e-4)


# Records


def finished(curve: Mapping[str, list[float]], **settings: Any) -> None:
    """Writes the record of a run with such a curve."""
    params = run_params(**settings)
    rounds = pd.DataFrame({"round": range(1, 1 + len(next(iter(curve.values())))), **curve})
    metrics = {f"best_{name}": max(values) for name, values in curve.items()}
    metrics |= {f"final_{name}": values[-1] for name, values in curve.items()}
    record = {
        "run_id": params.run_id,
        "params": params.model_dump(mode="json"),
        "metrics": metrics,
        "cost": vars(Cost(1, 1, 1, 1, 1.0)),
        "code_hash": code_hash(),
        "git_dirty": False,
    }
    write_run(record, rounds)


def test_what_was_not_run_is_said(outputs: Path) -> None:
    table = cells(closely.recorded("global_accuracy", dataset="mnist", levels="a-e", scaler=[True, False]))
    assert table["Setting"].tolist() == ["scaler True", "scaler False"]
    assert all(cell.startswith("<details><summary>not run</summary>") for cell in table["Code"])
    assert "-p scaler=false" in table["Code"][1]
    assert table["Best"].tolist() == ["–", "–"]


def test_each_schedule_that_was_run_has_its_row(outputs: Path) -> None:
    """The mean over the seeds of one schedule; fewer rounds first."""
    common: dict[str, Any] = {"dataset": "mnist", "levels": "a-e"}
    finished({"global_accuracy": [90.0, 80.0]}, **common, rounds=2)
    finished({"global_accuracy": [91.0, 70.0]}, **common, rounds=2, seed=1)
    finished({"global_accuracy": [60.0]}, **common, rounds=1)
    finished({"global_accuracy": [50.0]}, **common, rounds=1, scaler=False)
    table = cells(closely.recorded("global_accuracy", **common, norm=["sbn", "gn"]))
    assert table.to_dict("list") == {
        "Setting": ["norm sbn", "norm sbn", "norm gn"],
        "Rounds": ["1", "2", "–"],
        "Seeds": ["1", "2", "–"],
        "Best": ["60.00", "90.50", "–"],
        "Final": ["60.00", "75.00", "–"],
        "Code": ["current", "current", exhibits.not_run(run_params(**common, norm="gn"))],
    }


def test_local_accuracy_is_read_where_global_is_best(outputs: Path) -> None:
    curve = {"global_accuracy": [50.0, 60.0, 55.0], "local_accuracy": [90.0, 92.0, 95.0]}
    finished(curve, dataset="mnist", partition="non-iid-2", levels="a-e", rounds=3)
    finished(curve, dataset="mnist", levels="a-e", rounds=3)
    table = closely.two_bests(run_tables.results())
    assert table[["best Local", "Local where Global is best"]].to_numpy().tolist() == [[95.0, 92.0]]


def test_without_runs_there_is_no_local_accuracy(outputs: Path) -> None:
    assert closely.two_bests(run_tables.results()).empty


def test_who_looks_more_often_finds_a_better_best(outputs: Path) -> None:
    curve = [50.0] * 100
    curve[3], curve[14], curve[39] = 90.0, 80.0, 70.0  # rounds 4, 15, 40
    finished({"global_accuracy": curve}, dataset="mnist", levels="a-e", rounds=100)
    finished({"global_accuracy": curve[:20]}, dataset="mnist", levels="a", rounds=20)  # too short to tell
    table = closely.looks(run_tables.results())
    assert table.drop(columns="run").to_dict("records") == [
        {"each round": 90.0, "each 5th": 80.0, "each 10th": 70.0, "each 50th": 50.0, "last": 50.0}
    ]


def test_a_run_that_was_evaluated_now_and_then_says_nothing_about_looks(outputs: Path) -> None:
    finished({"global_accuracy": [50.0] * 20}, dataset="mnist", levels="a-e", rounds=100, eval_every=5)
    assert closely.looks(run_tables.results()).empty
