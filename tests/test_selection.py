"""Which coordinates a client holds."""

import os
import subprocess
import sys
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterofl_core.errors import InputError
from heterofl_core.randomness import generator
from heterofl_core.selection import (
    Axes,
    Axis,
    prefix,
    random_index,
    random_subset,
    rolling_index,
    rolling_window,
    scaled_width,
    static_index,
)

RATES = [1.0, 0.5, 0.25, 0.125, 0.0625]
heads = st.tuples(st.integers(1, 40), st.integers(1, 8)).map(
    lambda pair: Axis("x", pair[0] * pair[1], pair[1])
)


@pytest.mark.parametrize(
    ("width", "width_rate", "expected"), [(64, 1, 64), (64, 1 / 16, 4), (10, 1 / 4, 3), (1, 1 / 16, 1)]
)
def test_a_width_is_rounded_up(width: int, width_rate: float, expected: int) -> None:
    assert scaled_width(width, width_rate) == expected


@given(st.integers(1, 5000), st.sampled_from(RATES), st.sampled_from(RATES))
def test_shrinking_twice_is_shrinking_once_by_the_product(width: int, first: float, second: float) -> None:
    """So a level's width does not depend on which larger level is the global model's."""
    assert scaled_width(scaled_width(width, first), second) == scaled_width(width, first * second)


def test_an_axis_without_groups_keeps_its_first_coordinates() -> None:
    assert prefix(Axis("x", 6), 0.5).tolist() == [0, 1, 2]
    assert prefix(Axis("x", 6), 1).tolist() == [0, 1, 2, 3, 4, 5]


def test_eight_heads_of_32_keep_the_first_two_features_each_at_one_sixteenth() -> None:
    held = prefix(Axis("queries", 8 * 32, groups=8), 1 / 16)
    assert held.tolist() == [0, 1, 32, 33, 64, 65, 96, 97, 128, 129, 160, 161, 192, 193, 224, 225]


@given(heads, st.sampled_from(RATES))
def test_a_coordinate_is_held_if_its_place_in_its_group_is_below_the_groups_width(
    axis: Axis, width_rate: float
) -> None:
    width = axis.size // axis.groups
    expected = [c for c in range(axis.size) if c % width < -(-Fraction(width) * Fraction(width_rate) // 1)]
    assert prefix(axis, width_rate).tolist() == expected


@given(heads, st.sampled_from(RATES), st.sampled_from(RATES))
def test_a_smaller_level_holds_a_subset_of_what_a_larger_one_holds(
    axis: Axis, first: float, second: float
) -> None:
    small, large = sorted((first, second))
    assert set(prefix(axis, small)) <= set(prefix(axis, large))
    assert len(prefix(axis, small)) > 0


def test_groups_that_do_not_divide_an_axis_are_refused() -> None:
    with pytest.raises(InputError, match="axis 'queries' of size 10 cannot be cut into 4 groups"):
        Axis("queries", 10, groups=4)


def test_static_index_names_each_axis_that_shrinks_once() -> None:
    hidden, queries = Axis("hidden", 4), Axis("queries", 4, groups=2)
    axes = {
        "first.weight": (hidden, None),
        "first.bias": (hidden,),
        "attention.weight": (queries, hidden),
        "linear.weight": (Axis("labels", 10, shrinks=False), queries),
    }
    index = static_index(axes, 0.5)
    assert {name: held.tolist() for name, held in index.items()} == {"hidden": [0, 1], "queries": [0, 2]}


NETWORK: Axes = {
    "first.weight": (Axis("hidden", 64), None, None, None),
    "attention.weight": (Axis("queries", 256, groups=8), Axis("hidden", 64)),
    "linear.weight": (Axis("labels", 10, shrinks=False), Axis("queries", 256, groups=8)),
}


def as_lists(index: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: held.tolist() for name, held in index.items()}


def test_every_strategy_names_the_axes_that_shrink() -> None:
    for index in (
        static_index(NETWORK, 0.5),
        random_index(NETWORK, 0.5, np.random.default_rng(0)),
        rolling_index(NETWORK, 0.5, 3),
    ):
        assert {name: len(held) for name, held in index.items()} == {"hidden": 32, "queries": 128}


# Random


@given(heads, st.sampled_from(RATES), st.integers(0, 999))
def test_a_random_subset_has_the_levels_width_in_each_group_ascending_and_without_repetition(
    axis: Axis, width_rate: float, seed: int
) -> None:
    held = random_subset(axis, width_rate, np.random.default_rng(seed))
    width = axis.size // axis.groups
    counts = np.bincount(held // width, minlength=axis.groups)
    assert counts.tolist() == [scaled_width(width, width_rate)] * axis.groups
    assert (np.diff(held) > 0).all()
    assert held.min() >= 0
    assert held.max() < axis.size


def test_random_subsets_hold_every_coordinate_equally_often() -> None:
    """Of 2000 draws of a quarter, within four deviations."""
    draws, rng = 2000, np.random.default_rng(0)
    axis = Axis("queries", 24, groups=3)
    counts = np.bincount(np.concatenate([random_subset(axis, 1 / 4, rng) for _ in range(draws)]))
    assert np.abs(counts - draws / 4).max() < 4 * np.sqrt(draws * 1 / 4 * 3 / 4)


def test_heads_draw_on_their_own() -> None:
    held = random_subset(Axis("queries", 256, groups=8), 1 / 4, np.random.default_rng(0)).reshape(8, 8)
    assert len({tuple(head) for head in (held % 32).tolist()}) == 8


def test_the_same_key_gives_the_same_random_index_and_any_other_gives_another() -> None:
    def drawn(seed: int, round: int, client: int) -> dict[str, list[int]]:
        return as_lists(random_index(NETWORK, 1 / 8, generator(seed, "sub-model", round, client)))

    assert drawn(0, 1, 2) == drawn(0, 1, 2)
    keys = [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)]
    for one, other in combinations([drawn(*key) for key in keys], 2):
        assert one["hidden"] != other["hidden"]


def test_random_indices_do_not_depend_on_pythons_hash_seed() -> None:
    """Nor does choosing need torch."""
    program = """
import sys
import numpy as np
from heterofl_core.selection import Axis, random_index
axes = {name: (Axis(name, 64), Axis("stream", 32)) for name in ("beta", "alpha", "gamma", "delta")}
index = random_index(axes, 0.25, np.random.default_rng(0))
print({name: held.tolist() for name, held in index.items()})
assert "torch" not in sys.modules
"""
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(answers) == 1
    assert answers.pop().startswith("{'beta': [")


# Rolling


def test_a_window_of_two_rolls_over_five_coordinates() -> None:
    windows = [rolling_window(Axis("x", 5), 0.4, t).tolist() for t in range(1, 8)]
    assert windows == [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4], [0, 1], [1, 2]]


def test_windows_roll_inside_each_group() -> None:
    axis = Axis("queries", 8, groups=2)
    assert rolling_window(axis, 0.5, 1).tolist() == [0, 1, 4, 5]
    assert rolling_window(axis, 0.5, 4).tolist() == [0, 3, 4, 7]


@given(heads, st.sampled_from(RATES), st.integers(1, 500))
def test_a_window_moves_by_one_each_round_and_wraps(axis: Axis, width_rate: float, t: int) -> None:
    width = axis.size // axis.groups
    now, then = (rolling_window(axis, width_rate, each) for each in (t, t + 1))
    assert sorted(c // width * width + (c % width + 1) % width for c in now) == then.tolist()
    assert (np.diff(now) > 0).all()
    assert rolling_window(axis, width_rate, 1).tolist() == prefix(axis, width_rate).tolist()


@given(heads, st.sampled_from(RATES), st.integers(1, 100))
def test_over_as_many_rounds_as_there_are_coordinates_each_is_held_equally_often(
    axis: Axis, width_rate: float, start: int
) -> None:
    width = axis.size // axis.groups
    windows = [rolling_window(axis, width_rate, t) for t in range(start, start + width)]
    assert np.bincount(np.concatenate(windows)).tolist() == [scaled_width(width, width_rate)] * axis.size


def test_rolling_index_moves_every_axis() -> None:
    """Sixty-four and eight times 32 coordinates, in round 33: heads are back at their start."""
    index = as_lists(rolling_index(NETWORK, 1 / 16, 33))
    assert index["hidden"] == [32, 33, 34, 35]
    assert index["queries"] == prefix(Axis("queries", 256, groups=8), 1 / 16).tolist()
