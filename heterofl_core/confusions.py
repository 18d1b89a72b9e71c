"""Which labels the final model of a finished run takes for one another, and how many clients hold both.

A client's loss compares the labels that the client holds. Two labels that no client holds together are
compared by nobody.

outputs/confusions/<run_id>.csv   for each pair of labels: the images of one that are taken for the other
"""

from pathlib import Path

import numpy as np
import pandas as pd

from heterofl_core.classification import Classification
from heterofl_core.clients import ModelCopy
from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.params import Execution, RunParams
from heterofl_core.records import confusions_path, recorded_run
from heterofl_core.verify import again, check_end


def write_confusions(run_id: str, execution: Execution) -> Path:
    """Executes a finished run again, to its end, and writes down what its model takes for what.

    Returns:
        The file.

    Raises:
        InputError: there is no such record, it is damaged, its model is not one of images that all clients
            share, or today's code ends with another accuracy.
    """
    record = recorded_run(run_id)
    params = RunParams.model_validate(record["params"])
    if params.dataset == "wikitext2" or params.has_personal_models:
        raise InputError(
            f"run {run_id} has no global model of images; allowed are heterofl, fedavg on images"
        )
    with again(record, record["rounds_done"], execution) as (federation, state, workers, engine):
        model = federation.whole_model(state.weights.shared, engine)
        assert isinstance(federation.task, Classification)  # as the data set says
        found = confusions(federation.task, model, workers)
    right = found.loc[found["label"] == found["taken_for"], "images"].sum()
    check_end(record, 100 * right / found["images"].sum())
    write_text(confusions_path(run_id), found.to_csv(index=False))
    return confusions_path(run_id)


def confusions(task: Classification, model: ModelCopy, workers: int) -> pd.DataFrame:
    """What a global model takes the test images for.

    Returns:
        Columns `label`, `taken_for`, `images` (of the label that are taken so) and `clients` (that hold
        both), a row for each pair.
    """
    taken_for = task.logits(model, workers).argmax(dim=1).numpy()
    images = np.zeros((task.data.num_labels, task.data.num_labels), dtype=int)
    np.add.at(images, (task.data.test_labels, taken_for), 1)
    label, taken_for = np.indices(images.shape)
    held = task.partition.held.astype(int)  # (clients, labels)
    columns = {"label": label, "taken_for": taken_for, "images": images, "clients": held.T @ held}
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})
