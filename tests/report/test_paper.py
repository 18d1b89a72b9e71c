"""The paper's printed numbers stand beside the runs that they belong to."""

import math

import pandas as pd
import pytest

from heterofl_core.folders import PARAMS
from heterofl_core.levels import all_mixes
from heterofl_core.params import run_params
from heterofl_core.report.paper import (
    BASELINES,
    EXCERPT,
    SOURCES,
    TABLES,
    ablation,
    paper_gain,
    paper_value,
    printed_cells,
    printed_twice,
    run_of_ablation,
    table,
)
from heterofl_core.studies import read_study


def test_tables_5_to_7_have_every_mix_and_baseline() -> None:
    mixes = {str(mix) for mix in all_mixes()}
    assert set(table("wikitext2").index) == mixes
    for dataset in ("mnist", "cifar10"):
        assert set(table(dataset).index) == mixes | set(BASELINES.values())


def test_the_excerpts_have_twelve_mixes_of_their_tables() -> None:
    assert len(EXCERPT) == 12
    assert all(set(EXCERPT) <= set(table(dataset).index) for dataset in TABLES)


def test_every_cell_belongs_to_one_run() -> None:
    """34 rows of 3 results, twice; 31 perplexities; 25 rows of the slides with 4 results.

    Three of these, with sBN, Scaler and masked loss at a, e and a-e, stand in the tables, too.
    """
    tables, slides = map(printed_cells, SOURCES)
    assert (len(tables), len(slides)) == (2 * 34 * 3 + 31, 25 * 4)
    assert len(tables.keys() & slides.keys()) == 3 * 4


def test_a_cell_by_hand() -> None:
    assert paper_value(run_params(dataset="cifar10", levels="e"), "global_accuracy") == 77.09
    assert paper_value(run_params(dataset="wikitext2", levels="e"), "perplexity") == 7.41
    lg = run_params(dataset="mnist", levels="a", method="lg-fedavg", arch="mlp", partition="non-iid-2")
    assert paper_value(lg, "local_accuracy") == 98.54


def test_a_cell_of_the_ablation_by_hand() -> None:
    run = run_params(
        dataset="cifar10", partition="non-iid-2", levels="a-e", norm="gn", masked_loss="zero", scaler=True
    )
    assert paper_value(run, "local_accuracy") == 88.7


def test_where_tables_and_slides_print_the_same_cell_the_first_source_counts() -> None:
    run = run_params(dataset="cifar10", partition="non-iid-2", levels="e")
    assert paper_value(run, "local_accuracy") == 89.62
    assert paper_value(run, "local_accuracy", ["slides"]) == 90.1


def test_a_difference_is_of_two_cells_of_one_table() -> None:
    """The slides print 90.1 and 83.5 for the first two; Table 6 has the first, and the third."""
    e, gn, a = (
        run_params(dataset="cifar10", partition="non-iid-2", **settings)
        for settings in ({"levels": "e"}, {"levels": "e", "norm": "gn"}, {"levels": "a"})
    )
    assert paper_gain(e, gn, "local_accuracy") == pytest.approx(90.1 - 83.5)
    column = table("cifar10")["noniid_local_accuracy"].astype(float)
    assert paper_gain(e, a, "local_accuracy") == pytest.approx(column["e"] - column["a"])
    assert paper_gain(e, run_params(dataset="cifar10", levels="a4-e6"), "local_accuracy") is None


def test_what_is_defined_otherwise_has_no_gain_in_the_paper() -> None:
    """Standalone's printed Global accuracy is that of averaged parameters."""
    ours = run_params(dataset="mnist", levels="e", partition="non-iid-2")
    standalone = run_params(
        dataset="mnist", levels="a", partition="non-iid-2", method="standalone", arch="mlp"
    )
    assert paper_gain(ours, standalone, "global_accuracy") is None
    assert paper_gain(ours, standalone, "local_accuracy") is not None


def test_a_gain_in_perplexity_is_the_logarithm_of_the_ratio() -> None:
    e, d_e = (run_params(dataset="wikitext2", levels=levels) for levels in ("e", "d-e"))
    assert paper_gain(d_e, e, "perplexity") == pytest.approx(math.log(7.41 / 3.90))


def test_what_is_printed_twice_was_not_the_same_run() -> None:
    """Both have a, e and a-e with all three ingredients, Local and Global, on two data sets."""
    twice = printed_twice().to_numpy().tolist()
    assert len(twice) == 12
    assert ["cifar10", "a", "global_accuracy", 56.88, 59.2] in twice
    assert ["mnist", "e", "local_accuracy", 99.07, 99.3] in twice


@pytest.mark.parametrize(
    "settings", [{"seed": 3}, {"protocol": "short"}, {"rounds": 7}, {"precision": "bf16"}]
)
def test_neither_schedule_nor_seed_nor_precision_change_the_cell(settings: dict[str, object]) -> None:
    assert paper_value(run_params(dataset="mnist", levels="a-e", **settings), "global_accuracy") == 99.46


def test_what_the_paper_did_not_run_has_no_cell() -> None:
    assert paper_value(run_params(dataset="mnist", levels="a-e", assignment="fix"), "global_accuracy") is None
    assert paper_value(run_params(dataset="mnist", levels="a-e"), "local_accuracy") is None


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_the_rows_of_the_ablation_are_the_runs_of_its_study(dataset: str) -> None:
    rows = {run_of_ablation(dataset, row) for _, row in ablation().iterrows()}
    assert rows == {run for run in read_study("ablation").runs if run.dataset == dataset}
    assert len(rows) == len(pd.read_csv(PARAMS / "paper" / "ablation_noniid.csv")) == 25
