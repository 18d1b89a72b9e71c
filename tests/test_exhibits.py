"""Tables of the book: the paper's cells beside ours, and what was not run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.io.formats.style import Styler
from test_evidence import a_record

from heterofl_core import exhibits, series
from heterofl_core.evidence import Evidence
from heterofl_core.params import run_params
from heterofl_core.records import record_path, write_run

Write = Callable[[dict[str, Any]], None]


@pytest.fixture
def recorded(outputs: Path) -> Iterator[Write]:
    """Writes records to an outputs folder of the test's own."""

    def write(record: dict[str, Any]) -> None:
        columns = {
            "round": [1, 2],
            "lr": [0.1, 0.1],
            "train_loss": [2.0, 1.0],
            "global_accuracy": [50.0, 99.0],
        }
        write_run(record, pd.DataFrame(columns))
        exhibits.all_evidence.cache_clear()

    exhibits.all_evidence.cache_clear()
    yield write
    exhibits.all_evidence.cache_clear()


def data(styler: Styler) -> pd.DataFrame:
    """The texts of a table."""
    table: pd.DataFrame = vars(styler)["data"]
    return table


def row(styler: Styler, model: str) -> dict[str, str]:
    table = data(styler)
    return {str(name): text for name, text in table[table["Model"] == model].iloc[0].items()}


def test_a_cell_that_was_not_run_says_so_and_how_to_run_it(recorded: Write) -> None:
    cell = row(exhibits.results("mnist", "non-iid-2", "local_accuracy"), "a-e")
    assert cell["Paper"] == "99.89"
    command = "make run P=&quot;-p dataset=mnist -p levels=a-e -p partition=non-iid-2&quot;"
    assert cell["Ours"] == f"<details><summary>not run</summary><code>{command}</code></details>"
    assert [cell[name] for name in ("±", "Seeds", "Difference", "Schedule")] == ["", "", "", ""]


def test_a_cell_has_mean_interval_seeds_difference_and_schedule_and_leads_to_its_run(recorded: Write) -> None:
    records = [a_record(best, seed=seed) for seed, best in enumerate((99.0, 99.2, 99.4))]
    for record in records:
        recorded(record)
    cell = row(exhibits.results("mnist", "iid", "global_accuracy"), "a-e")
    assert cell == {
        "Model": "a-e",
        "Ratio": "0.50",
        "Parameters": "781.7 K",
        "Space (MB)": "2.98",
        "Paper": "99.46",
        "Ours": f'<a href="../runs/{records[0]["run_id"]}.html">99.20</a>',
        "±": "0.50",  # 4.303 · 0.2 / √3
        "Seeds": "3",
        "Difference": "−0.26",
        "Schedule": "paper",
    }


def test_one_seed_has_no_interval_and_a_shorter_schedule_is_told(recorded: Write) -> None:
    recorded(a_record(98.0, protocol="short"))
    cell = row(exhibits.results("mnist", "iid", "global_accuracy"), "a-e")
    assert (cell["±"], cell["Seeds"], cell["Schedule"]) == ("", "1", "short, 20 rounds")


@pytest.mark.parametrize(("kind", "mark"), [("stale", "‡"), ("dirty", "†")])
def test_code_that_changed_or_was_not_committed_is_marked(recorded: Write, kind: str, mark: str) -> None:
    recorded(a_record(98.0, **{kind: True}))
    assert f"98.00{mark}</a>" in row(exhibits.results("mnist", "iid", "global_accuracy"), "a-e")["Ours"]


def test_with_a_record_removed_its_cell_alone_turns_to_not_run(recorded: Write) -> None:
    kept, gone = a_record(levels="e"), a_record()
    for record in (kept, gone):
        recorded(record)
    before = data(exhibits.results("mnist", "iid", "global_accuracy")).set_index("Model")["Ours"]
    record_path(gone["run_id"]).unlink()
    exhibits.all_evidence.cache_clear()
    after = data(exhibits.results("mnist", "iid", "global_accuracy")).set_index("Model")["Ours"]
    assert list(before.index[before != after]) == ["a-e"]
    assert "not run" in after["a-e"]


def test_the_excerpts_have_the_rows_of_tables_1_to_3(recorded: Write) -> None:
    mixes = ["a", "a-e", "a-b-c-d-e", "b", "b-e", "b-c-d-e", "c", "c-e", "c-d-e", "d", "d-e", "e"]
    baselines = ["Standalone", "FedAvg", "LG-FedAvg"]
    table = data(exhibits.results("cifar10", "iid", "global_accuracy", excerpt=True))
    assert sorted(table["Model"]) == sorted(mixes + baselines)
    table = data(exhibits.results("wikitext2", "iid", "perplexity", excerpt=True))
    assert sorted(table["Model"]) == sorted(mixes)


def test_the_ablation_has_its_25_rows_in_the_papers_order(recorded: Write) -> None:
    table = data(exhibits.ablations("cifar10", "local_accuracy"))
    assert len(table) == 25
    columns = ["Model", "Norm", "Scaler", "Masked loss", "Paper"]
    assert table[columns].iloc[0].tolist() == ["a", "none", "–", "off", "42.60"]
    assert table[columns].iloc[-1].tolist() == [
        "a-e",
        "sbn",
        "on",
        "on",
        "92.10",
    ]  # of Table 6, not of the slides


def test_numbers_stand_below_each_other_and_can_be_searched(recorded: Write) -> None:
    html = exhibits.results("mnist", "iid", "global_accuracy").to_html()
    assert 'class="dataframe searchable"' in html
    assert "text-align: right" in html


# What figures show


def test_an_interpolation_has_the_papers_ends_and_our_points_of_one_schedule() -> None:
    records = [
        a_record(90.0, levels="a3-e7", assignment="fix", protocol="short"),
        a_record(95.0, levels="a-e", assignment="fix", protocol="short"),
        a_record(97.0, levels="a", protocol="short"),
        a_record(99.0, levels="a"),
    ]
    points = series.interpolation(Evidence(records), "mnist", "iid", "global_accuracy")
    pair = points[(points["large"] == "a") & (points["small"] == "e")]
    ours, paper = (
        pair[pair["whose"] == whose].set_index("share")["value"].to_dict() for whose in ("ours", "paper")
    )
    assert ours == {30: 90.0, 50: 95.0, 100: 97.0}
    assert paper == {0: 98.66, 100: 99.53}


def test_without_runs_an_interpolation_has_the_papers_ends_alone() -> None:
    points = series.interpolation(Evidence([]), "wikitext2", "iid", "perplexity")
    assert set(points["whose"]) == {"paper"}
    assert len(points) == 10 * 2


def test_half_and_half_are_ten_pairs_fixed_and_dynamic() -> None:
    found = list(series.half_and_half("mnist", "iid"))
    assert len(found) == 20
    pair, assignment, run = found[6]
    assert (pair, assignment, run) == (
        ("a", "e"),
        "fix",
        run_params(dataset="mnist", levels="a-e", assignment="fix"),
    )


def test_a_sub_model_stands_beside_its_level_alone(recorded: Write) -> None:
    mix = a_record(levels="d-e") | {"sub_models": {"e": {"global_accuracy": 97.0}}}
    alone = a_record(96.0, levels="e")
    found = series.sub_models(Evidence([mix, alone]), [mix, alone], "global_accuracy")
    assert found.to_dict("records") == [
        {
            "dataset": "mnist",
            "partition": "iid",
            "mix": "d-e",
            "assignment": "dynamic",
            "level": "e",
            "sliced": 97.0,
            "alone": 95.0,  # the final one, as the slice's
            "schedule": "paper",
        }
    ]
    recorded(mix)
    (line,) = data(exhibits.sub_models("global_accuracy")).to_dict("records")
    assert (line["Its slice"], line["Alone"], line["Better by"]) == ("97.00", "not run", "–")


def test_what_accuracy_costs_counts_both_ways(recorded: Write) -> None:
    record = a_record(levels="e")
    columns = {
        "round": [1],
        "global_accuracy": [9.0],
        "down_mb": [2.0],
        "up_mb": [1.5],
        "training_seconds": [7.0],
    }
    write_run(record, pd.DataFrame(columns))
    found = series.spendings(Evidence([record]), "mnist", "iid")
    assert found[["levels", "sent_mb", "seconds"]].to_dict("records") == [
        {"levels": "e", "sent_mb": 3.5, "seconds": 7.0}
    ]
