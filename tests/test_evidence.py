"""What the records say of a setting: which runs count, their mean, its uncertainty."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from heterofl_core.evidence import Answer, Evidence, difference, estimate, question, state
from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash


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


def test_many_rounds_win_over_few_even_of_more_seeds() -> None:
    short = [a_record(protocol="short", seed=seed) for seed in range(3)]
    assert answer_to(*short).schedule == "short, 20 rounds"
    assert answer_to(*short, a_record(98.0)).values("global_accuracy") == [98.0]


def test_todays_code_wins_over_older_one_even_of_more_rounds() -> None:
    answer = answer_to(a_record(99.0, stale=True), a_record(98.0, protocol="short"))
    assert (answer.values("global_accuracy"), answer.state) == ([98.0], "current")


def test_stale_seeds_are_left_out_beside_current_ones_and_shown_alone() -> None:
    old, new = a_record(90.0, stale=True, seed=1), a_record(91.0)
    assert answer_to(old, new).values("global_accuracy") == [91.0]
    assert answer_to(old).state == "stale"


def test_uncommitted_code_is_told() -> None:
    assert state(a_record(dirty=True)) == "uncommitted"
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


def test_a_record_of_before_there_were_precisions_is_read() -> None:
    older = a_record(90.0)
    del older["params"]["precision"]
    assert answer_to(older, a_record(91.0, precision="bf16")).values("global_accuracy") == [90.0]


def test_an_answer_of_so_many_rounds_can_be_asked_for() -> None:
    evidence = Evidence([a_record(), a_record(protocol="short")])
    short = evidence.answer(PARAMS, rounds=20)
    assert short is not None
    assert short.schedule == "short, 20 rounds"
    assert evidence.answer(PARAMS, rounds=21) is None


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


def test_one_run_has_no_interval() -> None:
    found = estimate([98.0])
    assert (found.mean, found.count) == (98.0, 1)
    assert math.isnan(found.half_width)


def test_seed_noise_is_pooled_over_settings_with_more_than_one_seed() -> None:
    """Deviations -1, 1 and -2, 2: squares 10, two degrees of freedom."""
    evidence = Evidence(
        [
            a_record(97.0),
            a_record(99.0, seed=1),
            a_record(90.0, levels="e"),
            a_record(94.0, levels="e", seed=1),
            a_record(50.0, levels="b"),
        ]
    )
    noise, freedom = evidence.seed_noise("mnist", "iid", "global_accuracy", PARAMS.rounds)
    assert noise == pytest.approx(math.sqrt(5))
    assert freedom == 2
    noise, freedom = evidence.seed_noise("mnist", "non-iid-2", "global_accuracy", 400)
    assert (math.isnan(noise), freedom) == (True, 0)


def test_seed_noise_is_that_of_runs_as_long_where_there_are_any() -> None:
    """Long runs scatter by √2, short ones by √32; of middle length none was repeated, so all are pooled."""
    long = [a_record(97.0), a_record(99.0, seed=1)]
    short = [a_record(80.0, protocol="short"), a_record(88.0, protocol="short", seed=1)]
    evidence = Evidence([*long, *short])
    noises = [
        evidence.seed_noise("mnist", "iid", "global_accuracy", rounds)
        for rounds in (PARAMS.rounds, short[0]["params"]["rounds"], 77)
    ]
    assert [noise for noise, _ in noises] == pytest.approx([math.sqrt(2), math.sqrt(32), math.sqrt(17)])
    assert [freedom for _, freedom in noises] == [1, 1, 2]


def test_a_difference_by_hand() -> None:
    """Two seeds against one, a noise of √2 with one degree of freedom."""
    smaller = run_params(dataset="mnist", levels="e")
    evidence = Evidence([a_record(97.0), a_record(99.0, seed=1), a_record(95.0, levels="e")])
    found = difference(evidence, PARAMS, smaller, "global_accuracy")
    assert found is not None
    assert (found.value, found.schedule) == (3.0, "paper")
    assert found.half_width == pytest.approx(12.7062 * math.sqrt(2) * math.sqrt(1 / 2 + 1), rel=1e-4)
    back = difference(evidence, smaller, PARAMS, "global_accuracy")
    assert back is not None
    assert back.value == -3.0


def test_settings_of_other_lengths_are_not_compared() -> None:
    evidence = Evidence([a_record(), a_record(levels="e", protocol="short")])
    assert difference(evidence, PARAMS, run_params(dataset="mnist", levels="e"), "global_accuracy") is None


def test_the_longest_schedule_that_both_have_is_compared() -> None:
    evidence = Evidence(
        [a_record(99.0), a_record(90.0, protocol="short"), a_record(80.0, levels="e", protocol="short")]
    )
    found = difference(evidence, PARAMS, run_params(dataset="mnist", levels="e"), "global_accuracy")
    assert found is not None
    assert (found.value, found.schedule) == (10.0, "short, 20 rounds")
    assert math.isnan(found.half_width)


def test_less_perplexity_is_better() -> None:
    def on_text(perplexity: float, levels: str) -> dict[str, Any]:
        return a_record(dataset="wikitext2", levels=levels) | {"metrics": {"best_perplexity": perplexity}}

    better, worse = (run_params(dataset="wikitext2", levels=levels) for levels in ("d-e", "e"))
    found = difference(Evidence([on_text(3.5, "d-e"), on_text(7.5, "e")]), better, worse, "perplexity")
    assert found is not None
    assert found.value == 4.0
