"""sBN's statistics: collected once after training, exact over all clients' data (Section 3)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from heterofl_core.layers import StaticBatchNorm2d


class Moments:
    """Exact mean and variance of each channel over everything that passed a layer, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Takes in a batch.

        Args:
            count: of the values of a channel, at least 2.
            mean, variance: shape (channels,); the variance unbiased.
        """
        mean, biased = mean.double(), variance.double() * (count - 1) / count
        self.count += count
        self.total = self.total + count * mean
        self.squares = self.squares + count * (biased + mean**2)

    def merge(self, other: "Moments") -> None:
        """Takes in what another client or worker counted."""
        self.count += other.count
        self.total = self.total + other.total
        self.squares = self.squares + other.squares

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Each of shape (channels,), float32."""
        mean = torch.as_tensor(self.total / self.count)
        return mean.float(), (self.squares / self.count - mean**2).float()


def static_norms(model: nn.Module) -> list[StaticBatchNorm2d]:
    """The layers that need statistics, in the order of the model."""
    return [layer for layer in model.modules() if isinstance(layer, StaticBatchNorm2d)]


@torch.no_grad()
def count_moments(model: nn.Module, batches: Iterable[Tensor]) -> list[Moments]:
    """One pass over some data: the moments of what reaches each sBN layer.

    During the pass every layer normalises batch by batch as in training. What a client would send is a
    count, a sum and a sum of squares for each channel, once.

    Args:
        model: left in training mode if it has sBN layers, else as it was.
        batches: of shape (batch, channels, height, width).

    Returns:
        One for each sBN layer, in the order of `static_norms`.
    """
    norms = static_norms(model)
    moments = [Moments() for _ in norms]
    if not norms:
        return moments
    for norm in norms:  # whose statistics of a batch come with its normalisation, at no cost
        norm.batch_mean, norm.batch_variance = torch.zeros_like(norm.weight), torch.zeros_like(norm.weight)
    hooks = [
        norm.register_forward_hook(
            lambda norm, inputs, _, moment=moment: moment.add(
                inputs[0][:, 0].numel(), norm.batch_mean, norm.batch_variance
            )
        )
        for norm, moment in zip(norms, moments, strict=True)
    ]
    model.train()
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        norm.batch_mean = norm.batch_variance = None
    return moments


def set_statistics(model: nn.Module, parts: Sequence[Sequence[Moments]]) -> None:
    """Gives each sBN layer the mean and variance over all parts, and sets the model to evaluation mode.

    Args:
        parts: of `count_moments`, one for each part of the data.
    """
    for position, norm in enumerate(static_norms(model)):
        whole = Moments()
        for part in parts:
            whole.merge(part[position])
        norm.mean, norm.variance = whole.mean_and_variance()
    model.eval()


def collect_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """`count_moments` and `set_statistics` in one, for data in one place."""
    set_statistics(model, [count_moments(model, batches)])
