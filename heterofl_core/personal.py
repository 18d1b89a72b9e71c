"""Global and Local accuracy where clients keep models of their own: of all models together, by the mean of
their probabilities, and of each on its client's labels. That is the first of Liang et al.'s (2020) ways on
MNIST; `ensembles` has them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heterofl_core.classification import Classification, PartOfData, accuracy
from heterofl_core.clients import ModelCopy
from heterofl_core.examples import ImageExamples
from heterofl_core.executor import side_by_side
from heterofl_core.statistics import collect_statistics

GROUP = 10  # clients a job: of what they say of all test images, only the sum travels back


@dataclass(frozen=True)
class PersonalModel:
    """A client's own model, and what it is tested on.

    Attributes:
        client: whose it is.
        model: what all test images pass through.
        train: the client's images, for the sBN statistics.
        own: indices of the client's test images.
        test: all test images.
        seed: of augmentation, for the statistics.
    """

    client: int
    model: ModelCopy
    train: ImageExamples
    own: np.ndarray
    test: ImageExamples
    seed: int

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Of all test images, shape (images, labels)."""
        model, key = self.model.build(), (self.seed, self.client)
        collect_statistics(model, PartOfData(self.model, self.train, key).batches())
        return torch.cat([model(batch) for batch in PartOfData(self.model, self.test, key).batches()]).cpu()


def personal_models(task: Classification, models: Mapping[int, ModelCopy]) -> list[PersonalModel]:
    """The clients' models, each with its client's part of the data.

    Args:
        models: by client.
    """
    test, augmented = task.test_images(), task.params.augmented_statistics
    return [
        PersonalModel(
            client,
            model,
            task.images(task.partition.train[client], augmented),
            task.partition.test[client],
            test,
            task.params.seed,
        )
        for client, model in models.items()
    ]


def probabilities_of(models: Sequence[PersonalModel]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The sum of the models' predicted probabilities of all test images, shape (images, labels), and each
    client's for its own test images.
    """
    together, own = np.zeros((len(models[0].test.labels), 1)), {}
    for personal in models:
        probabilities = personal.logits().softmax(dim=1).numpy()
        together = together + probabilities
        own[personal.client] = probabilities[personal.own]
    return together, own


def evaluate_personal(
    task: Classification, models: Mapping[int, ModelCopy], workers: int
) -> dict[str, float]:
    """Accuracy of personal models, in percent.

    Args:
        models: by client.

    Returns:
        `local_accuracy`: each test image by the model of the client that it belongs to, averaged over
        the images whose label that client holds. `global_accuracy`: all test images by the mean of all
        clients' predicted probabilities.
    """
    personal = personal_models(task, models)
    groups = [personal[start : start + GROUP] for start in range(0, len(personal), GROUP)]
    answers = side_by_side(probabilities_of, groups, workers)
    labels, known = torch.tensor(task.data.test_labels), torch.from_numpy(task.known())
    own = torch.zeros(len(labels), task.data.num_labels)
    for _, group in answers:
        for client, probabilities in group.items():
            own[task.partition.test[client]] = torch.from_numpy(probabilities)
    ensemble = torch.from_numpy(np.sum([together for together, _ in answers], axis=0))
    return {
        "global_accuracy": accuracy(ensemble, labels),
        "local_accuracy": accuracy(own[known], labels[known]),
    }
