"""How far the study is, by exhibit, and what its records have taken."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core.params import RunParams, run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import write_run
from heterofl_core.report import coverage
from heterofl_core.studies import all_runs, read_study, study_names

MIX = {"dataset": "mnist", "levels": "a-e"}
"""A run of Tables 1 and 5, and of Figure 9."""
OTHER_CODE = "0123456789abcdef"


def record(params: RunParams, **changes: Any) -> dict[str, Any]:
    """A record with as little as its coverage needs."""
    return {
        "run_id": params.run_id,
        "params": params.model_dump(mode="json"),
        "code_hash": code_hash(),
        "git_dirty": False,
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "seconds": 360.0,
        "device": "a processor",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        **changes,
    }


def covered(asked: dict[str, Any], *records: dict[str, Any]) -> str:
    """What records say about the run that some settings stand for."""
    return coverage.coverage(records)[run_params(**asked).run_id]


def data(table: Any) -> pd.DataFrame:
    """What a styled table shows."""
    return table.data


# What can be said of a run


def test_a_run_without_a_record_is_missing() -> None:
    assert covered(MIX) == "missing"
    assert covered(MIX, record(run_params(dataset="mnist", levels="b-e"))) == "missing"


@pytest.mark.parametrize("how", [{}, {"seed": 3}, {"precision": "bf16"}, {"eval_every": 50}])
def test_a_run_is_done_by_a_record_of_its_schedule_whatever_the_seed(how: dict[str, Any]) -> None:
    assert covered(MIX, record(run_params(**MIX, **how))) == "done"


@pytest.mark.parametrize("how", [{"protocol": "short"}, {"rounds": 20}, {"rounds": 900}, {"lr": 0.02}])
def test_a_record_of_another_schedule_is_told_apart(how: dict[str, Any]) -> None:
    assert covered(MIX, record(run_params(**MIX, **how))) == "other schedule"


@pytest.mark.parametrize(
    "other", [{"partition": "non-iid-2"}, {"norm": "bn"}, {"num_clients": 50}, {"participation": 0.2}]
)
def test_a_record_that_answers_another_question_does_not_count(other: dict[str, Any]) -> None:
    assert covered(MIX, record(run_params(**MIX, **other))) == "missing"


def test_exhibits_stand_in_the_order_of_the_report_and_somebodys_own_behind_them() -> None:
    names = ["Table A1", "Figure 2", "Table 10", "Table 9", "Sub-models", "Figure 2b"]
    assert sorted(names, key=coverage.place)[:3] == ["Table 9", "Table 10", "Figure 2"]


def test_todays_code_counts_more_than_the_schedule() -> None:
    old = record(run_params(**MIX), code_hash=OTHER_CODE)
    short = record(run_params(**MIX, protocol="short"))
    assert covered(MIX, old) == "stale"
    assert covered(MIX, old, short) == "other schedule"
    assert covered(MIX, old, record(run_params(**MIX, seed=1))) == "done"


def test_a_record_of_uncommitted_code_counts() -> None:
    assert covered(MIX, record(run_params(**MIX), git_dirty=True)) == "done"


def test_a_study_may_ask_for_a_schedule_that_is_not_the_papers() -> None:
    """The switches have two runs with the schedule of the authors' code, which is longer on WikiText2."""
    text: dict[str, Any] = {"dataset": "wikitext2", "levels": "e", "eval_every": 5}
    authors = text | {"rounds": 200, "milestones": [50, 100]}
    done = record(run_params(**authors))
    assert (covered(authors, done), covered(text, done)) == ("done", "other schedule")


# Exhibits


def test_each_exhibit_has_the_runs_that_it_shows() -> None:
    """Two partitions of images and one of text; baselines: three methods on two architectures."""
    baselines = 2 * 3 * 2
    assert {exhibit: len(runs) for exhibit, runs in coverage.exhibits().items()} == {
        "Table 1": 2 * 12 + baselines,
        "Table 2": 2 * 12 + baselines,
        "Table 3": 12,
        "Table 5": 2 * 31 + baselines,
        "Table 6": 2 * 31 + baselines,
        "Table 7": 31,
        **{f"Figure {number}": 90 for number in range(2, 9)},
        "Figure 9": 40,
        "Figure 10": 40,
        "Figure 11": 20,
        "Slides' Table 1": 2 * 12 + baselines,
        "Slides' Table 2": 50,
        "Slides' Figure 3": 90,
        "Beyond the paper": 116,
    }


def test_exhibits_stand_in_the_order_of_the_paper() -> None:
    names = [*(f"Table {number}" for number in (1, 2, 3, 5, 6, 7)), *(f"Figure {n}" for n in range(2, 12))]
    slides = ["Slides' Table 1", "Slides' Table 2", "Slides' Figure 3"]
    assert list(coverage.exhibits()) == [*names, *slides, "Beyond the paper"]


def test_every_run_of_every_study_is_shown_somewhere() -> None:
    assert set[str]().union(*coverage.exhibits().values()) == all_runs().keys()


def test_a_table_of_one_data_set_shows_no_baseline_of_another() -> None:
    runs = all_runs()
    for exhibit, dataset in coverage.DATASET_OF.items():
        assert {runs[run_id].dataset for run_id in coverage.exhibits()[exhibit]} == {dataset}


def test_the_table_counts_each_run_for_every_exhibit_and_once_in_all() -> None:
    done = record(run_params(**MIX))
    short = record(run_params(dataset="mnist", levels="e", rounds=20))
    stale = record(run_params(dataset="mnist", levels="b-d"), code_hash=OTHER_CODE)
    found = coverage.coverage([done, short, stale])
    table = data(coverage.by_exhibit(found)).set_index("Exhibit")
    rows = table.T.to_dict("list")
    assert list(table) == ["Runs", "Done", "Other schedule", "Stale", "Missing"]
    assert rows["Table 1"] == [36, 1, 1, 0, 34]  # b-d is in Table 5 only
    assert rows["Table 5"] == [74, 1, 1, 1, 71]
    assert rows["Figure 9"] == [40, 1, 0, 1, 38]
    assert rows["Table 7"] == [31, 0, 0, 0, 31]
    runs = len({params.run_id for params in all_runs().values()})
    assert list(rows.items())[-1] == ("All runs, each once", [runs, 1, 1, 1, runs - 3])


def test_the_whole_study_in_a_few_sentences() -> None:
    records = [
        record(run_params(**MIX)),
        record(run_params(**MIX, protocol="short"), seconds=3600.0),
        record(run_params(dataset="wikitext2", levels="a-b"), code_hash=OTHER_CODE),
    ]
    found = coverage.coverage(records)
    planned = Counter(params.dataset for params in all_runs().values())
    assert coverage.summary(found, records) == (
        f"{len(all_runs())} runs are planned. 605 of them are the mixes of Tables 5 to 7 and Figures 2 to 8: "
        'the "over 600 individual models" of which the paper speaks. Done with the schedule that is planned, '
        "in nearly all cases the paper's: 1 on MNIST, 0 on CIFAR10, 0 on WikiText2. Done with a different "
        "one only, usually a shorter one, which answers less: 0 on MNIST, 0 on CIFAR10, 0 on WikiText2. Run "
        "only by code that has changed since, and not yet compared with today's: 0 on MNIST, 0 on CIFAR10, "
        "1 on WikiText2. "
        f"Missing: {planned['mnist'] - 1} on MNIST, {planned['cifar10']} on CIFAR10, "
        f"{planned['wikitext2'] - 1} on WikiText2. With repetitions by other seeds, 3 runs are recorded, "
        "which took 1.2 hours of machines."
    )


# Where records are from


def test_machine_hours_are_summed_by_data_set_and_device() -> None:
    text = run_params(dataset="wikitext2", levels="e")
    table = coverage.machine_hours(
        [
            record(run_params(**MIX), seconds=7200.0),
            record(run_params(**MIX, seed=1), seconds=5400.0, device="a GPU"),
            record(run_params(**MIX, seed=2), seconds=1800.0, device="a GPU"),
            record(text, seconds=900.0),
        ]
    )
    assert data(table).to_numpy().tolist() == [
        ["mnist", "a GPU", 2, "2.00"],
        ["mnist", "a processor", 1, "2.00"],
        ["wikitext2", "a processor", 1, "0.25"],
    ]


def test_versions_are_counted_over_the_records() -> None:
    newer = {"python": "3.11.7", "torch": "2.14.0"}
    table = coverage.versions([record(run_params(**MIX)), record(run_params(**MIX, seed=1), versions=newer)])
    assert data(table).to_numpy().tolist() == [
        ["python", "3.11.7", 2],
        ["torch", "2.13.0", 1],
        ["torch", "2.14.0", 1],
    ]


def test_stale_and_uncommitted_records_are_named() -> None:
    good, stale, dirty = (run_params(**MIX, seed=seed) for seed in range(3))
    table = coverage.to_check(
        [record(good), record(stale, code_hash=OTHER_CODE), record(dirty, git_dirty=True, git_commit=None)]
    )
    assert data(table).to_numpy().tolist() == [
        [f'<a href="../runs/{stale.run_id}.html">{stale.run_id}</a>', "stale", OTHER_CODE, "0123456789ab"],
        [f'<a href="../runs/{dirty.run_id}.html">{dirty.run_id}</a>', "uncommitted", code_hash(), "None"],
    ]


@pytest.mark.usefixtures("outputs")
def test_records_of_the_study_are_those_on_the_papers_data_sets() -> None:
    for params in (run_params(**MIX), run_params(dataset="digits", levels="e")):
        write_run(record(params), pd.DataFrame({"round": [1]}))
    assert [found["params"]["dataset"] for found in coverage.study_records()] == ["mnist"]


def test_the_page_needs_no_record(outputs: Path) -> None:
    assert coverage.study_records() == []
    found = coverage.coverage([])
    assert set(found.values()) == {"missing"}
    assert found.keys() == {params.run_id for name in study_names() for params in read_study(name).runs}
    for table in (coverage.machine_hours([]), coverage.versions([]), coverage.to_check([])):
        assert "none" in table.to_html()
    assert data(coverage.by_exhibit(found))["Done"].sum() == 0
    assert not outputs.exists()


def test_every_meaning_is_explained_under_the_heading_of_its_column() -> None:
    headings = data(coverage.by_exhibit(coverage.coverage([]))).columns[2:]
    assert data(coverage.meanings())["column"].to_list() == list(headings)
