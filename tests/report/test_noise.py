"""The noise that is left in runs when what setting and seed explain is taken away."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_differences import SMALLER, runs
from test_evidence import PARAMS, a_record

from heterofl_core.params import RunParams, run_params
from heterofl_core.report.evidence import Evidence
from heterofl_core.report.noise import (
    PairNoise,
    kind,
    noises,
    pair_noise,
    repeated,
    repeated_slices,
    slice_kind,
)


def noise_of(records: list[dict[str, Any]], params: RunParams = PARAMS) -> PairNoise:
    """Of pairs of a-e and e."""
    pool = repeated(Evidence(records), params, "global_accuracy", "best")
    return pair_noise(pool, (kind(PARAMS), kind(SMALLER)), params)


def numbers(noise: PairNoise) -> tuple[float, float]:
    """The deviation and its degrees of freedom."""
    return noise.deviation, noise.freedom


LONG = runs({"a-e": [97.0, 99.0], "e": [90.0, 94.0]})
"""Runs that are off by a half each."""


def test_runs_of_other_code_lend_no_noise() -> None:
    assert math.isnan(noise_of(runs({"a-e": [97.0, 99.0], "e": [90.0, 94.0]}, stale=True)).deviation)
    assert noise_of([*LONG, *runs({"b": [60.0, 99.0]}, stale=True)]) == noise_of(LONG)


def test_noise_is_what_setting_and_seed_do_not_explain() -> None:
    """The settings differ by 7 with seed 0, by 5 with seed 1: four runs are off by a half each. Their
    variance is 1, and that of a difference of two of them is 2.
    """
    noise = noise_of([*LONG, *runs({"b": [50.0]})])
    assert numbers(noise) == pytest.approx((math.sqrt(2), 1))
    assert noise.borrowed_rounds == 0


def test_a_setting_that_was_repeated_alone_tells_nothing_of_pairs() -> None:
    noise = noise_of(runs({"a-e": [97.0, 99.0], "e": [90.0]}))
    assert (math.isnan(noise.deviation), noise.freedom) == (True, 0)
    assert noise_of([]).freedom == 0


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_what_all_runs_of_a_seed_share_is_no_noise(luck: list[float]) -> None:
    runs_of = {"a-e": [97.0, 99.0, 98.0], "e": [90.0, 94.0, 91.5], "b": [95.0, 95.5]}
    lucky = {
        levels: [value + luck[seed] for seed, value in enumerate(values)]
        for levels, values in runs_of.items()
    }
    noise = noise_of(runs(lucky))
    assert noise.freedom == pytest.approx(3)  # eight runs, three settings, three seeds of which one is free
    assert noise.deviation == pytest.approx(noise_of(runs(runs_of)).deviation, abs=1e-6)


def test_noise_is_that_of_runs_as_long_where_there_are_any() -> None:
    """Long runs are off by 1/2, short ones by 2. Where none as long was repeated, shorter ones lend theirs.
    Longer ones never do.
    """
    short = runs({"a-e": [80.0, 84.0], "e": [70.0, 82.0]}, protocol="short")

    def noise(rounds: int) -> PairNoise:
        return noise_of(LONG + short, run_params(dataset="mnist", levels="a-e", rounds=rounds, milestones=[]))

    shortest = run_params(dataset="mnist", levels="a-e", protocol="short")
    assert numbers(noise_of(LONG + short)) == pytest.approx((math.sqrt(2 * 1), 1))
    assert numbers(noise_of(LONG + short, shortest)) == pytest.approx((math.sqrt(2 * 16), 1))
    assert numbers(noise(shortest.rounds + 1)) == pytest.approx((math.sqrt(2 * 16), 1))
    assert numbers(noise(PARAMS.rounds + 1)) == pytest.approx((math.sqrt(2 * 17 / 2), 2))
    assert noise(shortest.rounds - 1).freedom == 0
    assert noise_of(LONG + short, shortest).borrowed_rounds == 0
    assert noise(shortest.rounds + 1).borrowed_rounds == shortest.rounds
    assert noise(PARAMS.rounds + 1).borrowed_rounds == PARAMS.rounds


@pytest.mark.parametrize("other", [{"lr": 1.0}, {"num_clients": 10}, {"eval_every": 1}])
def test_noise_is_that_of_one_schedule_and_of_as_many_clients(other: dict[str, Any]) -> None:
    """Nor is a run another one if it was evaluated more often."""
    wild = runs({"a-e": [80.0, 84.0], "e": [70.0, 82.0]}, **other)
    assert numbers(noise_of(LONG + wild)) == pytest.approx(numbers(noise_of(LONG)))


def test_runs_of_other_schedules_with_as_many_rounds_lend_nothing() -> None:
    wild = runs({"a-e": [80.0, 84.0], "e": [70.0, 82.0]}, lr=1.0)
    assert noise_of(wild).freedom == 0


def test_what_was_borrowed_has_the_rounds_of_those_who_lent_it() -> None:
    """One long setting that was repeated alone tells nothing, and lends none of its rounds."""
    short = runs({"a-e": [80.0, 84.0], "e": [70.0, 82.0]}, protocol="short")
    noise = noise_of([*runs({"a-e": [97.0, 99.0]}), *short])
    assert noise.borrowed_rounds == short[0]["params"]["rounds"]


@given(st.floats(-9, 9), st.integers(1, 9), st.floats(0.1, 9), st.floats(0.5, 9))
def test_chance_is_as_rare_as_the_interval_says_where_it_ends_at_the_margin(
    gain: float, pairs: int, deviation: float, freedom: float
) -> None:
    noise = PairNoise(deviation, freedom)
    assert noise.p_value(gain, pairs, gain - noise.half_width(pairs)) == pytest.approx(0.05)
    assert noise.p_value(gain, pairs, gain) == pytest.approx(1)


def test_what_is_not_known_or_diverged_has_no_p_value_and_what_never_scatters_is_certain() -> None:
    assert math.isnan(PairNoise().p_value(1.0, 1))
    assert math.isnan(PairNoise().half_width(1))
    assert math.isnan(PairNoise(1.0, 4).p_value(math.inf, 1))
    assert [PairNoise(0.0, 4).p_value(gain, 1) for gain in (0.0, 1.0)] == [1.0, 0.0]


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
    pool = repeated(evidence, PARAMS, "global_accuracy", "best")
    noise = pair_noise(pool, (kind(PARAMS), kind(worse)), PARAMS)
    # Of the wild setting's (-3, 3, 0) two thirds are left there, minus a third in both of the steady ones.
    steady, unsteady = 2 * (1 + 1) / (8 / 3), (4 + 4) / (4 / 3)
    expected = (steady + unsteady) ** 2 / (steady**2 / (8 / 3) + unsteady**2 / (4 / 3))
    assert numbers(noise) == pytest.approx((math.sqrt(steady + unsteady), expected))


def test_the_noises_are_listed_by_kind_with_what_they_rest_on() -> None:
    records = [*LONG, *runs({"b": [50.0]})]
    records += runs({"e": [60.0, 70.0]}, norm="none")  # nothing of its own kind to tell seed and noise apart
    (noise,) = noises(Evidence(records))
    assert noise.kind == ("heterofl", "cnn", "sbn", "zero", "static")
    assert (noise.rounds, noise.metric) == (200, "global_accuracy")
    assert dict(noise.settings) == pytest.approx({"a-e": 2 / math.sqrt(2), "e": 4 / math.sqrt(2)})
    assert (noise.deviation, noise.freedom) == pytest.approx((1, 1))


def test_other_data_and_other_partitions_do_not_count() -> None:
    records = runs({"a-e": [97.0, 99.0], "e": [90.0, 94.0]}, partition="non-iid-2")
    assert noise_of(records).freedom == 0


def test_ordinary_batch_norm_has_a_kind_of_its_own_where_levels_are_not_mixed() -> None:
    alone, mixed, larger = (
        run_params(dataset="mnist", levels=levels, norm="bn") for levels in ("e", "d-e", "a-e")
    )
    assert kind(alone) != kind(mixed) == kind(larger)
    assert kind(run_params(dataset="mnist", levels="e")) == kind(run_params(dataset="mnist", levels="d-e"))


def test_slices_scatter_by_themselves() -> None:
    """By hand. Of two mixes the slices of level e are off by 1, in turn; the global models are not at all.
    The slices of level d are no more evidence, and neither are the models: they are lucky together. A level
    alone is, by its final model.
    """
    sliced = {"a-d-e": [90.0, 94.0], "b-d-e": [92.0, 92.0]}
    records = [
        a_record(98.0, levels=levels, seed=seed)
        | {"sub_models": {level: {"global_accuracy": value} for level in "de"}}
        for levels, values in sliced.items()
        for seed, value in enumerate(values)
    ]
    pool = repeated_slices(Evidence(records), PARAMS, "global_accuracy")
    assert [dict(one.by_seed) for one in pool] == [{0: 90.0, 1: 94.0}, {0: 92.0, 1: 92.0}]
    kinds = slice_kind(PARAMS), slice_kind(PARAMS)
    assert numbers(pair_noise(pool, kinds, PARAMS)) == pytest.approx((math.sqrt(2 * 4 * 1.0), 1))
    assert pair_noise(pool, (slice_kind(PARAMS), kind(SMALLER)), PARAMS).freedom == 0
    alone = runs({"e": [95.0, 96.0]})
    (*_, last) = repeated_slices(Evidence(records + alone), PARAMS, "global_accuracy")
    assert (last.kind, dict(last.by_seed)) == (kind(SMALLER), {0: 94.0, 1: 95.0})
