"""What a federation learns: the interface that the image task and the language task share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from heterofl_core.clients import ModelCopy
from heterofl_core.examples import Examples
from heterofl_core.selection import Index


@dataclass(frozen=True)
class ClientShare:
    """What a client has of a task.

    Attributes:
        examples: its training data.
        sizes: options of `build_model` that follow from the data.
        download, upload: rows along the labels that it receives, and that it sends back, as coordinates of
            the global model; an axis that is absent travels whole.
        held: labels in its data, among those of its model, shape (labels,), boolean.
        left_out: labels that its model leaves out; see `layers.masked_cross_entropy`.
    """

    examples: Examples
    sizes: dict[str, Any]
    download: Index
    upload: Index
    held: np.ndarray
    left_out: int


class Task(ABC):
    """A data set shared among clients, and how a model of it is judged.

    Attributes:
        sizes: options of `build_model` for the global model that follow from the data.
        example: what a model takes, for one example, without values (on the meta device).
        partial: whether each client receives rows of its own of the model.
    """

    sizes: dict[str, Any]
    example: Tensor
    partial: bool = False

    @abstractmethod
    def share(self, client: int) -> ClientShare:
        """What a client has."""

    @abstractmethod
    def label_counts(self) -> np.ndarray:
        """Training examples of each client and label, shape (clients, labels).

        For text, tokens of each client among the twenty most frequent, shape (clients, 20).
        """

    @abstractmethod
    def evaluate(self, model: ModelCopy, workers: int) -> dict[str, float]:
        """The metrics of a global model."""
