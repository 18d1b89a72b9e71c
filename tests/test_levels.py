"""Levels, mixes of them, and who gets which."""

import csv
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterofl_core.errors import InputError
from heterofl_core.folders import PARAMS
from heterofl_core.levels import LEVELS, Mix, all_mixes, width_rate


def equal_parts_or(total: int) -> st.SearchStrategy[Mix]:
    """Any mix of equal parts, or one whose parts add up to `total`."""

    def with_parts(levels: tuple[str, ...]) -> st.SearchStrategy[Mix]:
        cuts = st.sets(st.integers(1, total - 1), min_size=len(levels) - 1, max_size=len(levels) - 1)
        parts = cuts.map(lambda cut: tuple(np.diff([0, *sorted(cut), total]).tolist()))
        return st.one_of(st.just((1,) * len(levels)), parts).map(lambda part: Mix(levels, part))

    subsets = st.sets(st.sampled_from(LEVELS), min_size=1).map(lambda chosen: tuple(sorted(chosen)))
    return subsets.flatmap(with_parts)


def test_each_level_has_half_the_width_of_the_one_before() -> None:
    assert [width_rate(level) for level in "abcde"] == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]


@pytest.mark.parametrize(
    ("text", "levels", "parts"),
    [
        ("e", ("e",), (1,)),
        ("a-e", ("a", "e"), (1, 1)),
        ("a-b-c-d-e", ("a", "b", "c", "d", "e"), (1, 1, 1, 1, 1)),
        ("a3-e7", ("a", "e"), (3, 7)),
        ("a33-b33-c34", ("a", "b", "c"), (33, 33, 34)),
        ("a5-e5", ("a", "e"), (1, 1)),
        ("a50-e50", ("a", "e"), (1, 1)),
        ("a30-e70", ("a", "e"), (3, 7)),
        ("a35-e65", ("a", "e"), (35, 65)),
        ("b10", ("b",), (1,)),
    ],
)
def test_a_mix_has_one_form_however_it_is_written(
    text: str, levels: tuple[str, ...], parts: tuple[int, ...]
) -> None:
    assert Mix.parse(text) == Mix(levels, parts)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("f", "levels 'f' is not a mix of levels a to e from large to small, such as 'e', 'a-e' or 'a3-e7'"),
        ("", "levels '' is not a mix"),
        ("A", "levels 'A' is not a mix"),
        ("a-", "levels 'a-' is not a mix"),
        ("a0-e10", "levels 'a0-e10' is not a mix"),
        ("a1.5-e8.5", "levels 'a1.5-e8.5' is not a mix"),
        ("a\n", "is not a mix"),
        ("a-a", "levels 'a-a' repeats a level or is out of order"),
        ("e-a", "levels 'e-a' repeats a level or is out of order"),
        ("a3-e", "levels 'a3-e' has a number on some levels only; give all or none"),
        ("a3-e8", "levels 'a3-e8' adds up to 11; .* must add up to 10 or 100"),
        ("e5", "levels 'e5' adds up to 5; .* must add up to 10 or 100"),
    ],
)
def test_parse_says_what_is_wrong_with_a_mix(text: str, fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        Mix.parse(text)


@given(equal_parts_or(10) | equal_parts_or(100))
def test_a_mix_written_and_read_again_has_the_same_levels_and_shares(mix: Mix) -> None:
    again = Mix.parse(str(mix))
    assert again.levels == mix.levels
    assert again.shares.tolist() == mix.shares.tolist()


@pytest.mark.parametrize("text", ["e", "a-e", "a-b-c-d-e", "a3-e7", "a33-b33-c34"])
def test_a_mix_is_written_as_it_was_read(text: str) -> None:
    assert str(Mix.parse(text)) == text


def test_shares_are_proportions_of_the_clients() -> None:
    assert Mix.parse("a3-e7").shares.tolist() == [0.3, 0.7]
    assert Mix.parse("a33-b33-c34").shares.tolist() == [0.33, 0.33, 0.34]


def test_the_largest_level_is_the_global_models() -> None:
    assert Mix.parse("b-d-e").largest == "b"


def test_fix_gives_the_first_clients_the_first_level() -> None:
    assert Mix.parse("a3-e7").fix(10) == ["a"] * 3 + ["e"] * 7
    assert Mix.parse("a33-b33-c34").fix(100) == ["a"] * 33 + ["b"] * 33 + ["c"] * 34
    assert Mix.parse("d").fix(3) == ["d"] * 3


@given(st.sampled_from(all_mixes()), st.integers(5, 300))
def test_fix_of_equal_parts_gives_levels_whose_sizes_differ_by_one_at_most(
    mix: Mix, num_clients: int
) -> None:
    assigned = mix.fix(num_clients)
    sizes = Counter(assigned)
    assert len(assigned) == num_clients
    assert assigned == sorted(assigned)
    assert set(sizes) == set(mix.levels)
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_fix_rounds_to_the_nearest_client() -> None:
    """A hundred clients are cut after 33.3 and 66.7 of them."""
    assert Mix.parse("a-b-c").fix(100) == ["a"] * 33 + ["b"] * 34 + ["c"] * 33


def test_fix_refuses_fewer_clients_than_levels() -> None:
    with pytest.raises(InputError, match="num_clients 2 is too few for levels a-b-c"):
        Mix.parse("a-b-c").fix(2)


def test_dynamic_draws_levels_in_proportion_to_their_parts() -> None:
    draws, share = 5000, 0.3
    rng = np.random.default_rng(0)
    counts = Counter(Mix.parse("a3-e7").dynamic(rng) for _ in range(draws))
    assert set(counts) == {"a", "e"}
    assert abs(counts["a"] - draws * share) < 4 * np.sqrt(draws * share * (1 - share))


def test_uniform_draws_each_clients_level_once_and_every_level_as_likely() -> None:
    """Whatever the parts of the mix: its shares do not count."""
    num_clients = 5000
    assigned = Mix.parse("a3-c2-e5").uniform(num_clients, np.random.default_rng(0))
    counts = Counter(assigned)
    assert len(assigned) == num_clients
    assert set(counts) == {"a", "c", "e"}
    deviation = np.sqrt(num_clients * 1 / 3 * 2 / 3)
    assert all(abs(count - num_clients / 3) < 4 * deviation for count in counts.values())
    assert assigned == Mix.parse("a3-c2-e5").uniform(num_clients, np.random.default_rng(0))
    assert assigned != Mix.parse("a3-c2-e5").uniform(num_clients, np.random.default_rng(1))


def test_all_mixes_are_the_31_models_of_table_5_in_its_order() -> None:
    with (PARAMS / "paper" / "table5_mnist.csv").open(encoding="utf-8") as file:
        models = [row["model"] for row in csv.DictReader(file)]
    assert [str(mix) for mix in all_mixes()] == models[:31]
    assert models[31:] == ["Standalone", "FedAvg", "LG-FedAvg"]


@pytest.mark.parametrize("table", ["table5_mnist", "table6_cifar10", "table7_wikitext2"])
def test_the_mixes_are_those_of_every_table(table: str) -> None:
    with (PARAMS / "paper" / f"{table}.csv").open(encoding="utf-8") as file:
        models = [row["model"] for row in csv.DictReader(file)]
    baselines = {"Standalone", "FedAvg", "LG-FedAvg"}
    assert sorted(set(models) - baselines) == sorted(str(mix) for mix in all_mixes())
