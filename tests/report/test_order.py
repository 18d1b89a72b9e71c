"""Pairs of mixes beside the order in which the paper prints them."""

import math
from typing import Any

from test_differences import runs
from test_evidence import a_record

from heterofl_core.params import run_params
from heterofl_core.report.evidence import Evidence
from heterofl_core.report.order import order, outcomes

PRINTED = {
    run_params(dataset="mnist", levels=levels): value
    for levels, value in {"a": 99.5, "b": 99.4, "c": 99.4, "e": 98.0}.items()
}


def came_out(by_level: dict[str, list[float]]) -> dict[str, str]:
    """How the pairs of some runs came out."""
    return {
        pair: outcome for pair, outcome, _ in outcomes(Evidence(runs(by_level)), PRINTED, "global_accuracy")
    }


def test_a_pair_comes_out_as_printed_or_the_other_way_round_within_its_interval_or_beyond() -> None:
    """Seeds move all alike but for 0.1, so that the interval of a pair is some tenths."""
    found = came_out({"a": [97.0, 98.0, 99.0], "b": [97.0, 98.1, 99.0], "e": [98.5, 99.5, 100.0]})
    assert found == {"a before b": "within", "a before e": "against", "b before e": "against"}
    assert came_out({"a": [99.0, 99.1], "e": [90.0, 90.1]}) == {"a before e": "as printed"}


def test_without_a_second_seed_the_other_way_round_has_no_interval() -> None:
    assert came_out({"a": [97.0], "e": [98.0]}) == {"a before e": "unknown"}


def test_what_is_printed_alike_diverged_or_shares_no_seed_has_no_order() -> None:
    assert came_out({"b": [97.0], "c": [98.0]}) == {}
    assert came_out({"a": [math.nan], "e": [98.0]}) == {}
    apart = [a_record(97.0, levels="a"), a_record(98.0, levels="e", seed=1)]
    assert list(outcomes(Evidence(apart), PRINTED, "global_accuracy")) == []


def test_less_perplexity_comes_first() -> None:
    levels = {"d": 3.83, "e": 7.41}
    printed = {run_params(dataset="wikitext2", levels=level): value for level, value in levels.items()}
    records = [
        record | {"metrics": {"best_perplexity": record["metrics"]["best_global_accuracy"]}}
        for record in runs({"d": [4.0], "e": [7.0]}, dataset="wikitext2")
    ]
    ((pair, outcome, _),) = outcomes(Evidence(records), printed, "perplexity")
    assert (pair, outcome) == ("d before e", "as printed")


def said(records: list[dict[str, Any]]) -> str:
    """Of MNIST's mixes with IID data. Table 5 prints 99.39 for c-e, 99.17 for d and 98.66 for e."""
    return order(Evidence(records), "mnist", "iid", "global_accuracy")


def test_only_runs_of_the_papers_schedule_are_counted_and_no_baselines() -> None:
    records = [
        *runs({"c-e": [98.0, 98.0], "d": [99.0, 99.0], "e": [97.0, 97.0]}),
        *runs({"a": [99.9]}, protocol="short"),
        *runs({"a": [99.9]}, method="fedavg", arch="mlp"),
    ]
    assert said(records) == (
        "3 of 31 rows were run by the paper's schedule. Of the 3 pairs among them, 2 are in the paper's "
        "order, "
        "0 the other way round by no more than the interval of such a pair, 1 by more (c-e before d)."
    )
    disagree = runs({"d": [98.0, 98.0], "e": [99.0, 99.0]}, protocol="short")
    old = a_record(99.0, levels="d", stale=True)  # the pair of short runs is of today's code
    assert ", 1 are in the paper's order" in said([old, *runs({"e": [98.0]}), *disagree])
    assert said(runs({"d": [99.0]})) == (
        "1 of 31 rows were run by the paper's schedule. Too few to have an order."
    )
    assert said(runs({"c-e": [98.0], "d": [99.0]})).endswith(" by more, and 1 without an interval.")


def test_older_code_and_what_shorter_runs_lend_is_told() -> None:
    old = a_record(99.0, levels="d", stale=True)
    assert said([old]).startswith("1 of 31 rows were run by the paper's schedule, 1 of them with older code.")
    short = runs({"d": [97.0, 97.0], "e": [95.0, 95.1]}, protocol="short")
    assert said([*short, *runs({"c-e": [98.0], "d": [99.0]})]).endswith(
        "1 by more (c-e before d). Shorter runs lend 1 of these intervals their scatter."
    )
