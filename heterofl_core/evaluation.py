"""sBN statistics, Global and Local accuracy."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from heterofl_core.clients import normalise
from heterofl_core.federation import Federation
from heterofl_core.layers import StaticBatchNorm2d, mask_logits

BATCH = 500  # examples a forward pass; in it sBN normalises by the batch's own statistics


class Moments:
    """Exact mean and variance of each channel over everything that passed a layer, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Takes in a batch of shape (batch, channels, height, width)."""
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        count = x.numel() // x.shape[1]
        self.count += count
        self.total = self.total + count * mean.double()
        self.squares = self.squares + count * (variance.double() + mean.double() ** 2)

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Each of shape (channels,), float32."""
        mean = torch.as_tensor(self.total / self.count)
        return mean.float(), (self.squares / self.count - mean**2).float()


@torch.no_grad()
def collect_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """SBN after training (Section 3): one pass over all clients' data gives each layer its statistics.

    Each layer gets the exact mean and variance of its inputs over the whole pass, during which every
    layer still normalises batch by batch as in training. What a client would send is a count, a sum
    and a sum of squares for each channel, once.

    Args:
        model: set to evaluation mode in the end.
        batches: of shape (batch, channels, height, width).
    """
    norms = [layer for layer in model.modules() if isinstance(layer, StaticBatchNorm2d)]
    moments = [Moments() for _ in norms]
    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs, moment=moment: moment.add(inputs[0]))
        for norm, moment in zip(norms, moments, strict=True)
    ]
    if norms:
        model.train()
        for batch in batches:
            model(batch)
    for norm, moment, hook in zip(norms, moments, hooks, strict=True):
        hook.remove()
        norm.mean, norm.variance = moment.mean_and_variance()
    model.eval()


def normalised_batches(federation: Federation, inputs: np.ndarray) -> Iterator[Tensor]:
    """All examples in order, ready for the model."""
    for start in range(0, len(inputs), BATCH):
        yield normalise(inputs[start : start + BATCH], federation.mean, federation.deviation)


@torch.no_grad()
def evaluate(federation: Federation, parameters: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy of the global model on the test set, in percent.

    Returns:
        `global_accuracy`: all test examples, no mask. `local_accuracy`: each example with the label mask
        of the client that it belongs to, averaged over the examples whose label that client holds (a
        client is not tested on labels that it never saw); the mask is the one of training.
    """
    data, partition = federation.data, federation.partition
    model = federation.global_model()
    model.load_state_dict(parameters)
    collect_statistics(model, normalised_batches(federation, data.train_inputs))
    logits = torch.cat([model(batch) for batch in normalised_batches(federation, data.test_inputs)])
    labels = torch.from_numpy(data.test_labels)
    owner = np.empty(len(labels), dtype=int)
    for client, own in enumerate(partition.test):
        owner[own] = client
    held = torch.from_numpy(partition.held[owner])  # (examples, labels)
    masked = mask_logits(logits, held, federation.params.masked_loss)
    known = held.gather(1, labels[:, None])[:, 0]  # (examples,)
    return {
        "global_accuracy": accuracy(logits, labels),
        "local_accuracy": accuracy(masked[known], labels[known]),
    }


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of examples whose largest logit is their label's, in percent."""
    return 100 * float((logits.argmax(dim=1) == labels).double().mean())
