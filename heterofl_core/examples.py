"""What a client trains on, and how it becomes batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from heterofl_core.layers import UNASKED
from heterofl_core.params import SEQUENCE_LENGTH

PADDING = 4  # pixels on each side, before a random crop of the original size
MASK_RATE = 0.15  # share of tokens that are masked


class Examples(Protocol):
    """A client's training data."""

    def epoch(
        self, batch_size: int, rng: np.random.Generator, device: str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One local epoch: inputs and targets of each batch."""
        ...

    def batch_shape(self, batch_size: int) -> tuple[int, ...]:
        """Shape of the inputs of a whole batch."""
        ...

    def whole_batches(self, batch_size: int) -> int:
        """How many of them an epoch begins with; what follows is smaller."""
        ...


@dataclass(frozen=True)
class ImageExamples:
    """Images and labels.

    Attributes:
        inputs: bytes of shape (examples, channels, height, width).
        labels: shape (examples,).
        mean, deviation: of the pixels, each of shape (channels, 1, 1).
        augmented: whether each epoch sees every image cropped and flipped anew.
    """

    inputs: np.ndarray
    labels: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    augmented: bool

    def epoch(
        self, batch_size: int, rng: np.random.Generator, device: str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches; the last one may be smaller."""
        inputs = augment(self.inputs, rng) if self.augmented else self.inputs
        images = normalise(inputs, self.mean, self.deviation).to(device)
        labels = torch.tensor(self.labels, device=device)
        for batch in torch.from_numpy(rng.permutation(len(labels))).to(device).split(batch_size):
            yield images[batch], labels[batch]

    def batch_shape(self, batch_size: int) -> tuple[int, ...]:
        """(batch, channels, height, width)."""
        return (batch_size, *self.inputs.shape[1:])

    def whole_batches(self, batch_size: int) -> int:
        """How many fit into the client's images."""
        return len(self.labels) // batch_size


@dataclass(frozen=True)
class TextExamples:
    """Rows of running text, for masked-token prediction.

    Attributes:
        tokens: shape (rows, length), numbers below `num_tokens`.
        num_tokens: the number that stands for [MASK].
        predicted: positions to be predicted, `all` or `masked`.
    """

    tokens: np.ndarray
    num_tokens: int
    predicted: str = "all"

    def epoch(
        self, batch_size: int, rng: np.random.Generator, device: str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows along the rows, in order; a batch is one window of `batch_size` rows at most. Every token
        is masked with the same probability; where nothing is to be predicted, the target is `layers.UNASKED`.
        """
        for first in range(0, len(self.tokens), batch_size):
            rows = self.tokens[first : first + batch_size]
            masked = torch.from_numpy(rng.random(rows.shape) < MASK_RATE).to(device)
            tokens = torch.tensor(rows, device=device)
            inputs = tokens.masked_fill(masked, self.num_tokens)
            targets = tokens.masked_fill(~masked, UNASKED) if self.predicted == "masked" else tokens
            yield from zip(inputs.split(SEQUENCE_LENGTH, 1), targets.split(SEQUENCE_LENGTH, 1), strict=True)

    def batch_shape(self, batch_size: int) -> tuple[int, ...]:
        """(rows, window)."""
        return (min(batch_size, len(self.tokens)), SEQUENCE_LENGTH)

    def whole_batches(self, batch_size: int) -> int:
        """Whole windows of the first `batch_size` rows; a client has no more rows than that."""
        return self.tokens.shape[1] // SEQUENCE_LENGTH


def normalise(inputs: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> Tensor:
    """Bytes of shape (batch, channels, height, width) as floats with the data set's mean 0, deviation 1."""
    shift, scale = (torch.tensor(value).float() for value in (mean, deviation))
    return (torch.tensor(inputs).float() - shift) / scale


def augment(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image cropped at random from itself with a black margin, and flipped left to right at random.

    Args:
        inputs: bytes of shape (batch, channels, height, width).
    """
    size, channels, height, width = inputs.shape
    margin = ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING))
    top, left = rng.integers(0, 2 * PADDING + 1, (2, size))
    rows = top[:, None] + np.arange(height)  # (batch, height)
    columns = left[:, None] + np.arange(width)  # (batch, width)
    flipped = rng.random(size) < 0.5
    columns[flipped] = columns[flipped, ::-1]
    batch = np.arange(size)[:, None, None, None]
    channel = np.arange(channels)[:, None, None]
    return np.pad(inputs, margin)[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]
