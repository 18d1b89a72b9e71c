"""What the clients' own models say together: Global accuracy where there is no global model, in several ways.

outputs/ensembles/<run_id>.csv   the accuracy by each way, in percent
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from heterofl_core.classification import Classification, accuracy
from heterofl_core.clients import ModelCopy
from heterofl_core.errors import InputError
from heterofl_core.executor import side_by_side
from heterofl_core.files import write_text
from heterofl_core.params import Execution, RunParams
from heterofl_core.personal import PersonalModel, personal_models
from heterofl_core.records import ensembles_path, recorded_run
from heterofl_core.verify import again, check_end

RECORDED = "mean of probabilities"
"""How a run's Global accuracy is recorded. Liang et al. (2020) published code for the mean of outputs, which
are probabilities on MNIST and their logarithms on CIFAR10, for the majority and for the mean of parameters.
"""


def write_ensembles(run_id: str, execution: Execution) -> Path:
    """Executes a finished run again, to its end, and judges its clients' models together in all ways.

    Returns:
        The file.

    Raises:
        InputError: there is no such record, it is damaged, its clients have no models of their own, or
            today's code ends with another accuracy.
    """
    record = recorded_run(run_id)
    if not RunParams.model_validate(record["params"]).has_personal_models:
        raise InputError(f"run {run_id} has one global model; allowed are standalone, lg-fedavg")
    with again(record, record["rounds_done"], execution) as (federation, state, workers, engine):
        assert isinstance(federation.task, Classification)  # as the method says
        found = ensembles(federation.task, federation.personal_models(state.weights, engine), workers)
    check_end(record, found[RECORDED])
    table = pd.DataFrame({"way": list(found), "accuracy": list(found.values())})
    write_text(ensembles_path(run_id), table.to_csv(index=False))
    return ensembles_path(run_id)


def ensembles(task: Classification, models: Mapping[int, ModelCopy], workers: int) -> dict[str, float]:
    """Accuracy on all test images by each way, in percent."""
    answers = side_by_side(logits_of, personal_models(task, models), workers)
    logits = torch.from_numpy(np.stack(answers))  # (clients, images, labels)
    labels = torch.tensor(task.data.test_labels)
    return {
        **{way: accuracy(scores, labels) for way, scores in together(logits).items()},
        "mean of parameters": task.evaluate(mean_model(list(models.values())), workers)["global_accuracy"],
        "each model alone": float(np.mean([accuracy(one, labels) for one in logits])),
    }


def logits_of(personal: PersonalModel) -> np.ndarray:
    """A client's logits of the test images, shape (images, labels)."""
    return personal.logits().numpy()


def together(logits: Tensor) -> dict[str, Tensor]:
    """Scores of shape (images, labels) by the ways that join what the models answer.

    Args:
        logits: of shape (clients, images, labels).
    """
    votes = torch.nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2])
    return {
        RECORDED: logits.softmax(dim=2).sum(dim=0),
        "mean of logits": logits.sum(dim=0),
        "majority": votes.sum(dim=0),
    }


def mean_model(models: list[ModelCopy]) -> ModelCopy:
    """One model with the mean of some models' parameters."""
    first = models[0]
    mean = {name: np.mean([one.parameters[name] for one in models], axis=0) for name in first.parameters}
    return ModelCopy(first.arch, first.options, mean, first.device)
