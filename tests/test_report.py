"""The report joins records with the paper's tables, and needs neither torch nor the book."""

import ast
import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core import report
from heterofl_core.folders import PARAMS
from heterofl_core.levels import all_mixes
from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import executed_path, write_run

CORE = Path(report.__file__).parent


def a_run(seconds: float = 1.0, **settings: Any) -> dict[str, Any]:
    """A row of `results`, of a run with Table 4's schedule unless settings say otherwise."""
    params = run_params(**{"dataset": "mnist", "levels": "a-e", **settings})
    return {
        "run_id": params.run_id,
        **params.model_dump(mode="json"),
        "best_global_accuracy": 99.0,
        "final_global_accuracy": 98.5,
        "best_local_accuracy": 99.256,
        "final_local_accuracy": 97.0,
        "seconds": seconds,
        "code_hash": code_hash(),
        "git_dirty": False,
    }


def printed(file: str, model: str, column: str) -> float:
    """A cell of the paper's tables, read another way."""
    with (PARAMS / "paper" / file).open(encoding="utf-8") as lines:
        return next(float(line[column]) for line in csv.DictReader(lines) if line["model"] == model)


# What the report may use


@pytest.mark.parametrize("module", ["report", "figures", "records", "params", "pages"])
def test_the_report_needs_no_torch(module: str) -> None:
    program = f"import sys, heterofl_core.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_core_never_imports_the_book() -> None:
    for path in CORE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "book"], path


# Beside the paper


def test_the_papers_accuracies_are_those_of_34_models_on_two_data_sets_in_three_columns() -> None:
    accuracies = report.paper_accuracies()
    assert list(accuracies) == ["dataset", "partition", "levels", "metric", "paper"]
    assert len(accuracies) == 2 * (31 + 3) * 3
    sizes = accuracies.groupby(["dataset", "partition", "metric"]).size().to_dict()
    assert sizes == {
        (dataset, *cell): 34
        for dataset in ("mnist", "cifar10")
        for cell in (
            ("iid", "global_accuracy"),
            ("non-iid-2", "global_accuracy"),
            ("non-iid-2", "local_accuracy"),
        )
    }
    assert {str(mix) for mix in all_mixes()} < set(accuracies["levels"])


def test_a_run_with_the_papers_settings_stands_beside_its_cell() -> None:
    table = report.beside_paper(pd.DataFrame([a_run()]))
    paper = printed("table5_mnist.csv", "a-e", "iid_global_accuracy")
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["metric"], row["paper"], row["best"], row["final"]) == ("global_accuracy", paper, 99.0, 98.5)
    assert row["difference"] == pytest.approx(99.0 - paper, abs=1e-12)


def test_a_non_iid_run_has_a_row_for_each_of_the_papers_two_columns() -> None:
    table = report.beside_paper(pd.DataFrame([a_run(partition="non-iid-2")])).set_index("metric")
    assert table["paper"].to_dict() == {
        "global_accuracy": printed("table5_mnist.csv", "a-e", "noniid_global_accuracy"),
        "local_accuracy": printed("table5_mnist.csv", "a-e", "noniid_local_accuracy"),
    }
    assert table["best"].to_dict() == {"global_accuracy": 99.0, "local_accuracy": 99.256}


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "bn"},
        {"scaler": False},
        {"masked_loss": "none"},
        {"assignment": "fix"},
        {"num_clients": 10},
        {"participation": 0.2},
        {"levels": "a3-e7"},
        {"dataset": "digits"},
    ],
    ids=str,
)
def test_a_run_with_other_settings_has_no_cell_in_the_paper(settings: dict[str, Any]) -> None:
    table = report.beside_paper(pd.DataFrame([a_run(**settings)]))
    assert table["best"].tolist() == [99.0]
    assert table[["paper", "difference"]].isna().all(axis=None)


@pytest.mark.parametrize("settings", [{"protocol": "short"}, {"rounds": 3}, {"seed": 4}, {"levels": "e"}])
def test_another_schedule_or_seed_is_compared_all_the_same(settings: dict[str, Any]) -> None:
    row = report.beside_paper(pd.DataFrame([a_run(**settings)])).iloc[0]
    assert row["paper"] == printed("table5_mnist.csv", row["levels"], "iid_global_accuracy")


def test_a_partition_that_the_paper_leaves_out_has_no_row() -> None:
    runs = pd.DataFrame([a_run(partition="non-iid-1"), a_run()])
    assert report.beside_paper(runs)["partition"].tolist() == ["iid"]


def test_mnist_comes_before_digits_and_seeds_ascend() -> None:
    runs = [a_run(dataset="digits"), a_run(seed=1), a_run(levels="e"), a_run()]
    table = report.beside_paper(pd.DataFrame(runs))
    assert list(zip(table["dataset"], table["levels"], table["seed"], strict=True)) == [
        ("mnist", "a-e", 0),
        ("mnist", "a-e", 1),
        ("mnist", "e", 0),
        ("digits", "a-e", 0),
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "current"),
        ({"git_dirty": True}, "uncommitted"),
        ({"code_hash": "0123456789abcdef"}, "stale"),
        ({"code_hash": "0123456789abcdef", "git_dirty": True}, "stale"),
    ],
)
def test_a_record_of_other_code_is_stale(changes: dict[str, Any], expected: str) -> None:
    assert report.beside_paper(pd.DataFrame([a_run() | changes]))["state"].tolist() == [expected]


# For people


def cells(html: str) -> list[str]:
    """The texts of a table's cells, row by row."""
    return [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", html, re.DOTALL)]


@pytest.mark.usefixtures("outputs")
def test_the_table_of_runs_has_two_decimals_and_a_sign_on_differences() -> None:
    html = report.table_of_runs(pd.DataFrame([a_run(partition="non-iid-2"), a_run(norm="bn")])).to_html()
    paper = printed("table5_mnist.csv", "a-e", "noniid_local_accuracy")
    assert re.findall(r"<th .*?>(.*?)</th>", html) == list(report.COLUMNS.values())
    width = len(report.COLUMNS)
    iid, _, local = (cells(html)[start : start + width] for start in range(0, 3 * width, width))
    assert iid[5:] == ["Global", "–", "99.00", "98.50", "–", "current"]
    assert local == [
        *("mnist", "non-iid-2", "a-e, dynamic", "paper, 400 rounds", "0", "Local"),
        *(f"{paper:.2f}", "99.26", "97.00", f"{99.256 - paper:+.2f}", "current"),
    ]


@pytest.mark.usefixtures("outputs")
def test_a_run_leads_to_its_page_if_it_has_one() -> None:
    run = a_run()
    assert "<a " not in report.table_of_runs(pd.DataFrame([run])).to_html()
    page = executed_path(run["run_id"])
    page.parent.mkdir(parents=True)
    page.touch()
    html = report.table_of_runs(pd.DataFrame([run])).to_html()
    assert f'<a href="../executed/{run["run_id"]}.html">a-e, dynamic</a>' in html


@pytest.mark.usefixtures("outputs")
def test_curves_carry_their_runs_settings() -> None:
    rounds = pd.DataFrame({"round": [1, 2], "global_accuracy": [10.0, 20.0]})
    runs = pd.DataFrame([a_run(), a_run(levels="e")])
    for run_id in runs["run_id"]:
        write_run({"run_id": run_id}, rounds)
    curves = report.curves(runs)
    assert curves["levels"].tolist() == ["a-e", "a-e", "e", "e"]
    assert curves["round"].tolist() == [1, 2, 1, 2]


@pytest.mark.usefixtures("outputs")
def test_without_runs_the_table_is_empty() -> None:
    assert report.results().empty
    assert report.table_of_runs(report.results()).to_html()


@pytest.mark.usefixtures("outputs")
def test_without_runs_there_are_no_curves() -> None:
    assert report.curves(report.results()).empty


def test_schedules_are_what_runs_get() -> None:
    schedules = report.schedules()
    for column in schedules:
        dataset, _, partition = str(column).partition(", ")
        params = run_params(dataset=dataset, levels="e", partition=partition).model_dump(mode="json")
        assert schedules[column].to_dict() == {name: params[name] for name in schedules.index}


def test_a_page_is_titled_by_its_run() -> None:
    params = run_params(dataset="mnist", levels="a-e", partition="non-iid-2", protocol="short", seed=3)
    title = "MNIST, non-IID-2, levels a-e (dynamic), 40 rounds, seed 3"
    assert report.title_of(params.model_dump(mode="json")) == title


def test_settings_are_listed_one_by_one() -> None:
    params = run_params(dataset="mnist", levels="a-e")
    table = report.settings_of(params)[params.run_id]
    assert table.index.tolist() == list(type(params).model_fields)
    assert (table["rounds"], table["milestones"], table["scaler"]) == ("200", "[100]", "True")


def test_accuracies_of_a_run_tell_the_best_and_the_last() -> None:
    metrics = {
        "best_global_accuracy": 99.0,
        "best_global_accuracy_round": 7,
        "final_global_accuracy": 98.456,
        "best_local_accuracy": 100.0,
        "best_local_accuracy_round": 9,
        "final_local_accuracy": 97.0,
    }
    table = report.accuracies_of({"metrics": metrics})
    assert table.to_dict(orient="index") == {
        "Global accuracy": {"best (%)": "99.00", "in round": 7, "final (%)": "98.46"},
        "Local accuracy": {"best (%)": "100.00", "in round": 9, "final (%)": "97.00"},
    }
