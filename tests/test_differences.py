"""How much better a setting is: pairs of runs with one seed, and the noise that is left in them."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_evidence import PARAMS, a_record

from heterofl_core.differences import Difference, difference, kind, noises, pair_noise
from heterofl_core.evidence import Evidence
from heterofl_core.params import run_params

SMALLER = run_params(dataset="mnist", levels="e")


def runs(by_level: dict[str, list[float]], **settings: Any) -> list[dict[str, Any]]:
    """Records of some levels, each with the seeds 0, 1, ..."""
    return [
        a_record(value, levels=levels, seed=seed, **settings)
        for levels, values in by_level.items()
        for seed, value in enumerate(values)
    ]


def found(records: list[dict[str, Any]]) -> Difference:
    """Of a-e against e."""
    answer = difference(Evidence(records), PARAMS, SMALLER, "global_accuracy")
    assert answer is not None
    return answer


def noise_of(records: list[dict[str, Any]], rounds: int = PARAMS.rounds) -> tuple[float, float]:
    return pair_noise(Evidence(records), (PARAMS, SMALLER), "global_accuracy", "best", rounds)


# The difference


def test_a_difference_is_the_mean_over_pairs_of_one_seed() -> None:
    """Seed 2 has no partner: 97 - 90 and 99 - 94."""
    answer = found(runs({"a-e": [97.0, 99.0, 50.0], "e": [90.0, 94.0]}))
    assert (answer.value, answer.pairs, answer.schedule) == (6.0, 2, "paper")
    back = difference(Evidence(runs({"a-e": [97.0], "e": [90.0]})), SMALLER, PARAMS, "global_accuracy")
    assert back is not None
    assert back.value == -7.0


def test_with_two_settings_the_interval_is_that_of_students_paired_test() -> None:
    ours, others = [97.0, 99.0, 98.5, 96.0], [90.0, 94.0, 92.5, 91.0]
    answer = found(runs({"a-e": ours, "e": others}))
    interval = stats.ttest_rel(ours, others).confidence_interval(0.95)
    assert answer.value - answer.half_width == pytest.approx(interval.low)
    assert answer.value + answer.half_width == pytest.approx(interval.high)


def test_a_single_pair_has_the_noise_of_the_others() -> None:
    """Between b and c it is 1, with one degree of freedom; one pair has √2 of it."""
    answer = found(runs({"a-e": [98.0], "e": [95.0], "b": [97.0, 99.0], "c": [90.0, 94.0]}))
    assert (answer.value, answer.pairs) == (3.0, 1)
    assert answer.half_width == pytest.approx(12.7062 * math.sqrt(2), rel=1e-5)


def test_runs_without_a_seed_in_common_are_not_compared() -> None:
    records = [a_record(98.0, seed=1), a_record(95.0, levels="e", seed=2)]
    assert difference(Evidence(records), PARAMS, SMALLER, "global_accuracy") is None


@pytest.mark.parametrize(
    "other", [{"protocol": "short"}, {"lr": 1.0}, {"milestones": [7]}, {"eval_every": 1}]
)
def test_settings_of_other_schedules_are_not_compared(other: dict[str, Any]) -> None:
    evidence = Evidence([a_record(), a_record(levels="e", **other)])
    assert difference(evidence, PARAMS, SMALLER, "global_accuracy") is None


def test_the_longest_schedule_that_both_have_is_compared() -> None:
    answer = found([a_record(99.0), *runs({"a-e": [90.0], "e": [80.0]}, protocol="short")])
    assert (answer.value, answer.schedule) == (10.0, "short, 20 rounds")
    assert math.isnan(answer.half_width)


def test_a_difference_is_as_good_as_the_worse_of_its_code_and_says_if_it_is_short() -> None:
    good = found(runs({"a-e": [98.0], "e": [95.0]}))
    assert (good.state, good.full) == ("current", True)
    bad = found([a_record(98.0, dirty=True, protocol="short"), a_record(95.0, levels="e", protocol="short")])
    assert (bad.state, bad.full) == ("uncommitted", False)


def test_less_perplexity_is_better_by_the_logarithm_of_the_ratio() -> None:
    def on_text(perplexity: float, levels: str) -> dict[str, Any]:
        return a_record(dataset="wikitext2", levels=levels) | {"metrics": {"best_perplexity": perplexity}}

    better, worse = (run_params(dataset="wikitext2", levels=levels) for levels in ("d-e", "e"))
    answer = difference(Evidence([on_text(3.5, "d-e"), on_text(7.5, "e")]), better, worse, "perplexity")
    assert answer is not None
    assert answer.value == pytest.approx(math.log(7.5 / 3.5))


# The noise


def test_noise_is_what_setting_and_seed_do_not_explain() -> None:
    """The settings differ by 7 with seed 0, by 5 with seed 1: four runs are off by a half each. Their
    variance is 1, and that of a difference of two of them is 2.
    """
    noise, freedom = noise_of(runs({"a-e": [97.0, 99.0], "e": [90.0, 94.0], "b": [50.0]}))
    assert noise == pytest.approx(math.sqrt(2))
    assert freedom == pytest.approx(1)


def test_a_setting_that_was_repeated_alone_tells_nothing_of_pairs() -> None:
    noise, freedom = noise_of(runs({"a-e": [97.0, 99.0], "e": [90.0]}))
    assert (math.isnan(noise), freedom) == (True, 0)
    assert noise_of([])[1] == 0


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_what_all_runs_of_a_seed_share_is_no_noise(luck: list[float]) -> None:
    runs_of = {"a-e": [97.0, 99.0, 98.0], "e": [90.0, 94.0, 91.5], "b": [95.0, 95.5]}
    lucky = {
        levels: [value + luck[seed] for seed, value in enumerate(values)]
        for levels, values in runs_of.items()
    }
    noise, freedom = noise_of(runs(lucky))
    assert freedom == pytest.approx(3)  # eight runs, three settings, three seeds of which one is free
    assert noise == pytest.approx(noise_of(runs(runs_of))[0], abs=1e-6)


def test_settings_without_any_scatter_have_an_interval_of_no_width() -> None:
    answer = found(runs({"a-e": [98.0, 98.0], "e": [95.0, 95.0]}))
    assert answer.value == 3
    assert answer.half_width == pytest.approx(0, abs=1e-9)


def test_noise_is_that_of_runs_as_long_where_there_are_any() -> None:
    """Long runs are off by 1/2, short ones by 2. Where none as long was repeated, shorter ones lend theirs.
    Longer ones never do.
    """
    long = runs({"a-e": [97.0, 99.0], "e": [90.0, 94.0]})
    short = runs({"a-e": [80.0, 84.0], "e": [70.0, 82.0]}, protocol="short")
    length = short[0]["params"]["rounds"]
    for rounds, variance, freedom in ((PARAMS.rounds, 1, 1), (length, 16, 1), (length + 1, 16, 1)):
        assert noise_of(long + short, rounds) == pytest.approx((math.sqrt(2 * variance), freedom))
    assert noise_of(long + short, PARAMS.rounds + 1) == pytest.approx((math.sqrt(2 * 17 / 2), 2))
    assert noise_of(long + short, length - 1)[1] == 0


@pytest.mark.parametrize(
    "other", [{"norm": "none"}, {"masked_loss": "neg_inf"}, {"arch": "mlp", "norm": "none"}]
)
def test_no_kind_lends_its_noise_to_another(other: dict[str, Any]) -> None:
    """What was run once of another kind has no interval, however often the first kind was repeated."""
    worse = run_params(dataset="mnist", levels="e", **other)
    steady = runs({"a-e": [97.0, 99.0], "e": [90.0, 94.0]})
    answer = difference(Evidence([*steady, *runs({"e": [80.0]}, **other)]), PARAMS, worse, "global_accuracy")
    assert answer is not None
    assert math.isnan(answer.half_width)
    assert answer.freedom == 0


def test_other_goals_of_training_are_other_kinds() -> None:
    usual, masked = (
        run_params(dataset="wikitext2", levels="e", predicted=predicted) for predicted in ("all", "masked")
    )
    assert kind(usual) != kind(masked)


def test_an_unsteady_kind_widens_the_interval_as_in_welchs_test() -> None:
    """By hand. The settings a-e and e of the steady kind, e of the other, with three seeds each: nine runs
    less three settings and two free seeds leave four degrees of freedom, 8/3 to the first kind, 4/3 to the
    other.
    """
    rows = {"a-e": [98.0, 98.0, 98.0], "e": [95.0, 95.0, 95.0]}
    wild = runs({"e": [60.0, 66.0, 63.0]}, norm="none")
    worse = run_params(dataset="mnist", levels="e", norm="none")
    evidence = Evidence([*runs(rows), *wild])
    noise, freedom = pair_noise(evidence, (PARAMS, worse), "global_accuracy", "best", PARAMS.rounds)
    # Of the wild setting's (-3, 3, 0) two thirds are left there, minus a third in both of the steady ones.
    steady, unsteady = 2 * (1 + 1) / (8 / 3), (4 + 4) / (4 / 3)
    assert noise == pytest.approx(math.sqrt(steady + unsteady))
    expected = (steady + unsteady) ** 2 / (steady**2 / (8 / 3) + unsteady**2 / (4 / 3))
    assert freedom == pytest.approx(expected)


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_run_that_diverged_leaves_its_kind_without_an_interval(lost: float) -> None:
    """Even if it is none of those that are compared: an interval of nothing would make everything certain."""
    steady = {"a-e": [97.0, 99.0], "e": [90.0, 94.0]}
    assert math.isnan(found(runs(steady | {"b": [98.0, lost]})).half_width)
    other = runs({"b": [60.0, lost]}, norm="none")
    assert found([*runs(steady), *other]).half_width == found(runs(steady)).half_width > 0


def test_settings_that_diverged_with_different_seeds_have_no_difference() -> None:
    answer = found(runs({"a-e": [97.0, math.inf], "e": [math.inf, 94.0]}))
    assert (answer.pairs, math.isnan(answer.value), math.isnan(answer.half_width)) == (2, True, True)


def test_the_noises_are_listed_by_kind_with_what_they_rest_on() -> None:
    records = runs({"a-e": [97.0, 99.0], "e": [90.0, 94.0], "b": [50.0]})
    records += runs({"e": [60.0, 70.0]}, norm="none")  # nothing of its own kind to tell seed and noise apart
    (noise,) = noises(Evidence(records))
    assert noise.kind == ("heterofl", "cnn", "sbn", "zero", "static")
    assert (noise.rounds, noise.metric, noise.settings) == (200, "global_accuracy", 2)
    assert (noise.deviation, noise.freedom) == pytest.approx((1, 1))


def test_other_data_and_other_partitions_do_not_count() -> None:
    records = runs({"a-e": [97.0, 99.0], "e": [90.0, 94.0]}, partition="non-iid-2")
    assert noise_of(records)[1] == 0
