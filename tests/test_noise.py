"""The noise that is left in runs when what setting and seed explain is taken away."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_differences import SMALLER, runs
from test_evidence import PARAMS, a_record

from heterofl_core.evidence import Evidence
from heterofl_core.noise import kind, noises, pair_noise, repeated, repeated_slices, slice_kind
from heterofl_core.params import run_params


def noise_of(records: list[dict[str, Any]], rounds: int = PARAMS.rounds) -> tuple[float, float]:
    """Of pairs of a-e and e."""
    pool = repeated(Evidence(records), PARAMS, "global_accuracy", "best")
    return pair_noise(pool, (kind(PARAMS), kind(SMALLER)), rounds)


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
    noise, freedom = pair_noise(pool, (kind(PARAMS), kind(worse)), PARAMS.rounds)
    # Of the wild setting's (-3, 3, 0) two thirds are left there, minus a third in both of the steady ones.
    steady, unsteady = 2 * (1 + 1) / (8 / 3), (4 + 4) / (4 / 3)
    assert noise == pytest.approx(math.sqrt(steady + unsteady))
    expected = (steady + unsteady) ** 2 / (steady**2 / (8 / 3) + unsteady**2 / (4 / 3))
    assert freedom == pytest.approx(expected)


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


def test_ordinary_batch_norm_has_a_kind_of_its_own_where_levels_are_not_mixed() -> None:
    alone, mixed, larger = (
        run_params(dataset="mnist", levels=levels, norm="bn") for levels in ("e", "d-e", "a-e")
    )
    assert kind(alone) != kind(mixed) == kind(larger)
    assert kind(run_params(dataset="mnist", levels="e")) == kind(run_params(dataset="mnist", levels="d-e"))


def test_slices_scatter_by_themselves() -> None:
    """By hand. Of two mixes the slices of level e are off by 1, in turn; the global models are not at all."""
    sliced = {"a-e": [90.0, 94.0], "b-e": [92.0, 92.0]}
    records = [
        a_record(98.0, levels=levels, seed=seed) | {"sub_models": {"e": {"global_accuracy": value}}}
        for levels, values in sliced.items()
        for seed, value in enumerate(values)
    ]
    pool = repeated_slices(Evidence(records), PARAMS, "global_accuracy")
    assert [dict(one.by_seed) for one in pool] == [{0: 90.0, 1: 94.0}, {0: 92.0, 1: 92.0}]
    kinds = slice_kind(PARAMS), slice_kind(PARAMS)
    assert pair_noise(pool, kinds, PARAMS.rounds) == pytest.approx((math.sqrt(2 * 4 * 1.0), 1))
    assert pair_noise(pool, (slice_kind(PARAMS), kind(SMALLER)), PARAMS.rounds)[1] == 0
