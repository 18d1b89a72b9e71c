"""What a model takes for what: counted again from a finished run, and read by how many clients hold both."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from heterofl_core.confusions import write_confusions
from heterofl_core.errors import InputError, MismatchError
from heterofl_core.federation import Federation
from heterofl_core.params import Execution, run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import confusions_path, read_record, record_path, write_run
from heterofl_core.report import rejudged
from heterofl_core.runs import execute

SKEWED = {"dataset": "digits", "levels": "e", "partition": "non-iid-2", "protocol": "smoke"}
ALONE = Execution(workers=1)


def test_a_finished_run_is_counted_again_and_has_the_accuracy_of_its_record(outputs: Path) -> None:
    params = run_params(**SKEWED)
    federation = Federation(params)
    record = execute(federation, ALONE)
    pairs = pd.read_csv(write_confusions(params.run_id, ALONE))
    assert len(pairs) == 10 * 10
    images = pairs.pivot_table("images", "label", "taken_for").to_numpy()
    labels = federation.task.data.test_labels  # type: ignore[attr-defined]
    assert images.sum(axis=1).tolist() == np.bincount(labels).tolist()
    assert 100 * images.trace() / images.sum() == pytest.approx(record["metrics"]["final_global_accuracy"])
    held = federation.task.partition.held  # type: ignore[attr-defined]
    assert [(held[:, row.label] & held[:, row.taken_for]).sum() for row in pairs.itertuples()] == list(
        pairs["clients"]
    )


def test_an_accuracy_that_is_not_the_records_is_refused(outputs: Path) -> None:
    params = run_params(**SKEWED)
    execute(Federation(params), ALONE)
    record = read_record(record_path(params.run_id))
    record["metrics"]["final_global_accuracy"] += 100 / 360  # one of digits' images
    write_run(record, pd.read_csv(record_path(params.run_id).with_name("rounds.csv")))
    with pytest.raises(
        MismatchError, match=rf"^run {params.run_id} ends with .* % today; its record says .* %$"
    ):
        write_confusions(params.run_id, ALONE)
    assert not confusions_path(params.run_id).exists()


def test_a_run_without_a_record_or_without_a_global_model_of_images_is_refused(outputs: Path) -> None:
    with pytest.raises(InputError, match=r"^run 'none' has no record in "):
        write_confusions("none", ALONE)
    params = run_params(**SKEWED | {"levels": "a", "method": "standalone"})
    curve = pd.DataFrame({"round": [1], "global_accuracy": [50.0]})
    write_run({"run_id": params.run_id, "params": params.model_dump(mode="json")}, curve)
    with pytest.raises(InputError, match=rf"^run {params.run_id} has no global model of images; allowed are"):
        write_confusions(params.run_id, ALONE)


def test_confusions_are_shown_by_how_many_clients_hold_both_labels(outputs: Path) -> None:
    """Three labels with ten images each: 0 and 1 are held by two clients together, 0 and 2 by one, 1 and 2 by
    nobody.
    """
    params = run_params(dataset="mnist", levels="e", partition="non-iid-2")
    record = {
        "run_id": params.run_id,
        "params": params.model_dump(mode="json"),
        "metrics": {"final_global_accuracy": 70.0},
        "code_hash": code_hash(),
        "git_dirty": False,
    }
    write_run(record, pd.DataFrame({"round": [1], "global_accuracy": [70.0]}))
    images = [[8, 1, 1], [0, 7, 3], [0, 4, 6]]
    clients = [[9, 2, 1], [2, 9, 0], [1, 0, 9]]
    rows = [(i, j, images[i][j], clients[i][j]) for i in range(3) for j in range(3)]
    path = confusions_path(params.run_id)
    path.parent.mkdir()
    pd.DataFrame(rows, columns=["label", "taken_for", "images", "clients"]).to_csv(path, index=False)
    (row,) = rejudged.confused_pairs().to_dict("records")
    assert row.pop("run") == "MNIST, non-IID-2, levels e (fix), 400 rounds"
    assert row == pytest.approx(
        {
            "Global": 70.0,
            "pairs of nobody": 1,
            "nobody": (30 + 40) / 2,
            "one client": (10 + 0) / 2,
            "two": (10 + 0) / 2,
            "three or more": float("nan"),
        },
        nan_ok=True,
    )


def test_where_nothing_was_counted_the_page_says_so(outputs: Path) -> None:
    assert rejudged.confused_pairs().empty
