"""Which coordinates of the global model a client holds.

A network says, for each of its parameters, along which *axes* it lies. An axis is one width of the
network, shared by all the parameters that it touches: the outputs of a convolution, the elements of
the norm behind it and the inputs of the next convolution are one axis. A client's sub-model is then an
*index*: for each axis the coordinates that the client holds. Nothing here depends on names of layers,
and nothing needs torch, so that figures can be drawn from the indices that training uses.

Three strategies choose the coordinates: `static` (HeteroFL), `random` (Federated Dropout, Caldas et al.
2018) and `rolling` (FedRolex, Alam et al. 2022).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from heterofl_core.errors import InputError

Index = Mapping[str, np.ndarray]
"""For each axis's name the coordinates held, in ascending order; an axis that is absent is held whole."""

Axes = Mapping[str, tuple["Axis | None", ...]]
"""For each parameter's name the axis of each of its dimensions; None is held whole by everybody."""

LABELS = "labels"
"""Name of the axis of a classifier's outputs: a client uploads only the rows of labels it holds."""

TOKENS = "tokens"
"""Name of the axis of a token embedding's rows: one for each label, and [MASK] as the last."""


@dataclass(frozen=True)
class Axis:
    """One width of the global network.

    Attributes:
        name: unique in the network.
        size: coordinates in the global network.
        groups: equal parts that shrink each on its own (the heads of an attention layer): the
            coordinates of a narrower model are then interleaved, not a prefix.
        shrinks: whether the width follows the level; the labels of a classifier do not.

    Raises:
        InputError: the groups do not divide the size.
    """

    name: str
    size: int
    groups: int = 1
    shrinks: bool = True

    def __post_init__(self) -> None:
        if self.size % self.groups:
            raise InputError(
                f"axis {self.name!r} of size {self.size} cannot be cut into {self.groups} groups"
            )


def scaled_width(width: int, width_rate: float) -> int:
    """The hidden width at a level: ceil(r^(p-1) · width), r^(p-1) being `width_rate`."""
    return math.ceil(width_rate * width)


def in_each_group(axis: Axis, width_rate: float, choose: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Coordinates of an axis, chosen in each of its groups by `choose(width, held)`; ascending."""
    width = axis.size // axis.groups
    held = scaled_width(width, width_rate)
    return np.concatenate([group * width + np.sort(choose(width, held)) for group in range(axis.groups)])


def prefix(axis: Axis, width_rate: float) -> np.ndarray:
    """HeteroFL: the first `scaled_width` coordinates of each group; ascending, shape (held,)."""
    return in_each_group(axis, width_rate, lambda width, held: np.arange(held))


def random_subset(axis: Axis, width_rate: float, rng: np.random.Generator) -> np.ndarray:
    """Federated Dropout: coordinates drawn without replacement; ascending, shape (held,)."""
    return in_each_group(axis, width_rate, lambda width, held: rng.choice(width, held, replace=False))


def rolling_window(axis: Axis, width_rate: float, round: int) -> np.ndarray:
    """FedRolex: a window that starts one coordinate further each round, counted from 1, and wraps around;
    ascending, shape (held,).
    """
    return in_each_group(axis, width_rate, lambda width, held: (round - 1 + np.arange(held)) % width)


def shrinking(axes: Axes) -> list[Axis]:
    """The axes whose width follows the level, each once, in the order of the parameters."""
    return list({axis: None for parameter in axes.values() for axis in parameter if axis and axis.shrinks})


def static_index(axes: Axes, width_rate: float) -> dict[str, np.ndarray]:
    """HeteroFL's sub-model: the same nested prefix for every client of a level (Section 3).

    Args:
        axes: of the global model.
        width_rate: of the client's level, relative to the global model's, in (0, 1].
    """
    return {axis.name: prefix(axis, width_rate) for axis in shrinking(axes)}


def random_index(axes: Axes, width_rate: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Federated Dropout's sub-model, drawn anew for each client and round with a generator of its own."""
    return {axis.name: random_subset(axis, width_rate, rng) for axis in shrinking(axes)}


def rolling_index(axes: Axes, width_rate: float, round: int) -> dict[str, np.ndarray]:
    """FedRolex's sub-model: over the rounds every coordinate is held equally often."""
    return {axis.name: rolling_window(axis, width_rate, round) for axis in shrinking(axes)}
