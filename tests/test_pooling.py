"""Max-pooling by comparisons is PyTorch's own, and so is its gradient."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from heterofl_core.pooling import POOLING, corners, max_pool, max_pool_gradient

KERNEL = [2, 2]


def test_a_window_by_hand() -> None:
    x = torch.tensor([[[[1.0, 5.0, 9.0], [7.0, 2.0, 9.0], [9.0, 9.0, 9.0]]]])
    assert [corner.item() for corner in corners(x)] == [1.0, 5.0, 7.0, 2.0]
    assert max_pool(x, KERNEL)[0].item() == 7.0
    assert max_pool_gradient(torch.tensor([[[[3.0]]]]), x).tolist() == [[[[0, 0, 0], [3, 0, 0], [0, 0, 0]]]]


def test_of_equals_the_first_has_the_gradient() -> None:
    x = torch.tensor([[[[0.0, 4.0], [4.0, 4.0]]]])
    assert max_pool_gradient(torch.ones(1, 1, 1, 1), x).tolist() == [[[[0, 1], [0, 0]]]]


@given(st.integers(2, 9), st.integers(2, 9), st.booleans(), st.integers(0, 2**32 - 1))
def test_values_and_gradients_are_pytorchs(height: int, width: int, channels_last: bool, seed: int) -> None:
    """On few whole numbers, so that many are equal."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(3, (2, 3, height, width), generator=random).float()
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    pooled = F.max_pool2d(x, 2)
    weights = torch.randn(pooled.shape, generator=random)
    (pooled * weights).sum().backward()
    assert torch.equal(max_pool(x.detach(), KERNEL)[0], pooled)
    assert x.grad is not None
    assert torch.equal(max_pool_gradient(weights, x.detach()), x.grad)


def test_a_traced_step_has_comparisons_in_place_of_pytorchs_operators() -> None:
    def gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda x: F.max_pool2d(x, 2).square().sum())(x)

    x = torch.randn(1, 2, 6, 6)
    graph = make_fx(gradient, decomposition_table=POOLING)(x)
    assert "maximum" in graph.code
    assert "pool" not in graph.code
    assert torch.equal(graph(x), gradient(x))


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"stride": 1}, {"padding": 1}, {"dilation": 2}, {"ceil_mode": True}]
)
def test_other_windows_are_refused_when_a_step_is_traced(options: dict[str, Any]) -> None:
    x = torch.randn(1, 2, 7, 7)
    with pytest.raises(NotImplementedError, match="2×2 windows side by side only"):
        make_fx(lambda x: F.max_pool2d(x, **{"kernel_size": 2} | options), decomposition_table=POOLING)(x)
