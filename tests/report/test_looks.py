"""What choosing a round by its result adds to the result."""

from collections.abc import Callable
from pathlib import Path

from heterofl_core.report import looks, run_tables


def test_local_accuracy_is_read_where_global_is_best(finish: Callable[..., None]) -> None:
    curve = {"global_accuracy": [50.0, 60.0, 55.0], "local_accuracy": [90.0, 92.0, 95.0]}
    finish(curve, dataset="mnist", partition="non-iid-2", levels="a-e", rounds=3)
    finish(curve, dataset="mnist", levels="a-e", rounds=3)
    table = looks.two_bests(run_tables.results())
    assert table[["best Local", "Local where Global is best"]].to_numpy().tolist() == [[95.0, 92.0]]


def test_without_runs_there_is_no_local_accuracy(outputs: Path) -> None:
    assert looks.two_bests(run_tables.results()).empty


def test_who_looks_more_often_finds_a_better_best(finish: Callable[..., None]) -> None:
    curve = [50.0] * 100
    curve[3], curve[14], curve[39] = 90.0, 80.0, 70.0  # rounds 4, 15, 40
    finish({"global_accuracy": curve}, dataset="mnist", levels="a-e", rounds=100)
    finish({"global_accuracy": curve[:20]}, dataset="mnist", levels="a", rounds=20)  # too short to tell
    table = looks.fewer_looks(run_tables.results())
    assert table.drop(columns="run").to_dict("records") == [
        {"each round": 90.0, "each 5th": 80.0, "each 10th": 70.0, "each 50th": 50.0, "last": 50.0}
    ]


def test_a_run_that_was_evaluated_now_and_then_says_nothing_about_looks(finish: Callable[..., None]) -> None:
    finish({"global_accuracy": [50.0] * 20}, dataset="mnist", levels="a-e", rounds=100, eval_every=5)
    assert looks.fewer_looks(run_tables.results()).empty
