"""Every draw has a generator of its own."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heterofl_core.randomness import generator, torch_seed

Key = tuple[int, str, int, int]


def draws(seed: int, purpose: str, *key: int) -> list[int]:
    """The first numbers of a generator."""
    return generator(seed, purpose, *key).integers(2**62, size=4).tolist()


def torch_draws(seed: int, purpose: str, *key: int) -> list[float]:
    """The first numbers of torch's generator after seeding."""
    return torch.rand(4, generator=torch.Generator().manual_seed(torch_seed(seed, purpose, *key))).tolist()


BOTH = pytest.mark.parametrize("draw", [draws, torch_draws])
keys = st.tuples(
    st.integers(0, 2**31),
    st.sampled_from(["partition", "active clients", "level", "batches", "local update"]),
    st.integers(0, 1000),
    st.integers(0, 1000),
)


@BOTH
def test_the_same_key_gives_the_same_draws(draw: Callable[..., list[float]]) -> None:
    assert draw(1, "batches", 2, 3) == draw(1, "batches", 2, 3)


@BOTH
@pytest.mark.parametrize(
    "other",
    [
        (2, "batches", 2, 3),
        (1, "patches", 2, 3),
        (1, "batches", 3, 3),
        (1, "batches", 2, 4),
        (1, "batches", 3, 2),
    ],
    ids=["seed", "purpose", "round", "client", "round and client swapped"],
)
def test_any_other_key_gives_other_draws(draw: Callable[..., list[float]], other: Key) -> None:
    assert draw(1, "batches", 2, 3) != draw(*other)


@given(keys, keys)
def test_two_keys_share_their_draws_only_if_they_are_equal(first: Key, second: Key) -> None:
    assert (draws(*first) == draws(*second)) == (first == second)


def test_what_was_drawn_before_does_not_matter() -> None:
    alone = draws(0, "batches", 1, 5)
    rng = generator(0, "batches", 1, 5)
    for client in range(5):
        draws(0, "batches", 1, client)
    torch.manual_seed(99)
    assert rng.integers(2**62, size=4).tolist() == alone


def test_a_torch_seed_is_one_that_torch_accepts() -> None:
    seeds = [torch_seed(0, "local update", 1, client) for client in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
