"""Who holds which examples: IID and label-skewed partitions over the clients (Section 4).

Beside the paper's label skew stands the field's other standard, Dirichlet (Yurochkin et al., 2019).
"""

from dataclasses import dataclass

import numpy as np

from heterofl_core.errors import InputError


@dataclass(frozen=True)
class Partition:
    """The examples and labels of each client.

    Attributes:
        train, test: for each client the indices of its examples, ascending.
        held: shape (clients, labels), true where the client's training data has the label.
    """

    train: list[np.ndarray]
    test: list[np.ndarray]
    held: np.ndarray

    def label_counts(self, train_labels: np.ndarray) -> np.ndarray:
        """Training examples of each client and label, shape (clients, labels)."""
        num_labels = self.held.shape[1]
        return np.stack([np.bincount(train_labels[own], minlength=num_labels) for own in self.train])


def make_partition(
    kind: str,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    num_clients: int,
    rng: np.random.Generator,
) -> Partition:
    """Gives every example of both halves to exactly one client.

    Args:
        kind: `iid`, `non-iid-k` for at most k labels a client, or `dirichlet-α` for shares of each label
            drawn from a Dirichlet distribution: the smaller α > 0, the more uneven.
        train_labels, test_labels: shape (examples,).
        num_clients: among whom.
        rng: for all draws.

    Returns:
        Who has which examples, and holds which labels.

    Raises:
        InputError: there are more clients than examples, the labels cannot be dealt evenly, or a
            client is left without training examples.
    """
    for half, labels in (("training", train_labels), ("test", test_labels)):
        if num_clients > len(labels):
            raise InputError(
                f"num_clients {num_clients} is more than the {len(labels)} {half} examples; allowed are "
                f"1 to {len(labels)}"
            )
    num_labels = int(train_labels.max()) + 1
    if kind == "iid":
        train, test = (deal(len(labels), num_clients, rng) for labels in (train_labels, test_labels))
    elif kind.startswith("dirichlet-"):
        alpha = float(kind.removeprefix("dirichlet-"))
        shares = rng.dirichlet(np.full(num_clients, alpha), num_labels)
        train, test = (deal_by_share(labels, shares, rng) for labels in (train_labels, test_labels))
    else:
        labels_per_client = int(kind.removeprefix("non-iid-"))
        drawn = draw_labels(num_clients, labels_per_client, num_labels, rng)
        train, test = (deal_by_label(labels, drawn, rng) for labels in (train_labels, test_labels))
    empty = [client for client, own in enumerate(train) if len(own) == 0]
    if empty:
        raise InputError(
            f"partition {kind} leaves client {empty[0]} of num_clients {num_clients} without training "
            "examples; use fewer clients"
        )
    held = np.zeros((num_clients, num_labels), dtype=bool)
    for client, own in enumerate(train):
        held[client, train_labels[own]] = True
    return Partition(train, test, held)


def deal(num_examples: int, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """IID: shuffles and cuts into shares whose sizes differ by one at most."""
    return [np.sort(part) for part in np.array_split(rng.permutation(num_examples), num_clients)]


def draw_labels(
    num_clients: int, labels_per_client: int, num_labels: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws each client's labels so that every label is drawn equally often.

    A client may draw a label twice, and then holds fewer: with 100 clients and 2 of 10 labels each, a
    client does so with probability 19/199, so that about 9.6 of 100 hold one label only.

    Returns:
        Shape (clients, labels_per_client).

    Raises:
        InputError: the labels cannot be dealt evenly.
    """
    shards, rest = divmod(num_clients * labels_per_client, num_labels)
    if rest or not 1 <= labels_per_client <= num_labels:
        raise InputError(
            f"partition non-iid-{labels_per_client} cannot deal {num_labels} labels evenly to num_clients "
            f"{num_clients}; their product must be a multiple of {num_labels}, with 1 to {num_labels} "
            "labels a client"
        )
    return rng.permutation(np.repeat(np.arange(num_labels), shards)).reshape(num_clients, -1)


def deal_by_label(labels: np.ndarray, drawn: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Cuts each label's examples into as many shards as it was drawn, and hands them out.

    Args:
        labels: of the examples, shape (examples,).
        drawn: labels drawn by each client, shape (clients, labels_per_client).
    """
    owner = np.full(len(labels), -1)  # a test label that nobody trains on stays without an owner
    for label in np.unique(drawn):
        clients, _ = np.nonzero(drawn == label)  # one entry a shard
        examples = rng.permutation(np.flatnonzero(labels == label))
        for client, shard in zip(clients, np.array_split(examples, len(clients)), strict=True):
            owner[shard] = client
    return [np.flatnonzero(owner == client) for client in range(len(drawn))]


def deal_by_share(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Cuts each label's examples in proportion to the clients' shares of it.

    Args:
        labels: of the examples, shape (examples,).
        shares: shape (labels, clients), each row adding up to 1.
    """
    own: list[list[np.ndarray]] = [[] for _ in range(shares.shape[1])]
    for label, share in enumerate(shares):
        examples = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.rint(np.cumsum(share)[:-1] * len(examples)).astype(int)
        for client, part in enumerate(np.split(examples, cuts)):
            own[client].append(part)
    return [np.sort(np.concatenate(parts)) for parts in own]
