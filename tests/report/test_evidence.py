"""What the records say of a setting: which runs count, their mean, its uncertainty."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash
from heterofl_core.report.evidence import Answer, Evidence, estimate, how_long, question, state


def a_record(best: float = 99.0, stale: bool = False, dirty: bool = False, **settings: Any) -> dict[str, Any]:
    """Of a run on MNIST."""
    params = run_params(**{"dataset": "mnist", "levels": "a-e", **settings})
    return {
        "run_id": params.run_id,
        "params": params.model_dump(mode="json"),
        "metrics": {"best_global_accuracy": best, "final_global_accuracy": best - 1},
        "code_hash": "other" if stale else code_hash(),
        "git_dirty": dirty,
    }


PARAMS = run_params(dataset="mnist", levels="a-e")


def answer_to(*records: dict[str, Any]) -> Answer:
    answer = Evidence(records).answer(PARAMS)
    assert answer is not None
    return answer


# Questions


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1},
        {"rounds": 3},
        {"protocol": "short"},
        {"eval_every": 1},
        {"precision": "bf16"},
        {"lr": 1.0},
    ],
)
def test_schedule_precision_and_seed_do_not_change_the_question(settings: dict[str, Any]) -> None:
    assert question(run_params(dataset="mnist", levels="a-e", **settings)) == question(PARAMS)


@pytest.mark.parametrize(
    "settings",
    [
        {"assignment": "fix"},
        {"scaler": False},
        {"partition": "non-iid-2"},
        {"num_clients": 50},
        {"participation": 0.2},
    ],
)
def test_everything_else_does(settings: dict[str, Any]) -> None:
    assert question(run_params(dataset="mnist", levels="a-e", **settings)) != question(PARAMS)


# Which runs count


def test_seeds_of_one_schedule_are_one_answer() -> None:
    answer = answer_to(*(a_record(90.0 + seed, seed=seed) for seed in (2, 0, 1)))
    assert answer.values("global_accuracy") == [90.0, 91.0, 92.0]
    assert answer.values("global_accuracy", "final") == [89.0, 90.0, 91.0]
    assert (answer.schedule, answer.rounds, answer.state) == ("paper", 200, "current")
    assert answer_to(a_record(stale=True)).schedule == "paper, other code"
    assert answer_to(a_record(dirty=True)).schedule == "paper, uncommitted code"


def test_many_rounds_win_over_few_even_of_more_seeds() -> None:
    short = [a_record(protocol="short", seed=seed) for seed in range(3)]
    assert answer_to(*short).schedule == "short, 20 rounds"
    assert answer_to(*short, a_record(98.0)).values("global_accuracy") == [98.0]


def test_the_runs_own_schedule_wins_over_a_longer_one() -> None:
    longer = a_record(99.0, rounds=300, milestones=[150])
    assert answer_to(longer, a_record(98.0)).schedule == "paper"
    assert answer_to(longer, a_record(98.0, protocol="short")).schedule == "custom, 300 rounds"


def test_a_schedule_names_another_precision_than_float32() -> None:
    assert answer_to(a_record(precision="bf16")).schedule == "paper, bf16"
    assert answer_to(a_record(protocol="short", precision="bf16")).schedule == "short, 20 rounds, bf16"
    assert answer_to(a_record(precision="bf16"), a_record(seed=1)).schedule == "paper, bf16 and fp32"


def test_todays_code_wins_over_older_one_even_of_more_rounds() -> None:
    answer = answer_to(a_record(99.0, stale=True), a_record(98.0, protocol="short"))
    assert (answer.values("global_accuracy"), answer.state) == ([98.0], "current")


def test_stale_seeds_are_left_out_beside_current_ones_and_shown_alone() -> None:
    old, new = a_record(90.0, stale=True, seed=1), a_record(91.0)
    assert answer_to(old, new).values("global_accuracy") == [91.0]
    assert answer_to(old).state == "stale"


def test_uncommitted_code_is_told() -> None:
    assert state(a_record(dirty=True)) == "uncommitted"
    assert state(a_record() | {"git_dirty": None}) == "uncommitted"  # made where there was no git
    assert answer_to(a_record(), a_record(seed=1, dirty=True)).state == "uncommitted"


def test_a_seed_that_was_run_in_two_precisions_counts_once() -> None:
    answer = answer_to(a_record(90.0), a_record(91.0, precision="bf16"))
    assert len(answer.records) == 1


@pytest.mark.parametrize("unusual", [{"eval_every": 1}, {"precision": "bf16"}])
def test_of_a_seed_that_was_run_in_two_ways_the_usual_one_counts(unusual: dict[str, Any]) -> None:
    """Whoever looks at the test set after each round finds a better best."""
    usual, other = a_record(90.0), a_record(99.0, **unusual)
    for records in ((usual, other), (other, usual)):
        assert answer_to(*records).values("global_accuracy") == [90.0]


def test_runs_beside_others_share_seed_and_precision_with_them() -> None:
    ours = answer_to(a_record(90.0), a_record(91.0, seed=1, precision="bf16"), a_record(92.0, seed=2))
    theirs = answer_to(a_record(80.0), a_record(81.0, seed=1), a_record(82.0, seed=3))
    matched = ours.beside(theirs)
    assert matched is not None
    assert matched.draws == [(0, "fp32")]
    assert ours.beside(answer_to(a_record(80.0, seed=3))) is None


def test_a_record_of_before_there_were_precisions_is_read() -> None:
    older = a_record(90.0)
    del older["params"]["precision"]
    assert answer_to(older, a_record(91.0, precision="bf16")).values("global_accuracy") == [90.0]


def test_an_answer_by_a_certain_schedule_can_be_asked_for() -> None:
    evidence = Evidence([a_record(), a_record(protocol="short")])
    short = evidence.answer(PARAMS, how_long(run_params(dataset="mnist", levels="a", protocol="short")))
    assert short is not None
    assert short.schedule == "short, 20 rounds"
    assert not short.full
    assert evidence.answer(PARAMS, how_long(run_params(dataset="mnist", levels="a", rounds=20))) is None


def test_runs_that_looked_at_the_test_set_equally_often_are_one_answer() -> None:
    """More seeds count more than the usual number of looks."""
    evidence = Evidence([a_record(90.0), *(a_record(99.0, eval_every=1, seed=seed) for seed in (1, 2))])
    assert sorted(one.seeds for one in evidence.answers_to(PARAMS)) == [[0], [1, 2]]
    found = evidence.answer(PARAMS)
    assert found is not None
    assert found.seeds == [1, 2]


def test_runs_to_be_compared_have_the_schedule_of_most_of_them() -> None:
    """So many rounds with another learning rate are another schedule."""
    asked = [run_params(dataset="mnist", levels=levels) for levels in ("a", "b", "c")]
    wild: dict[str, Any] = {"protocol": "short", "lr": 1.0}
    records = [
        a_record(levels="a"),
        a_record(levels="a", protocol="short"),
        *(a_record(levels=levels, **wild) for levels in "bc"),
    ]
    more = [a_record(levels=levels, protocol="short") for levels in "bc"]
    found = Evidence([*records, *more]).comparable(asked)
    assert [one.params.lr for one in found if one] == [0.01, 0.01, 0.01]
    found = Evidence(records).comparable(asked)
    assert [(one.rounds, one.params.lr) for one in found if one] == [(200, 0.01), (20, 1.0), (20, 1.0)]


def test_of_equally_frequent_schedules_the_longest_is_compared() -> None:
    asked = [run_params(dataset="mnist", levels=levels) for levels in "ab"]
    both = [a_record(levels=levels, protocol=protocol) for protocol in ("short", "paper") for levels in "ab"]
    for records in (both, both[::-1]):
        assert [one.schedule for one in Evidence(records).comparable(asked) if one] == ["paper", "paper"]


def test_what_was_not_run_has_no_answer() -> None:
    assert Evidence([]).answer(PARAMS) is None
    assert Evidence([a_record(levels="a")]).answer(PARAMS) is None


# Means and intervals


def test_the_interval_is_students() -> None:
    values = [98.0, 99.0, 99.6]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert found.count == 3


@pytest.mark.parametrize("values", [[98.0], [97.0, 99.0]])
def test_one_run_or_two_have_no_interval(values: list[float]) -> None:
    found = estimate(values)
    assert (found.mean, found.count) == (98.0, len(values))
    assert math.isnan(found.half_width)
