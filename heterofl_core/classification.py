"""The image task: clients' images, Global and Local accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from heterofl_core.clients import ModelCopy
from heterofl_core.data import load_images
from heterofl_core.examples import ImageExamples, augment, normalise
from heterofl_core.executor import side_by_side
from heterofl_core.layers import mask_logits
from heterofl_core.params import RunParams
from heterofl_core.partition import make_partition
from heterofl_core.randomness import generator
from heterofl_core.selection import LABELS
from heterofl_core.sliceable import SliceableModel
from heterofl_core.statistics import Moments, count_moments, set_statistics
from heterofl_core.tasks import ClientShare, Task

BATCH = 50  # examples a forward pass: what fits the cache; sBN normalises by each batch while it counts
PART = 1000  # examples a job: a fixed number, so that the result does not depend on the workers


@dataclass(frozen=True)
class PartOfData:
    """Images that one job passes through a model.

    Attributes:
        model: what they pass through.
        examples: the images; labels are not used.
        seed: of augmentation, and a number: the part's, or the client's whose model it is.
        moments: of the sBN layers, in evaluation; None while they are counted.
    """

    model: ModelCopy
    examples: ImageExamples
    seed: tuple[int, int]
    moments: list[list[Moments]] | None = None

    def network(self) -> SliceableModel:
        """The model in the layout that convolutions of large batches prefer."""
        return self.model.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batches(self) -> Iterator[Tensor]:
        """The images in order, ready for the model."""
        examples, rng = self.examples, generator(self.seed[0], "statistics", self.seed[1])
        for start in range(0, len(examples.inputs), BATCH):
            inputs = examples.inputs[start : start + BATCH]
            inputs = augment(inputs, rng) if examples.augmented else inputs
            yield normalise(inputs, examples.mean, examples.deviation).to(self.model.device)


def moments_of(part: PartOfData) -> list[Moments]:
    """The moments of what reaches each sBN layer."""
    return count_moments(part.network(), part.batches())


@torch.no_grad()
def logits_of(part: PartOfData) -> np.ndarray:
    """Shape (examples, labels)."""
    model = part.network()
    set_statistics(model, part.moments or [])
    return torch.cat([model(batch) for batch in part.batches()]).cpu().numpy()


class Classification(Task):
    """A data set of images, shared among clients.

    Args:
        params: of the run.

    Raises:
        InputError: the data cannot be had, or cannot be shared among the clients.
    """

    def __init__(self, params: RunParams) -> None:
        self.params = params
        self.data = load_images(params.dataset)
        self.partition = make_partition(
            params.partition,
            self.data.train_labels,
            self.data.test_labels,
            params.num_clients,
            generator(params.seed, "partition"),
        )
        self.mean, self.deviation = self.data.pixel_statistics()
        self.sizes = {"input_shape": self.data.input_shape, "num_labels": self.data.num_labels}
        self.example = torch.empty(1, *self.data.input_shape, device="meta")

    def share(self, client: int) -> ClientShare:
        """A client's images; its model has all labels, since they are few."""
        held = self.partition.held[client]
        return ClientShare(
            examples=self.images(self.partition.train[client], self.params.augmented),
            sizes=self.sizes,
            download={},
            upload={LABELS: np.flatnonzero(held)} if self.params.label_restricted else {},
            held=held,
            left_out=0,
        )

    def label_counts(self) -> np.ndarray:
        """Training images of each client and label, shape (clients, labels)."""
        return self.partition.label_counts(self.data.train_labels)

    def images(self, chosen: np.ndarray | slice, augmented: bool) -> ImageExamples:
        """Some of the training images."""
        inputs, labels = self.data.train_inputs[chosen], self.data.train_labels[chosen]
        return ImageExamples(inputs, labels, self.mean, self.deviation, augmented)

    def test_images(self) -> ImageExamples:
        """All test images, never augmented."""
        return ImageExamples(
            self.data.test_inputs, self.data.test_labels, self.mean, self.deviation, augmented=False
        )

    def evaluate(self, model: ModelCopy, workers: int) -> dict[str, float]:
        """Accuracy of the global model, in percent.

        Returns:
            `global_accuracy`: all test images, no mask. `local_accuracy`: each test image with the label mask
            of the client that it belongs to, averaged over the images whose label that client holds (a
            client is not tested on labels that it never saw); the mask is the one of training.
        """
        return self.accuracies(self.logits(model, workers))

    def logits(self, model: ModelCopy, workers: int) -> Tensor:
        """The global model's, of all test images, with the sBN statistics of all training images; shape
        (images, labels).
        """
        everything = self.images(slice(None), self.params.augmented_statistics)
        moments = side_by_side(moments_of, self.parts(model, everything), workers)
        logits = side_by_side(logits_of, self.parts(model, self.test_images(), moments), workers)
        return torch.from_numpy(np.concatenate(logits))

    def parts(
        self, model: ModelCopy, examples: ImageExamples, moments: list[list[Moments]] | None = None
    ) -> list[PartOfData]:
        """Jobs of a fixed size."""
        return [
            PartOfData(
                model,
                replace(
                    examples,
                    inputs=examples.inputs[start : start + PART],
                    labels=examples.labels[start : start + PART],
                ),
                (self.params.seed, start // PART),
                moments,
            )
            for start in range(0, len(examples.inputs), PART)
        ]

    def accuracies(self, logits: Tensor) -> dict[str, float]:
        """Global and Local accuracy from the logits of all test images, shape (images, labels)."""
        labels, known = torch.tensor(self.data.test_labels), torch.from_numpy(self.known())
        held = torch.from_numpy(self.partition.held[self.owners()])  # (images, labels)
        masked = mask_logits(logits, held, self.params.masked_loss)
        return {
            "global_accuracy": accuracy(logits, labels),
            "local_accuracy": accuracy(masked[known], labels[known]),
        }

    def owners(self) -> np.ndarray:
        """The client that each test image belongs to, shape (images,); -1 if it is nobody's."""
        owner = np.full(len(self.data.test_labels), -1)
        for client, own in enumerate(self.partition.test):
            owner[own] = client
        return owner

    def known(self) -> np.ndarray:
        """Test images whose label their client holds, as a mask of shape (images,)."""
        owner = self.owners()
        return (owner >= 0) & self.partition.held[owner, self.data.test_labels]


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of images whose largest score is their label's, in percent."""
    return 100 * float((scores.argmax(dim=1) == labels).double().mean())
