"""Who holds which examples."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from heterofl_core.data import load_images
from heterofl_core.errors import InputError
from heterofl_core.partition import Partition, deal_by_share, draw_labels, make_partition

TRAIN = np.arange(2000) % 10  # 200 of each label
TEST = np.arange(500) % 10


def partition(kind: str, num_clients: int = 100, seed: int = 0) -> Partition:
    """Of balanced labels."""
    return make_partition(kind, TRAIN, TEST, num_clients, np.random.default_rng(seed))


def assert_every_example_has_one_owner(shares: list[np.ndarray], num_examples: int) -> None:
    assert sorted(np.concatenate(shares).tolist()) == list(range(num_examples))
    assert all((np.diff(own) > 0).all() for own in shares)


@given(st.integers(1, 40), st.integers(40, 200), st.integers(40, 60), st.integers(0, 99))
def test_iid_gives_every_example_to_one_client_in_shares_that_differ_by_one_at_most(
    num_clients: int, num_train: int, num_test: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    train, test = rng.integers(0, 4, num_train), rng.integers(0, 4, num_test)
    result = make_partition("iid", train, test, num_clients, rng)
    for shares, size in ((result.train, num_train), (result.test, num_test)):
        assert len(shares) == num_clients
        assert_every_example_has_one_owner(shares, size)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 8), st.integers(1, 4), st.integers(16, 40), st.integers(16, 20), st.integers(0, 99))
def test_non_iid_gives_every_example_to_one_client_with_few_labels(
    scale: int, labels_per_client: int, num_train: int, num_test: int, seed: int
) -> None:
    """Four labels of different sizes, each with enough examples for all its shards."""
    rng = np.random.default_rng(seed)
    train = np.repeat(np.arange(4), num_train + np.arange(4))
    test = np.repeat(np.arange(4), num_test + np.arange(4))
    num_clients = 4 * scale if labels_per_client % 2 else 2 * scale
    result = make_partition(f"non-iid-{labels_per_client}", train, test, min(num_clients, 16), rng)
    assert_every_example_has_one_owner(result.train, len(train))
    assert_every_example_has_one_owner(result.test, len(test))
    assert result.held.sum(axis=1).max() <= labels_per_client
    for held, own in zip(result.held, result.test, strict=True):
        assert set(test[own]) <= set(np.flatnonzero(held))


@pytest.mark.parametrize("kind", ["iid", "non-iid-1", "non-iid-2", "dirichlet-1"])
def test_held_labels_are_those_in_a_clients_training_data(kind: str) -> None:
    data = load_images("digits")
    result = make_partition(kind, data.train_labels, data.test_labels, 100, np.random.default_rng(0))
    for held, own in zip(result.held, result.train, strict=True):
        assert set(np.flatnonzero(held)) == set(data.train_labels[own])
    assert result.held.shape == (100, 10)


def test_non_iid_2_gives_each_client_two_of_the_20_shards_of_each_label() -> None:
    """200 training and 50 test examples a label make shards of 10, and of 2 or 3."""
    result = partition("non-iid-2")
    for own, labels, shards in ((result.train, TRAIN, {10}), (result.test, TEST, {2, 3})):
        for client, examples in enumerate(own):
            counts = Counter(labels[examples].tolist())
            if result.held[client].sum() == 2:
                assert set(counts.values()) <= shards
            else:  # a label drawn twice: both of its shards
                assert set(counts.values()) <= {a + b for a in shards for b in shards}
    assert result.held.sum(axis=1).min() == 1  # so the second case is seen
    drawn = result.label_counts(TRAIN) // 10
    assert drawn.sum(axis=0).tolist() == [20] * 10
    assert drawn.sum(axis=1).tolist() == [2] * 100


@pytest.mark.parametrize("labels_per_client", [1, 3])
def test_non_iid_k_gives_each_client_k_shards_of_equal_size(labels_per_client: int) -> None:
    """With 100 clients each label is cut into 10·k shards: of 20 training examples, or of 6 or 7."""
    result = partition(f"non-iid-{labels_per_client}")
    assert_every_example_has_one_owner(result.train, len(TRAIN))
    assert_every_example_has_one_owner(result.test, len(TEST))
    assert set(result.held.sum(axis=1)) == set(range(1, labels_per_client + 1))
    size = 200 / (10 * labels_per_client)
    shards = np.rint(result.label_counts(TRAIN) / size).astype(int)
    assert np.abs(result.label_counts(TRAIN) - shards * size).max() < 2
    assert shards.sum(axis=1).tolist() == [labels_per_client] * 100
    assert shards.sum(axis=0).tolist() == [10 * labels_per_client] * 10
    for held, own in zip(result.held, result.test, strict=True):
        assert set(TEST[own]) <= set(np.flatnonzero(held))


# Dirichlet


def test_shares_are_cut_at_the_nearest_example() -> None:
    rng = np.random.default_rng(0)
    own = deal_by_share(np.zeros(10, dtype=int), np.array([[0.26, 0.26, 0.48]]), rng)
    assert [len(part) for part in own] == [3, 2, 5]  # cuts at 2.6 and 5.2
    assert_every_example_has_one_owner(own, 10)


@given(st.sampled_from([0.2, 1.0, 30.0]), st.integers(1, 6), st.integers(0, 999))
def test_dirichlet_gives_every_example_to_one_client(alpha: float, num_clients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = rng.integers(0, 4, 150), rng.integers(0, 4, 40)
    try:
        result = make_partition(f"dirichlet-{alpha}", train, test, num_clients, rng)
    except InputError:  # a client without training examples
        reject()
    assert len(result.train) == len(result.test) == num_clients
    assert_every_example_has_one_owner(result.train, len(train))
    assert_every_example_has_one_owner(result.test, len(test))
    for held, own in zip(result.held, result.train, strict=True):
        assert set(np.flatnonzero(held)) == set(train[own])


def test_a_large_alpha_shares_every_label_almost_evenly() -> None:
    """Two hundred examples of each label over four clients."""
    counts = partition("dirichlet-1000000", num_clients=4).label_counts(TRAIN)
    assert np.abs(counts - 50).max() <= 1


@pytest.mark.parametrize("alpha", [0.3, 1.0, 10.0])
def test_shares_are_as_uneven_as_alpha_says(alpha: float) -> None:
    """With n clients the mean sum of squared shares of a label is (α + 1) / (nα + 1)."""
    num_clients, num_labels = 5, 400
    labels = np.repeat(np.arange(num_labels), 200)
    result = make_partition(
        f"dirichlet-{alpha}", labels, labels, num_clients, np.random.default_rng(0)
    ).label_counts(labels)
    squares = ((result / 200) ** 2).sum(axis=0)
    expected = (alpha + 1) / (num_clients * alpha + 1)
    assert abs(squares.mean() - expected) < 4 * squares.std() / np.sqrt(num_labels) + 0.005
    assert squares.std() / np.sqrt(num_labels) < 0.02  # so the bound tells the three apart


def test_test_examples_follow_the_shares_of_the_training_examples() -> None:
    """To the nearest example: both halves cut each label at the same shares."""
    result = partition("dirichlet-0.5", num_clients=5)
    train, test = (
        np.stack([np.bincount(labels[own], minlength=10) for own in half])
        for half, labels in ((result.train, TRAIN), (result.test, TEST))
    )
    assert np.abs(train / 200 - test / 50).max() <= 1 / 200 + 1 / 50
    assert train.std() > 20  # so the shares are uneven


def test_a_client_whom_dirichlet_leaves_without_training_examples_is_refused() -> None:
    sentence = r"partition dirichlet-0.001 leaves client \d+ of num_clients 30 without training examples"
    with pytest.raises(InputError, match=sentence):
        partition("dirichlet-0.001", num_clients=30)


def test_test_labels_are_among_those_held() -> None:
    data = load_images("digits")
    result = make_partition("non-iid-2", data.train_labels, data.test_labels, 100, np.random.default_rng(0))
    for held, own in zip(result.held, result.test, strict=True):
        assert set(data.test_labels[own]) <= set(np.flatnonzero(held))


def test_about_one_client_in_ten_draws_the_same_label_twice() -> None:
    """A client's second label is its first with probability 19/199."""
    seeds, expected = 300, 100 * 19 / 199  # 9.55
    counts = []
    for seed in range(seeds):
        first, second = draw_labels(100, 2, 10, np.random.default_rng(seed)).T
        counts.append((first == second).sum())
    assert abs(np.mean(counts) - expected) < 4 * np.std(counts) / np.sqrt(seeds)
    assert 2 < np.std(counts) < 4  # so the bound is below one client


def test_label_counts_are_training_examples_of_each_client_and_label() -> None:
    labels = np.array([0, 1, 1, 2])
    held = np.array([[True, True, False], [False, True, True]])
    result = Partition([np.array([0, 1]), np.array([2, 3])], [], held)
    assert result.label_counts(labels).tolist() == [[1, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("kind", ["iid", "non-iid-2", "dirichlet-2"])
def test_the_partition_depends_on_the_seed(kind: str) -> None:
    def owners(seed: int) -> list[list[int]]:
        result = partition(kind, seed=seed)
        return [own.tolist() for own in (*result.train, *result.test)]

    first = owners(0)
    assert owners(0) == first
    assert owners(1) != first


@pytest.mark.parametrize("kind", ["iid", "non-iid-1", "dirichlet-1000000"])
def test_examples_are_shuffled_before_they_are_dealt(kind: str) -> None:
    """Among two clients, with one label: in stored order each would have examples that follow one another."""
    labels = np.zeros(100, int)
    result = make_partition(kind, labels, labels, 2, np.random.default_rng(0))
    for own in (*result.train, *result.test):
        assert 40 < len(own) < 60
        assert (np.diff(own) != 1).any()


@pytest.mark.parametrize(
    ("num_train", "num_test", "sentence"),
    [
        (4, 9, "num_clients 5 is more than the 4 training examples; allowed are 1 to 4"),
        (9, 4, "num_clients 5 is more than the 4 test examples; allowed are 1 to 4"),
    ],
)
def test_more_clients_than_examples_are_refused(num_train: int, num_test: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_partition("iid", np.zeros(num_train, int), np.zeros(num_test, int), 5, np.random.default_rng(0))


@pytest.mark.parametrize(("kind", "num_clients"), [("non-iid-2", 7), ("non-iid-3", 25), ("non-iid-11", 10)])
def test_labels_that_cannot_be_dealt_evenly_are_refused(kind: str, num_clients: int) -> None:
    sentence = f"partition {kind} cannot deal 10 labels evenly to num_clients {num_clients}"
    with pytest.raises(InputError, match=sentence):
        partition(kind, num_clients)


def test_a_client_without_training_examples_is_refused() -> None:
    """Label 1 has one example and is drawn by several clients."""
    labels = np.array([0] * 20 + [1])
    sentence = r"partition non-iid-1 leaves client \d+ of num_clients 6 without training examples; use fewer"
    with pytest.raises(InputError, match=sentence):
        make_partition("non-iid-1", labels, labels, 6, np.random.default_rng(0))
