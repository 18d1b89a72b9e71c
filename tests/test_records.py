"""Records: the metrics of a curve, and all runs in one table."""

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core import records
from heterofl_core.errors import InputError
from heterofl_core.records import (
    MEND,
    METRICS,
    all_records,
    collect,
    confusions_path,
    digest,
    ensembles_path,
    executed_path,
    machine_of_record,
    metrics,
    read_record,
    read_rounds,
    record_path,
    results_table,
    rounds_path,
    rounds_text,
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


def test_the_first_machines_are_named_with_the_instructions_that_they_had() -> None:
    first = a_record(device="AMD EPYC (2 cores) and AMD EPYC with avx2 (4 cores)")
    assert machine_of_record(first) == (
        "AMD EPYC with avx512_bf16 (2 cores) and AMD EPYC with avx2 (4 cores)"
    )
    assert machine_of_record(a_record(device="NVIDIA H200")) == "NVIDIA H200"


def test_a_round_that_diverged_is_not_the_best_one() -> None:
    curve = pd.DataFrame({"round": [5, 10], "perplexity": [7.0, math.nan]})
    found = metrics(curve)
    assert (found["best_perplexity"], found["best_perplexity_round"]) == (7.0, 5)
    assert math.isnan(found["final_perplexity"])


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
    (record,) = all_records()
    assert record == a_record() | {"digest": digest(record, rounds_text(CURVE))}
    pd.testing.assert_frame_equal(read_rounds("one"), CURVE)
    assert sorted(outputs.rglob("*.*")) == [record_path("one"), rounds_path("one")]


@pytest.mark.usefixtures("outputs")
def test_the_record_of_a_run_that_diverged_is_json_that_others_can_read() -> None:
    slices = {"e": {"perplexity": math.inf}, "d": {"perplexity": 9.0}}
    write_run(a_record(metrics={"final_perplexity": math.nan}, sub_models=slices), CURVE)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    written = json.loads(record_path("one").read_text("utf-8"), parse_constant=refuse)
    assert written["metrics"] == {"final_perplexity": None}
    assert written["sub_models"] == {"e": {"perplexity": None}, "d": {"perplexity": 9.0}}
    record = read_record(record_path("one"))
    assert math.isnan(record["metrics"]["final_perplexity"])
    assert math.isnan(record["sub_models"]["e"]["perplexity"])
    assert record["params"] == a_record()["params"]


@pytest.mark.usefixtures("outputs")
def test_what_was_made_of_an_older_record_goes_with_it() -> None:
    """Its page would otherwise be that of another result."""
    write_run(a_record(), CURVE)
    made = (executed_path("one"), confusions_path("one"), ensembles_path("one"))
    for path in made:
        path.parent.mkdir()
        path.touch()
    write_run(a_record() | {"seconds": 2.0}, CURVE)
    assert not any(path.exists() for path in made)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b'{"run_id": "one", "params": {}}']
)
def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    (tmp_path / "rounds.csv").write_text(rounds_text(CURVE))
    assert refused(path) == f"record {path} is damaged; {MEND}"
    assert path.read_bytes() == content


def refused(path: Path) -> str:
    """The sentence with which reading a record fails, without the detail in parentheses."""
    with pytest.raises(InputError) as failure:
        read_record(path)
    assert "\n" not in str(failure.value)
    return re.sub(r" \(.*\);", ";", str(failure.value))


@pytest.mark.parametrize("damage", ["missing", "no UTF-8"])
def test_a_record_is_damaged_without_its_curve(outputs: Path, damage: str) -> None:
    write_run(a_record(), CURVE)
    if damage == "missing":
        rounds_path("one").unlink()
    else:
        rounds_path("one").write_bytes(b"\xff")
    assert refused(record_path("one")) == f"record {record_path('one')} is damaged; {MEND}"
    with pytest.raises(InputError, match=r"^record .* is damaged"):
        all_records()


def test_a_record_that_vanishes_while_all_are_read_is_that_of_a_run_that_is_not_done(
    outputs: Path, finish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is done again removes its old record before its new curve comes."""
    for levels in ("a", "e"):
        finish({"global_accuracy": [50.0]}, dataset="digits", levels=levels)
    gone, left = [record["run_id"] for record in all_records()]

    def intact_record(path: Path) -> dict[str, Any]:
        record_path(gone).unlink(missing_ok=True)
        return read_it(path)

    read_it = records.intact_record
    monkeypatch.setattr(records, "intact_record", intact_record)
    assert [record["run_id"] for record in all_records()] == [left]


@pytest.mark.parametrize("read", ["before", "while it is away"])
def test_a_record_that_is_replaced_while_it_is_read_is_read_once_more(
    outputs: Path, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(a_record(), CURVE)
    old = record_path("one").read_bytes()
    write_run(a_record() | {"seconds": 2.0}, CURVE.assign(train_loss=0.25))
    new = record_path("one").read_bytes()
    if read == "before":
        record_path("one").write_bytes(old)  # beside the new curve
    else:
        record_path("one").unlink()
    monkeypatch.setattr("heterofl_core.records.time.sleep", lambda _: record_path("one").write_bytes(new))
    assert read_record(record_path("one"))["seconds"] == 2.0


# The seal


def test_a_curve_as_text_has_ten_digits_and_keeps_whole_numbers_whole() -> None:
    curve = pd.DataFrame(
        {"round": [1, 2], "train_loss": [1 / 3, 2.0], "down_mb": [1e-12 / 3, 12345.678901234]}
    )
    assert rounds_text(curve) == (
        "round,train_loss,down_mb\n1,0.3333333333,3.333333333e-13\n2,2,12345.6789\n"
    )


def test_the_digest_is_a_hash_of_record_and_curve_without_the_digest_itself() -> None:
    text = '{"a": 1, "b": [2]}round\n1\n'
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest({"b": [2], "a": 1}, "round\n1\n") == expected  # whatever the order
    assert digest({"a": 1, "b": [2], "digest": "another"}, "round\n1\n") == expected
    assert digest({"a": 1, "b": [3]}, "round\n1\n") != expected
    assert digest({"a": 1, "b": [2]}, "round\n2\n") != expected


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (record_path, '"best_global_accuracy": 90.5', '"best_global_accuracy": 90.6'),
        (record_path, '"seed": 0', '"seed": 1'),
        (record_path, '"seconds": 1.5', '"seconds": 1.4'),
        (record_path, '"digest": "', '"digest": "0'),
        (record_path, '"status": "done"', '"status": "done", "note": "checked"'),
        (rounds_path, "12,90.5,70", "12,90.5,71"),
        (rounds_path, "15,80,99.9\n", ""),
    ],
)
def test_a_record_or_curve_that_was_changed_by_hand_is_named_and_left_as_it_is(
    outputs: Path, path: Callable[[str], Path], old: str, new: str
) -> None:
    write_run(a_record(), CURVE)
    whole = path("one").read_text()
    assert whole.count(old) == 1
    path("one").write_text(whole.replace(old, new))
    sentence = f"record {record_path('one')} or its rounds.csv was changed after the run; {MEND}"
    assert refused(record_path("one")) == sentence
    with pytest.raises(InputError, match="was changed after the run"):
        collect()
    assert path("one").read_text() == whole.replace(old, new)
    assert not (outputs / "results.csv").exists()


def test_a_record_in_another_layout_is_the_same_record(outputs: Path) -> None:
    """The seal is on what a record says, not on its spaces."""
    write_run(a_record(), CURVE)
    record = read_record(record_path("one"))
    record_path("one").write_text(json.dumps(dict(reversed(record.items()))))
    assert read_record(record_path("one")) == record


def test_a_digest_is_no_result(outputs: Path) -> None:
    write_run(a_record(), CURVE)
    table = pd.read_csv(collect())
    assert "digest" not in table
    assert set(table) >= {"run_id", "seconds", "status", "levels", "parameters"}


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
