"""The report joins records with the paper's tables, and needs neither torch nor the book."""

import ast
import csv
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import heterofl_core
from heterofl_core.folders import PARAMS
from heterofl_core.params import RunParams, run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import write_run
from heterofl_core.report import run_tables
from heterofl_core.report.evidence import CROWD
from heterofl_core.report.paper import TABLES, paper_value
from heterofl_core.report.tables import NOT_RUN
from heterofl_core.report.titles import variation
from heterofl_core.status import STATES

CORE = Path(heterofl_core.__file__).parent


def a_run(seconds: float = 1.0, **settings: Any) -> dict[str, Any]:
    """A row of `results`, of a run with Table 4's schedule unless settings say otherwise."""
    params = run_params(**{"dataset": "mnist", "levels": "a-e", **settings})
    metrics = {
        "best_global_accuracy": 99.0,
        "final_global_accuracy": 98.5,
        "best_local_accuracy": 99.256,
        "final_local_accuracy": 97.0,
    }
    perplexities = {"best_perplexity": 3.25, "final_perplexity": 3.5, "best_masked_perplexity": 1500.0}
    return {
        "run_id": params.run_id,
        **params.model_dump(mode="json"),
        **(perplexities if params.dataset == "wikitext2" else metrics),
        "seconds": seconds,
        "code_hash": code_hash(),
        "git_dirty": False,
        "state": "current",
    }


def printed(file: str, model: str, column: str) -> float:
    """A cell of the paper's tables, read another way."""
    with (PARAMS / "paper" / file).open(encoding="utf-8") as lines:
        return next(float(line[column]) for line in csv.DictReader(lines) if line["model"] == model)


# What the report may use


def test_the_core_never_imports_the_book() -> None:
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            outside = {"book", "heterofl_flower", "benchmarks"}
            assert not {name.split(".")[0] for name in names} & outside, path


# Beside the paper


def papers(run: dict[str, Any]) -> float | None:
    """What the paper printed for a row of `results`, by the first of the metrics it has for the partition."""
    metric = "perplexity" if run["dataset"] == "wikitext2" else "global_accuracy"
    return paper_value(run_tables.params_of(run), metric)


def test_a_run_with_the_papers_settings_stands_beside_its_cell() -> None:
    table = run_tables.beside_paper(pd.DataFrame([a_run()]))
    paper = printed("table5_mnist.csv", "a-e", "iid_global_accuracy")
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["metric"], row["paper"], row["best"], row["final"]) == ("global_accuracy", paper, 99.0, 98.5)
    assert row["difference"] == pytest.approx(99.0 - paper, abs=1e-12)


def test_a_non_iid_run_has_a_row_for_each_of_the_papers_two_columns() -> None:
    table = run_tables.beside_paper(pd.DataFrame([a_run(partition="non-iid-2")])).set_index("metric")
    assert table["paper"].to_dict() == {
        "global_accuracy": printed("table5_mnist.csv", "a-e", "noniid_global_accuracy"),
        "local_accuracy": printed("table5_mnist.csv", "a-e", "noniid_local_accuracy"),
    }
    assert table["best"].to_dict() == {"global_accuracy": 99.0, "local_accuracy": 99.256}


@pytest.mark.parametrize("levels", ["a", "a-b-c-d-e", "e"])
def test_a_run_on_text_stands_beside_its_perplexity(levels: str) -> None:
    table = run_tables.beside_paper(pd.DataFrame([a_run(), a_run(dataset="wikitext2", levels=levels)]))
    paper = printed("table7_wikitext2.csv", levels, "iid_global_perplexity")
    assert table["metric"].tolist() == ["global_accuracy", "perplexity"]
    row = table.iloc[1]
    assert (row["dataset"], row["levels"], row["variation"]) == ("wikitext2", levels, "")
    assert (row["paper"], row["best"], row["final"]) == (paper, 3.25, 3.5)
    assert row["difference"] == pytest.approx(3.25 - paper, abs=1e-12)


def test_a_run_that_diverged_has_a_row_without_numbers() -> None:
    run = a_run(dataset="wikitext2") | {"best_perplexity": math.nan, "final_perplexity": math.nan}
    (row,) = run_tables.beside_paper(pd.DataFrame([run])).to_dict("records")
    assert row["metric"] == "perplexity"
    assert all(math.isnan(row[name]) for name in ("best", "final", "difference"))


@pytest.mark.parametrize("partition", ["iid", "non-iid-2"])
def test_a_run_on_cifar10_stands_beside_table_6(partition: str) -> None:
    run = a_run(dataset="cifar10", levels="a-e", partition=partition)
    table = run_tables.beside_paper(pd.DataFrame([run])).set_index("metric")
    name = partition.replace("-iid-2", "iid")
    expected = {"global_accuracy": printed("table6_cifar10.csv", "a-e", f"{name}_global_accuracy")}
    if name == "noniid":
        expected["local_accuracy"] = printed("table6_cifar10.csv", "a-e", "noniid_local_accuracy")
    assert table["paper"].to_dict() == expected


PAPERS: list[dict[str, Any]] = [
    {"dataset": "mnist"},
    {"dataset": "mnist", "levels": "e", "partition": "non-iid-2"},
    {"dataset": "cifar10"},
    {"dataset": "cifar10", "levels": "a"},
    {"dataset": "wikitext2"},
    {"dataset": "wikitext2", "levels": "b"},
    {"dataset": "mnist", "protocol": "short", "seed": 3},
]
MLP: dict[str, Any] = {"arch": "mlp", "levels": "a"}
OTHERS: list[Any] = [
    ({"dataset": "mnist", "arch": "mlp"}, "arch mlp, norm none"),
    ({"dataset": "mnist", "arch": "preresnet18"}, "arch preresnet18"),
    ({"dataset": "mnist", "norm": "bn"}, "norm bn"),
    ({"dataset": "mnist", "norm": "none", "scaler": False}, "norm none, scaler False"),
    ({"dataset": "mnist", "levels": "a", "method": "fedavg"}, "fedavg, cnn"),
    ({"dataset": "wikitext2", "levels": "a", "method": "fedavg"}, "fedavg, transformer"),
    ({"dataset": "mnist", "selection": "rolling"}, "selection rolling"),
    ({"dataset": "mnist", "label_restricted": False}, "label_restricted False"),
    ({"dataset": "cifar10", "arch": "cnn"}, "arch cnn"),
    ({"dataset": "cifar10", "norm": "gn"}, "norm gn"),
    ({"dataset": "cifar10", "blocks": [2, 2, 2, 2]}, "blocks [2, 2, 2, 2]"),
    ({"dataset": "cifar10", "augmented_statistics": False}, "augmented_statistics False"),
    pytest.param(*({"dataset": "cifar10", "augmented": False}, "augmented False")),
    pytest.param(*({"dataset": "mnist", "augmented": True}, "augmented True")),
    ({"dataset": "wikitext2", "masked_loss": "none"}, "masked_loss none"),
    ({"dataset": "wikitext2", "label_restricted": False}, "label_restricted False"),
]


@pytest.mark.parametrize("settings", PAPERS, ids=str)
def test_the_papers_setting_is_known_for_each_data_set(settings: dict[str, Any]) -> None:
    run = a_run(**settings)
    assert variation(run) == ""
    assert papers(run) is not None


@pytest.mark.parametrize(("settings", "changed"), OTHERS, ids=str)
def test_any_other_setting_is_named_and_has_no_row_in_the_paper(
    settings: dict[str, Any], changed: str
) -> None:
    both = run_tables.each_run(pd.DataFrame([a_run(), a_run(**settings)]))  # a column may lack values
    _, run = both
    assert variation(run) == changed
    assert papers(run) is None


@pytest.mark.parametrize(
    "settings",
    [{"assignment": "fix"}, {"assignment": "uniform"}, {"trace": "a" * 50 + "e" * 50}],
    ids=str,
)
@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "wikitext2"])
def test_other_levels_change_no_method_but_have_no_row(dataset: str, settings: dict[str, Any]) -> None:
    run = a_run(dataset=dataset, **settings)
    assert variation(run) == ""
    assert papers(run) is None


@pytest.mark.parametrize("name", ["num_clients", "participation", "lr", "local_epochs"])
@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "wikitext2"])
def test_another_recipe_is_told(dataset: str, name: str) -> None:
    """Runs that differ in nothing else would look the same; with another crowd they ask something else."""
    value = {"num_clients": 50, "participation": 0.2, "lr": 0.03, "local_epochs": 2}[name]
    run = a_run(dataset=dataset, **{name: value})
    assert variation(run) == f"{name} {value}"
    assert (papers(run) is None) == (name in CROWD)


@pytest.mark.parametrize(
    ("method", "name"), [("standalone", "Standalone"), ("fedavg", "FedAvg"), ("lg-fedavg", "LG-FedAvg")]
)
@pytest.mark.parametrize(("dataset", "file"), list(TABLES.items())[:2])
def test_a_baseline_stands_beside_its_own_row(method: str, name: str, dataset: str, file: str) -> None:
    run = a_run(dataset=dataset, method=method, partition="non-iid-2", **MLP)
    assert variation(run) == f"{method}, mlp"
    table = run_tables.beside_paper(pd.DataFrame([run])).set_index("metric")
    assert table["paper"].to_dict() == {
        "global_accuracy": printed(file, name, "noniid_global_accuracy"),
        "local_accuracy": printed(file, name, "noniid_local_accuracy"),
    }


@pytest.mark.parametrize(
    "settings",
    [
        {**MLP, "arch": "cnn", "method": "fedavg"},
        {**MLP, "method": "standalone", "num_clients": 50},
        pytest.param({**MLP, "method": "fedavg", "levels": "e"}),
        pytest.param({**MLP, "method": "fedavg", "augmented": True}),
    ],
    ids=str,
)
def test_another_baseline_has_no_row(settings: dict[str, Any]) -> None:
    assert papers(a_run(**settings)) is None


@pytest.mark.parametrize(
    ("method", "settings", "changed"),
    [
        ("lg-fedavg", {"shared_layers": 1}, "shared_layers 1"),
        ("lg-fedavg", {"augmented": True}, "augmented True"),
        ("standalone", {"augmented": True, "batch_size": 5}, "augmented True, batch_size 5"),
    ],
    ids=str,
)
def test_baselines_with_other_switches_are_told_apart(
    method: str, settings: dict[str, Any], changed: str
) -> None:
    assert variation(a_run(method=method, **MLP)) == f"{method}, mlp"
    assert variation(a_run(method=method, **MLP, **settings)) == f"{method}, mlp, {changed}"


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
        {"levels": "a", "method": "fedavg"},
        {"selection": "random"},
        {"label_restricted": False},
        {"arch": "mlp"},
    ],
    ids=str,
)
def test_a_run_with_other_settings_has_no_cell_in_the_paper(settings: dict[str, Any]) -> None:
    table = run_tables.beside_paper(pd.DataFrame([a_run(**settings)]))
    assert table["best"].tolist() == [99.0]
    assert table[["paper", "difference"]].isna().all(axis=None)


@pytest.mark.parametrize("settings", [{"protocol": "short"}, {"rounds": 3}, {"seed": 4}, {"levels": "e"}])
def test_another_schedule_stands_beside_the_paper_without_a_difference(settings: dict[str, Any]) -> None:
    row = run_tables.beside_paper(pd.DataFrame([a_run(**settings)])).iloc[0]
    assert row["paper"] == printed("table5_mnist.csv", row["levels"], "iid_global_accuracy")
    difference = 99.0 - row["paper"] if row["protocol"] == "paper" else math.nan
    assert row["difference"] == pytest.approx(difference, nan_ok=True)


def test_what_is_defined_otherwise_has_no_difference_on_the_page_of_runs() -> None:
    settings: dict[str, Any] = {"method": "standalone", "arch": "mlp", "levels": "a"}
    run = a_run(**settings, partition="non-iid-2")
    table = run_tables.beside_paper(pd.DataFrame([run])).set_index("metric")
    assert table["paper"].to_dict() == {"global_accuracy": 30.41, "local_accuracy": 98.72}
    assert table["difference"].isna().to_dict() == {"global_accuracy": True, "local_accuracy": False}


@pytest.mark.parametrize("partition", ["non-iid-1", "dirichlet-0.5"])
def test_a_partition_that_the_paper_leaves_out_has_all_metrics_and_no_cell(partition: str) -> None:
    table = run_tables.beside_paper(pd.DataFrame([a_run(partition=partition)])).set_index("metric")
    assert table["best"].to_dict() == {"global_accuracy": 99.0, "local_accuracy": 99.256}
    assert table[["paper", "difference"]].isna().all(axis=None)


def test_runs_are_in_order_of_data_partition_variation_levels_and_seed() -> None:
    settings: list[dict[str, Any]] = [
        {"dataset": "wikitext2"},
        {"partition": "non-iid-1"},
        {"seed": 1},
        {"norm": "bn"},
        {"levels": "e"},
        {},
        {"dataset": "digits"},
    ]
    table = run_tables.beside_paper(pd.DataFrame([a_run(**one) for one in settings]))
    names = ["dataset", "partition", "variation", "levels", "seed"]
    assert list(table[names].drop_duplicates().itertuples(index=False, name=None)) == [
        ("digits", "iid", "", "a-e", 0),
        ("mnist", "iid", "", "a-e", 0),
        ("mnist", "iid", "", "a-e", 1),
        ("mnist", "iid", "", "e", 0),
        ("mnist", "iid", "norm bn", "a-e", 0),
        ("mnist", "non-iid-1", "", "a-e", 0),
        ("wikitext2", "iid", "", "a-e", 0),
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
@pytest.mark.usefixtures("outputs")
def test_the_state_of_the_code_is_that_of_the_record(changes: dict[str, Any], expected: str) -> None:
    params = run_params(dataset="mnist", levels="e").model_dump(mode="json")
    record = {"run_id": "run", "params": params, "metrics": {}, "cost": {}}
    code = {"code_hash": code_hash(), "git_dirty": False}
    assert run_tables.results([record | code | changes])["state"].tolist() == [expected]
    assert run_tables.beside_paper(pd.DataFrame([a_run() | {"state": expected}]))["state"].tolist() == [
        expected
    ]


# For people


def cells(html: str) -> list[str]:
    """The texts of a table's cells, row by row."""
    return [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", html, re.DOTALL)]


@pytest.mark.usefixtures("outputs")
def test_the_table_of_runs_has_two_decimals_and_a_sign_on_differences() -> None:
    html = run_tables.table_of_runs(pd.DataFrame([a_run(partition="non-iid-2"), a_run(norm="bn")])).to_html()
    paper = printed("table5_mnist.csv", "a-e", "noniid_local_accuracy")
    assert re.findall(r"<th .*?>(.*?)</th>", html) == list(run_tables.COLUMNS.values())
    width = len(run_tables.COLUMNS)
    iid, _, local = (cells(html)[start : start + width] for start in range(0, 3 * width, width))
    assert iid[:4] == ["mnist, iid", "a-e, dynamic", "norm bn", "paper, 200 rounds"]
    assert iid[5:] == ["Global accuracy", "–", "99.00", "98.50", "–", "current"]
    assert local == [
        *("mnist, non-iid-2", "a-e, dynamic", "", "paper, 400 rounds", "0", "Local accuracy"),
        *(f"{paper:.2f}", "99.26", "97.00", f"{99.256 - paper:+.2f}", "current"),
    ]


@pytest.mark.usefixtures("outputs")
def test_a_metric_of_a_run_that_diverged_is_a_dash_on_its_page() -> None:
    found = {"best_perplexity": math.nan, "best_perplexity_round": 1, "final_perplexity": math.nan}
    (row,) = run_tables.metrics_of({"metrics": found}).to_dict("records")
    assert row == {"best": "–", "in round": 1, "final": "–"}


def test_the_table_of_runs_says_which_were_rounded_to_bfloat16() -> None:
    exact, rounded = a_run(protocol="short"), a_run(protocol="short", precision="bf16")
    html = run_tables.table_of_runs(pd.DataFrame([exact, rounded])).to_html()
    assert html.count("short, 20 rounds<") == html.count("short, 20 rounds, bf16<") == 1


def test_a_perplexity_has_its_line_in_the_table_of_runs() -> None:
    html = run_tables.table_of_runs(pd.DataFrame([a_run(dataset="wikitext2"), a_run()])).to_html()
    paper = printed("table7_wikitext2.csv", "a-e", "iid_global_perplexity")
    assert cells(html)[len(run_tables.COLUMNS) :] == [
        *("wikitext2, iid", "a-e, dynamic", "", "paper, 100 rounds", "0", "Perplexity"),
        *(f"{paper:.2f}", "3.25", "3.50", f"{3.25 - paper:+.2f}", "current"),
    ]


@pytest.mark.parametrize(
    ("levels", "settings"),
    [
        ("a", {"method": "fedavg"}),
        ("a-e", {"selection": "rolling"}),
        ("a", {"arch": "mlp"}),
        ("a", {"norm": "bn"}),
        ("a", {"augmented": True}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("outputs")
def test_the_table_of_runs_tells_runs_apart(levels: str, settings: dict[str, Any]) -> None:
    width = len(run_tables.COLUMNS)
    both = [a_run(levels=levels), a_run(levels=levels, **settings)]
    html = run_tables.table_of_runs(pd.DataFrame(both)).to_html()
    described = {tuple(cells(html)[start : start + 7]) for start in (0, width)}  # what stands before numbers
    assert len(described) == 2


@pytest.mark.usefixtures("outputs")
def test_a_run_leads_to_its_page() -> None:
    run = a_run()
    html = run_tables.table_of_runs(pd.DataFrame([run])).to_html()
    assert f'<a href="../runs/{run["run_id"]}.html">a-e, dynamic</a>' in html


@pytest.mark.usefixtures("outputs")
def test_curves_carry_their_runs_settings() -> None:
    rounds = pd.DataFrame({"round": [1, 2], "global_accuracy": [10.0, 20.0]})
    runs = pd.DataFrame([a_run(), a_run(levels="e", norm="bn"), a_run(method="fedavg", **MLP)])
    for run_id in runs["run_id"]:
        write_run({"run_id": run_id}, rounds)
    curves = run_tables.curves(runs)
    assert curves["levels"].tolist() == ["a-e", "a-e", "e", "e", "a", "a"]
    assert curves["variation"].tolist() == ["", "", "norm bn", "norm bn", "fedavg, mlp", "fedavg, mlp"]
    assert curves["round"].tolist() == [1, 2, 1, 2, 1, 2]


@pytest.mark.usefixtures("outputs")
def test_of_several_seeds_the_first_curve_is_shown_and_of_each_schedule_one() -> None:
    fixed = {"assignment": "fix"}  # a mix of Figures 2 to 11
    rounds = pd.DataFrame({"round": [1], "global_accuracy": [10.0]})
    for settings in ({"seed": 2}, {"seed": 1}, {"protocol": "short", "seed": 3}, {"norm": "bn"}, fixed):
        run = a_run(**settings)
        params = {name: run[name] for name in RunParams.model_fields}
        rest = {name: run[name] for name in ("run_id", "code_hash", "git_dirty")}
        write_run({**rest, "params": params, "metrics": {}, "cost": {}}, rounds)
    shown = run_tables.first_curves()[["variation", "rounds", "seed"]].itertuples(index=False, name=None)
    assert sorted(shown) == [("", 20, 3), ("", 200, 1), ("norm bn", 200, 0)]


@pytest.mark.usefixtures("outputs")
def test_without_runs_the_tables_are_empty() -> None:
    assert run_tables.results().empty
    assert run_tables.table_of_runs(run_tables.results()).to_html()
    assert vars(run_tables.costs(run_tables.results()))["data"] == NOT_RUN


@pytest.mark.usefixtures("outputs")
def test_without_runs_there_are_no_curves() -> None:
    curves = run_tables.curves(run_tables.results())
    assert curves.empty
    assert list(curves) == [*run_tables.SETTINGS, "variation"]


def test_settings_are_listed_one_by_one() -> None:
    params = run_params(dataset="mnist", levels="a-e")
    table = run_tables.settings_of(params)[params.run_id]
    assert table.index.tolist() == list(type(params).model_fields)
    assert (table["rounds"], table["milestones"], table["scaler"]) == ("200", "[100]", "True")


def test_metrics_of_a_run_tell_the_best_and_the_last() -> None:
    metrics = {
        "best_global_accuracy": 99.0,
        "best_global_accuracy_round": 7,
        "final_global_accuracy": 98.456,
        "best_local_accuracy": 100.0,
        "best_local_accuracy_round": 9,
        "final_local_accuracy": 97.0,
    }
    table = run_tables.metrics_of({"metrics": metrics})
    assert table.to_dict(orient="index") == {
        "Global accuracy": {"best": "99.00", "in round": 7, "final": "98.46"},
        "Local accuracy": {"best": "100.00", "in round": 9, "final": "97.00"},
    }


def test_sub_models_stand_below_the_global_model_that_they_are_slices_of() -> None:
    record = {
        "params": {"levels": "a-d-e"},
        "metrics": {
            "final_global_accuracy": 98.456,
            "best_global_accuracy": 99.0,
            "final_local_accuracy": 97.0,
        },
        "sub_models": {
            "d": {"global_accuracy": 90.0, "local_accuracy": 95.123},
            "e": {"global_accuracy": 80.5, "local_accuracy": 90.0},
        },
    }
    assert run_tables.sub_models_of(record).to_dict(orient="index") == {
        "a": {"Global accuracy": "98.46", "Local accuracy": "97.00"},
        "d": {"Global accuracy": "90.00", "Local accuracy": "95.12"},
        "e": {"Global accuracy": "80.50", "Local accuracy": "90.00"},
    }


def test_metrics_of_a_run_on_text_have_no_accuracies() -> None:
    metrics: dict[str, float] = {}
    for value, name in enumerate(("perplexity", "masked_perplexity", "visible_perplexity"), 1):
        metrics |= {f"best_{name}": value, f"best_{name}_round": 5 * value, f"final_{name}": value + 0.255}
    table = run_tables.metrics_of({"metrics": metrics})
    assert table["best"].to_dict() == {
        "Perplexity": "1.00",
        "Perplexity of masked tokens": "2.00",
        "Perplexity of visible tokens": "3.00",
    }
    assert table["in round"].tolist() == [5, 10, 15]
    assert table["final"].tolist() == ["1.25", "2.25", "3.25"]


# What runs took, and how far they are


def test_costs_are_those_of_the_records_the_longest_run_first() -> None:
    measured = {
        "training_seconds": 90.0,
        "evaluation_seconds": 30.0,
        "rounds_done": 20,
        "peak_memory_mb": 500,
        "workers": 2,
        "device": "a processor",
    }
    runs = [a_run(seconds, levels=levels) | measured for levels, seconds in (("e", 60.0), ("a", 120.0))]
    table: pd.DataFrame = vars(run_tables.costs(pd.DataFrame(runs)))["data"]
    assert table["run"].tolist() == [
        "MNIST, IID, levels a (fix), 200 rounds",
        "MNIST, IID, levels e (fix), 200 rounds",
    ]
    assert table.iloc[0, 1:].tolist() == [2.0, 0.5, 4.5, 500, 2, "a processor"]


def test_every_state_of_a_run_is_explained() -> None:
    table: pd.DataFrame = vars(run_tables.states())["data"]
    assert dict(zip(table["state"], table["the run …"], strict=True)) == STATES
