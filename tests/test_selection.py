"""Which coordinates a client holds."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterofl_core.selection import Axis, prefix, scaled_width, static_index

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
