"""Global accuracy where there is no global model: what the clients' own models say together, in five ways."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from heterofl_core.clients import ModelCopy
from heterofl_core.ensembles import RECORDED, mean_model, together, write_ensembles
from heterofl_core.errors import InputError, MismatchError
from heterofl_core.federation import Federation
from heterofl_core.params import Execution, run_params
from heterofl_core.records import ensembles_path, read_record, record_path, write_run
from heterofl_core.report import rejudged
from heterofl_core.runs import execute

SKEWED: dict[str, Any] = {"dataset": "digits", "levels": "e", "partition": "non-iid-2", "protocol": "smoke"}
ALONE = Execution(workers=1)
WAYS = [RECORDED, "mean of logits", "majority", "mean of parameters", "each model alone"]


def test_three_ways_to_join_what_models_answer() -> None:
    """One image and three models. Two are for label 0, by a little; the third is against it, and loud."""
    logits = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 9.0]]])
    scores = together(logits)
    assert scores["mean of logits"].tolist() == [[2.0, 9.0]]
    assert scores["majority"].tolist() == [[2, 1]]
    sure, little = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(9))
    assert scores[RECORDED].tolist() == [pytest.approx([2 * sure + little, 3 - 2 * sure - little])]
    assert [int(one.argmax()) for one in scores.values()] == [1, 1, 0]


def test_the_mean_model_has_the_mean_of_each_parameter() -> None:
    models = [ModelCopy("mlp", {}, {"w": np.array([value, 1], np.float32)}) for value in (0, 4, 5)]
    mean = mean_model(models).parameters["w"]
    assert mean.tolist() == [3.0, 1.0]
    assert mean.dtype == np.float32


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "standalone", "arch": "mlp"},
        {"method": "lg-fedavg", "arch": "cnn"},
        {"method": "lg-fedavg", "arch": "cnn", "augmented_statistics": True},
    ],
    ids=str,
)
def test_one_of_the_ways_is_what_the_run_recorded(outputs: Path, settings: dict[str, Any]) -> None:
    params = run_params(**SKEWED | settings, num_clients=20)
    record = execute(Federation(params), ALONE)
    found = pd.read_csv(write_ensembles(params.run_id, ALONE)).set_index("way")["accuracy"]
    assert list(found.index) == WAYS
    assert found[RECORDED] == pytest.approx(record["metrics"]["final_global_accuracy"])
    assert found.between(0, 100).all()


def test_models_that_are_all_the_same_say_the_same_together(outputs: Path) -> None:
    """Without learning, each is the model of the beginning."""
    params = run_params(**SKEWED | {"method": "standalone", "arch": "mlp"}, num_clients=20, lr=1e-30)
    execute(Federation(params), ALONE)
    found = pd.read_csv(write_ensembles(params.run_id, ALONE))["accuracy"]
    assert found.tolist() == pytest.approx([found[0]] * len(WAYS))


def test_another_accuracy_than_the_records_is_refused(outputs: Path) -> None:
    params = run_params(**SKEWED | {"method": "standalone", "arch": "mlp"}, num_clients=20)
    execute(Federation(params), ALONE)
    record = read_record(record_path(params.run_id))
    record["metrics"]["final_global_accuracy"] += 100 / 360  # one of digits' images
    write_run(record, pd.read_csv(record_path(params.run_id).with_name("rounds.csv")))
    with pytest.raises(MismatchError, match=rf"^run {params.run_id} ends with .*; its record says .* %$"):
        write_ensembles(params.run_id, ALONE)
    assert not ensembles_path(params.run_id).exists()


def test_a_run_without_a_record_or_with_a_global_model_is_refused(outputs: Path) -> None:
    with pytest.raises(InputError, match=r"^run 'none' has no record in "):
        write_ensembles("none", ALONE)
    params = run_params(**SKEWED)
    write_run(
        {"run_id": params.run_id, "params": params.model_dump(mode="json")}, pd.DataFrame({"round": [1]})
    )
    with pytest.raises(
        InputError, match=rf"^run {params.run_id} has one global model; allowed are standalone,"
    ):
        write_ensembles(params.run_id, ALONE)


def test_the_ways_stand_beside_what_was_printed(outputs: Path) -> None:
    params = run_params(dataset="mnist", levels="a", method="standalone", arch="mlp", partition="non-iid-2")
    record = {"run_id": params.run_id, "params": params.model_dump(mode="json")}
    write_run(record | {"code_hash": "other", "git_dirty": False}, pd.DataFrame({"round": [1]}))
    accuracies = [87.0, 30.0, 40.0, 20.0, 19.0]
    path = ensembles_path(params.run_id)
    path.parent.mkdir()
    pd.DataFrame({"way": WAYS, "accuracy": accuracies}).to_csv(path, index=False)
    (row,) = rejudged.ensembles().to_dict("records")
    assert row == {
        "run": "MNIST, non-IID-2, levels a (fix), standalone, mlp, 400 rounds‡",
        "printed": 30.41,
        **dict(zip(WAYS, accuracies, strict=True)),
    }
