"""Each record has a page of its own."""

from pathlib import Path

import pandas as pd
import pytest

from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import write_run
from heterofl_core.report.evidence import MARKS
from heterofl_core.report.run_pages import run_pages

PARAMS = run_params(dataset="mnist", levels="d-e", seed=3)


@pytest.fixture
def record(outputs: Path) -> dict[str, object]:
    return {
        "run_id": PARAMS.run_id,
        "params": PARAMS.model_dump(mode="json"),
        "metrics": {
            f"{which}_global_accuracy{more}": value
            for which, more, value in (("best", "", 99.0), ("best", "_round", 2), ("final", "", 98.0))
        },
        "sub_models": {"e": {"global_accuracy": 96.5}},
        "rounds_done": 200,
        "seconds": 10.0,
        "training_seconds": 8.0,
        "evaluation_seconds": 2.0,
        "workers": 2,
        "device": "A <processor>",
        "peak_memory_mb": 700,
        "versions": {"torch": "2.13.0"},
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
        "code_hash": code_hash(),
    }


def page_of(record: dict[str, object]) -> str:
    columns = {"round": [1, 2], "lr": [0.1, 0.01], "train_loss": [2.0, 1.0], "global_accuracy": [50.0, 99.0]}
    write_run(record, pd.DataFrame(columns))
    ((name, title, body),) = run_pages()
    assert name == f"runs/{PARAMS.run_id}"
    assert title == "MNIST, IID, levels d-e (dynamic), 200 rounds, seed 3"
    return body


def test_a_page_tells_what_was_measured_how_and_how_to_do_it_again(record: dict[str, object]) -> None:
    body = page_of(record)
    for text in (
        "<h1>MNIST, IID, levels d-e (dynamic), 200 rounds, seed 3</h1>",
        "The code of today would make it again.",
        "98.00",
        "96.50",  # of the slice of level e
        "make run P=&quot;-p dataset=mnist -p levels=d-e -p seed=3&quot;",
        "A &lt;processor&gt;",
        "2.13.0",
        "milestones",
        'alt="Global accuracy and local loss over 200 communication rounds."',
    ):
        assert text in body, text


@pytest.mark.parametrize(
    ("changes", "kind"), [({"code_hash": "other"}, "stale"), ({"git_dirty": True}, "uncommitted")]
)
def test_a_page_tells_if_the_code_was_another_one(
    record: dict[str, object], changes: dict[str, object], kind: str
) -> None:
    assert f"<p>{MARKS[kind]} " in page_of(record | changes)


def test_an_old_record_without_sub_models_has_no_table_of_them(record: dict[str, object]) -> None:
    del record["sub_models"]
    assert "own models" not in page_of(record)
