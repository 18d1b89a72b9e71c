"""Records: the metrics of a curve, and all runs in one table."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core.errors import InputError
from heterofl_core.records import (
    METRICS,
    all_records,
    collect,
    metrics,
    read_record,
    read_rounds,
    record_path,
    results_table,
    rounds_path,
    write_run,
)

CURVE = pd.DataFrame(
    {
        "round": [5, 10, 12, 15],
        "global_accuracy": [10.0, 90.5, 90.5, 80.0],
        "local_accuracy": [50.0, 60.0, 70.0, 99.9],
    }
)


def a_record(run_id: str = "one", **changes: Any) -> dict[str, Any]:
    """A record with one entry of each kind."""
    return {
        "run_id": run_id,
        "params": {"levels": "a-e", "seed": 0, "milestones": [3]},
        "metrics": metrics(CURVE),
        "cost": {"parameters": 6594.0, "ratio": 1.0},
        "versions": {"python": "3.11"},
        "seconds": 1.5,
        "status": "done",
        **changes,
    }


def test_metrics_are_those_of_the_last_round_and_of_the_first_best_one() -> None:
    assert metrics(CURVE) == {
        "final_global_accuracy": 80.0,
        "best_global_accuracy": 90.5,
        "best_global_accuracy_round": 10,
        "final_local_accuracy": 99.9,
        "best_local_accuracy": 99.9,
        "best_local_accuracy_round": 15,
    }
    assert json.dumps(metrics(CURVE))  # plain numbers, none of NumPy's


def test_the_best_perplexity_is_the_first_smallest_one() -> None:
    curve = pd.DataFrame(
        {
            "round": [1, 2, 3, 4],
            "perplexity": [9.0, 3.5, 3.5, 4.0],
            "masked_perplexity": [900.0, 800.0, 700.0, 600.0],
            "visible_perplexity": [1.5, 2.0, 2.5, 3.0],
        }
    )
    assert metrics(curve) == {  # and no accuracies
        "final_perplexity": 4.0,
        "best_perplexity": 3.5,
        "best_perplexity_round": 2,
        "final_masked_perplexity": 600.0,
        "best_masked_perplexity": 600.0,
        "best_masked_perplexity_round": 4,
        "final_visible_perplexity": 3.0,
        "best_visible_perplexity": 1.5,
        "best_visible_perplexity_round": 1,
    }


def test_more_accuracy_and_less_perplexity_are_better() -> None:
    assert {name: metric.sign for name, metric in METRICS.items()} == {
        "global_accuracy": +1,
        "local_accuracy": +1,
        "perplexity": -1,
        "masked_perplexity": -1,
        "visible_perplexity": -1,
    }
    for name, metric in METRICS.items():
        assert metric.axis == ("perplexity" if "perplexity" in name else "accuracy (%)")


def test_runs_on_images_and_on_text_stand_in_one_table() -> None:
    on_text = a_record("text", metrics={"best_perplexity": 3.5})
    table = results_table([a_record("images"), on_text]).set_index("run_id")
    assert table["best_perplexity"].isna().to_dict() == {"images": True, "text": False}
    assert table["best_global_accuracy"].isna().to_dict() == {"images": False, "text": True}


def test_a_run_that_was_written_is_read_back(outputs: Path) -> None:
    write_run(a_record(), CURVE)
    assert all_records() == [a_record()]
    pd.testing.assert_frame_equal(read_rounds("one"), CURVE)
    assert sorted(outputs.rglob("*.*")) == [record_path("one"), rounds_path("one")]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b'{"run_id": "one", "params": {}}']
)
def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as failure:
        read_record(path)
    assert str(failure.value).startswith(f"record {path} is damaged (")
    assert str(failure.value).endswith("); delete its folder and run it again")
    assert "\n" not in str(failure.value)


def test_the_table_of_results_has_one_row_for_each_record() -> None:
    table = results_table([a_record("one"), a_record("two", seconds=2.5)])
    assert table["run_id"].tolist() == ["one", "two"]
    assert table["seconds"].tolist() == [1.5, 2.5]
    assert table["levels"].tolist() == ["a-e", "a-e"]
    assert table["best_global_accuracy"].tolist() == [90.5, 90.5]
    assert table["parameters"].tolist() == [6594.0, 6594.0]
    assert table.columns.is_unique


def test_collect_writes_all_records_sorted_by_name(outputs: Path) -> None:
    for name in ("two", "one"):
        write_run(a_record(name), CURVE)
    path = collect()
    assert path == outputs / "results.csv"
    assert pd.read_csv(path)["run_id"].tolist() == ["one", "two"]


def test_collect_leaves_the_old_table_when_a_record_is_damaged(outputs: Path) -> None:
    write_run(a_record(), CURVE)
    before = collect().read_bytes()
    broken = record_path("two")
    broken.parent.mkdir()
    broken.write_text("{")
    with pytest.raises(InputError, match=f"^record {broken} is damaged"):
        collect()
    assert (outputs / "results.csv").read_bytes() == before
    assert [path.name for path in outputs.iterdir() if path.is_file()] == ["results.csv"]


def test_a_run_without_a_record_is_not_collected(outputs: Path) -> None:
    write_run(a_record(), CURVE)
    record_path("one").unlink()
    assert all_records() == []


def test_a_record_without_its_cost_is_damaged_too(outputs: Path) -> None:
    record = a_record()
    del record["cost"]
    write_run(record, CURVE)
    with pytest.raises(InputError):
        collect()
