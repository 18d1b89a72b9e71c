"""How much better a setting is: pairs of runs with one seed, and the noise that is left in them."""

import math
from typing import Any

import pytest
from scipy import stats
from test_evidence import PARAMS, a_record

from heterofl_core.params import run_params
from heterofl_core.report.differences import Difference, difference, holm
from heterofl_core.report.evidence import Evidence

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


def test_runs_in_two_precisions_are_no_pair() -> None:
    """Seed 0 in bf16 against seed 0 in float32 would measure the precision, too."""
    records = [a_record(98.0, seed=0, precision="bf16"), a_record(95.0, levels="e", seed=0)]
    assert difference(Evidence(records), PARAMS, SMALLER, "global_accuracy") is None
    both = [a_record(99.0, seed=1), a_record(91.0, levels="e", seed=1)]
    answer = found(records + both)
    assert (answer.value, answer.pairs) == (8.0, 1)


def test_a_difference_tells_of_its_pairs_alone() -> None:
    """Neither the precision of a run without a partner nor its code is that of the difference."""
    pair = [a_record(98.0, seed=2), a_record(95.0, levels="e", seed=2)]
    lone = a_record(90.0, dirty=True, levels="e", seed=0, precision="bf16")
    answer = found([*pair, lone])
    assert (answer.schedule, answer.state) == ("paper", "current")


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


@pytest.mark.parametrize(("margin", "side"), [(0.0, "greater"), (8.0, "less")])
def test_a_p_value_is_that_of_students_paired_test_against_the_margin(margin: float, side: str) -> None:
    ours, others = [97.0, 99.0, 98.5, 96.0], [90.0, 94.0, 92.5, 91.0]
    expected = stats.ttest_1samp([one - other for one, other in zip(ours, others, strict=True)], margin)
    assert (expected.statistic > 0) == (side == "greater")
    answer = found(runs({"a-e": ours, "e": others}))
    assert answer.p_value(margin) == pytest.approx(expected.pvalue)


def test_without_an_interval_there_is_no_p_value_and_without_scatter_it_is_certain() -> None:
    assert math.isnan(found(runs({"a-e": [98.0], "e": [95.0]})).p_value(0))
    steady = found(runs({"a-e": [98.0, 98.0], "e": [95.0, 95.0]}))
    assert steady.half_width == pytest.approx(0, abs=1e-9)
    assert steady.p_value(0) < 1e-6


def test_holms_procedure_by_hand() -> None:
    """Of ten comparisons: 0.004 ≤ 0.05/10 and 0.0055 ≤ 0.05/9; 0.0064 > 0.05/8 ends it, whatever follows."""
    others = [0.5] * 6
    assert holm([0.0064, 0.004, 0.0055, 0.0065, *others]) == 0.0055
    assert holm([0.006, *others, *others]) == 0
    assert holm([]) == 0


# What has no interval, or no difference


def test_settings_without_any_scatter_have_an_interval_of_no_width() -> None:
    answer = found(runs({"a-e": [98.0, 98.0], "e": [95.0, 95.0]}))
    assert answer.value == 3
    assert answer.half_width == pytest.approx(0, abs=1e-9)


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
    assert answer.noise.freedom == 0


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
