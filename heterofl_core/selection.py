"""Which coordinates of the global model a client holds.

A network says, for each of its parameters, along which *axes* it lies. An axis is one width of the
network, shared by all the parameters that it touches: the outputs of a convolution, the elements of
the norm behind it and the inputs of the next convolution are one axis. A client's sub-model is then an
*index*: for each axis the coordinates that the client holds. Nothing here depends on names of layers,
and nothing needs torch, so that figures can be drawn from the indices that training uses.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Index = Mapping[str, np.ndarray]
"""For each axis's name the coordinates held, in ascending order; an axis that is absent is held whole."""

Axes = Mapping[str, tuple["Axis | None", ...]]
"""For each parameter's name the axis of each of its dimensions; None is held whole by everybody."""


LABELS = "labels"
"""Name of the axis of a classifier's outputs: a client uploads only the rows of labels it holds."""


@dataclass(frozen=True)
class Axis:
    """One width of the global network.

    Attributes:
        name: unique in the network.
        size: coordinates in the global network.
        groups: equal parts that shrink each on its own (the heads of an attention layer): the
            coordinates of a narrower model are then interleaved, not a prefix.
        shrinks: whether the width follows the level; the labels of a classifier do not.
    """

    name: str
    size: int
    groups: int = 1
    shrinks: bool = True


def scaled_width(width: int, width_rate: float) -> int:
    """The hidden width at a level: ceil(r^(p-1) · width), r^(p-1) being `width_rate`."""
    return math.ceil(width_rate * width)


def prefix(axis: Axis, width_rate: float) -> np.ndarray:
    """The first `scaled_width` coordinates of each group of the axis; ascending, shape (held,)."""
    width = axis.size // axis.groups
    held = np.arange(scaled_width(width, width_rate))
    return (np.arange(axis.groups)[:, None] * width + held).ravel()


def static_index(axes: Axes, width_rate: float) -> dict[str, np.ndarray]:
    """HeteroFL's sub-model: the same nested prefix for every client of a level (Section 3).

    Args:
        axes: of the global model.
        width_rate: of the client's level, relative to the global model's, in (0, 1].
    """
    widths = {axis for parameter in axes.values() for axis in parameter if axis and axis.shrinks}
    return {axis.name: prefix(axis, width_rate) for axis in widths}
