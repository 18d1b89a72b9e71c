"""Max-pooling of 2×2 windows as comparisons of their corners, for programs.

A compiler writes comparisons of whole channels together with the layers around them. PyTorch's own operators
stand alone in memory, note the place of each maximum, and took a fifth of the CNN's whole step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def corners(x: Tensor) -> list[Tensor]:
    """The four pixels of each window, row by row; a last row or column that fills no window is left out.

    Args:
        x: shape (..., height, width).

    Returns:
        Four of shape (..., height // 2, width // 2).
    """
    height, width = (size // 2 * 2 for size in x.shape[-2:])
    return [x[..., row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)]


def largest(parts: Sequence[Tensor]) -> Tensor:
    """The largest of four corners."""
    return torch.maximum(torch.maximum(parts[0], parts[1]), torch.maximum(parts[2], parts[3]))


def check_window(
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> None:
    """Raises a `NotImplementedError` unless PyTorch's options mean windows of 2×2, side by side."""
    given = set(kernel), set(stride) or set(kernel), set(padding), set(dilation), ceil_mode
    if given != ({2}, {2}, {0}, {1}, False):
        raise NotImplementedError(
            f"programs have max-pooling of 2×2 windows side by side only, not of kernel {kernel}, "
            f"stride {stride}, padding {padding}, dilation {dilation}, ceil_mode {ceil_mode}"
        )


def max_pool(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
    """Stands for `max_pool2d_with_indices`; the indices are zeros, since `max_pool_gradient` needs none.

    Raises:
        NotImplementedError: see `check_window`.
    """
    check_window(*window)
    pooled = largest(corners(x))
    return pooled, torch.zeros_like(pooled, dtype=torch.int64)


def max_pool_gradient(gradient: Tensor, x: Tensor, *window: Any) -> Tensor:
    """Stands for `max_pool2d_with_indices_backward`: the first of a window's largest has its gradient."""
    parts = corners(x)
    top = largest(parts)
    free = torch.ones_like(top, dtype=torch.bool)  # windows whose largest was not found yet
    shares = []
    for part in parts:
        first = free & (part == top)
        shares.append(torch.where(first, gradient, 0.0))
        free = free & ~first
    rows = [torch.stack(pair, dim=-1).flatten(-2) for pair in (shares[:2], shares[2:])]
    whole = torch.stack(rows, dim=-2).flatten(-3, -2)
    return F.pad(whole, (0, x.shape[-1] - whole.shape[-1], 0, x.shape[-2] - whole.shape[-2]))


POOLING: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.max_pool2d_with_indices.default: max_pool,
    torch.ops.aten.max_pool2d_with_indices_backward.default: max_pool_gradient,
}
"""For `make_fx`: what stands for PyTorch's operators in a program."""
