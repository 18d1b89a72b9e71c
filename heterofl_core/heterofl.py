"""HeteroFL in two functions: what a client receives, and how the server puts the answers together.

Citation: Diao, Ding, Tarokh: HeteroFL, ICLR 2021, Section 3 and Algorithm 1.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from heterofl_core.selection import Axes, Axis, Index

Parameters = Mapping[str, Tensor]


def coordinates(shape: torch.Size, axes: tuple[Axis | None, ...], index: Index) -> tuple[Tensor, ...]:
    """The block of a tensor of this shape that `index` holds, for use as `tensor[coordinates(...)]`."""
    held = [
        index[axis.name] if axis and axis.name in index else np.arange(size)
        for size, axis in zip(shape, axes, strict=True)
    ]
    return tuple(torch.from_numpy(part) for part in np.ix_(*held))


def slice_parameters(parameters: Parameters, axes: Axes, index: Index) -> dict[str, Tensor]:
    """W_m = W_g[:d_m, :k_m] (Algorithm 1): a copy of the block of each parameter that `index` holds."""
    return {
        name: value[coordinates(value.shape, axes[name], index)].clone() for name, value in parameters.items()
    }


def aggregate(
    parameters: Parameters, axes: Axes, updates: Iterable[tuple[Index, Parameters]]
) -> dict[str, Tensor]:
    """Equations (1) to (3): each coordinate becomes the mean over the clients that hold it.

    For nested sub-models this is the paper's union of set differences: the smallest block is averaged
    over all clients, the ring around it over those with a larger level, and so on. A coordinate that
    no client of this round holds keeps its value. The mean is not weighted by data size.

    Args:
        parameters: the global parameters W_g of the round before.
        axes: of the global model.
        updates: for each client what it holds, and its parameters in the shapes of that block.

    Returns:
        The global parameters of this round, by name.

    Sums are taken in float64: the mean of float32 values is then as good as exact.
    """
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}
    count = {name: torch.zeros_like(value, dtype=torch.int32) for name, value in parameters.items()}
    for index, local in updates:
        for name, value in local.items():
            block = coordinates(total[name].shape, axes[name], index)
            total[name][block] += value
            count[name][block] += 1
    return {
        name: torch.where(count[name] > 0, (total[name] / count[name]).to(value.dtype), value)
        for name, value in parameters.items()
    }
