"""A run gives the same result however it is executed, and leaves a whole record or none."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core import runs
from heterofl_core.clients import one_thread
from heterofl_core.errors import InputError
from heterofl_core.federation import Federation
from heterofl_core.params import RunParams, run_params, split_settings
from heterofl_core.records import checkpoint_path, read_record, read_rounds, record_path, rounds_path

TINY = {
    "dataset": "digits",
    "levels": "d-e",
    "num_clients": 20,
    "participation": 0.1,
    "rounds": 5,
    "milestones": [3],
    "eval_every": 2,
    "local_epochs": 1,
    "batch_size": 8,
    "lr": 0.1,
}
PARAMS = run_params(**TINY)
TIMES = ["training_seconds", "evaluation_seconds"]
Result = tuple[dict[str, Any], pd.DataFrame]


def train(**changes: Any) -> dict[str, Any]:
    """The record of a run of `TINY` in this process, with some settings changed."""
    params, execution = split_settings({**TINY, "workers": 1, **changes})
    return runs.execute(Federation(params), execution)


def result(record: dict[str, Any]) -> Result:
    """A run's metrics and its curve, times aside."""
    return record["metrics"], read_rounds(record["run_id"]).drop(columns=TIMES)


def assert_identical(one: Result, other: Result) -> None:
    """Every bit that is recorded agrees."""
    assert one[0] == other[0]
    pd.testing.assert_frame_equal(one[1], other[1], check_exact=True)


@pytest.fixture(scope="module", autouse=True)
def a_busy_machine() -> Iterator[None]:
    """Evaluates on one thread, as the clients train: many threads wait for each other beside other work."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs folder of `finished`, which no test changes."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Result:
    """The result of `TINY`, never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFL_OUTPUTS", str(folder))
        return result(train())


@pytest.fixture
def copy(finished: Result, folder: Path, outputs: Path) -> None:
    """An outputs folder of the test's own, in which `TINY` is finished."""
    shutil.copytree(folder, outputs)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that runs until Ctrl-C is pressed in the given call of `run_round` or `evaluate`."""

    def run(where: str, call: int, **changes: Any) -> None:
        owner: Any = Federation if where == "run_round" else runs
        original, calls = getattr(owner, where), iter(range(1, 100))

        def counted(*arguments: Any) -> Any:
            if next(calls) == call:
                raise KeyboardInterrupt
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, where, counted)
            with pytest.raises(KeyboardInterrupt):
                train(**changes)

    return run


# What a run leaves behind


def test_a_run_leaves_its_record_and_curve_and_no_checkpoint(folder: Path, finished: Result) -> None:
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert [str(path) for path in files] == [
        f"runs/{PARAMS.run_id}/record.json",
        f"runs/{PARAMS.run_id}/rounds.csv",
    ]


def test_a_record_holds_all_that_was_promised(folder: Path, finished: Result) -> None:
    record = json.loads((folder / "runs" / PARAMS.run_id / "record.json").read_text(encoding="utf-8"))
    assert RunParams.model_validate(record["params"]) == PARAMS
    assert set(record["params"]) == set(RunParams.model_fields)
    assert (record["run_id"], record["rounds_done"], record["status"]) == (PARAMS.run_id, 5, "done")
    accuracies = {"global_accuracy", "local_accuracy"}
    assert set(record["metrics"]) == {
        *(f"final_{name}" for name in accuracies),
        *(f"best_{name}" for name in accuracies),
        *(f"best_{name}_round" for name in accuracies),
    }
    assert record["seconds"] == pytest.approx(
        record["training_seconds"] + record["evaluation_seconds"], abs=0.11
    )
    assert 50 < record["peak_memory_mb"] < 50_000
    provenance = {"device", "versions", "git_commit", "git_dirty", "code_hash"}
    assert provenance | {"cost", "workers", "finished_at"} <= set(record)


def test_the_curve_has_a_line_for_each_evaluated_round(finished: Result) -> None:
    _, rounds = finished
    assert rounds["round"].tolist() == [2, 3, 4, 5]  # every second, the milestone, the last
    assert rounds["lr"].tolist() == pytest.approx([0.1, 0.1, 0.01, 0.01], rel=1e-9)
    assert rounds["down_mb"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("eval_every", "milestones", "rounds", "evaluated"),
    [(1, [], 3, [1, 2, 3]), (4, [], 9, [4, 8, 9]), (100, [2, 5], 7, [2, 5, 7]), (3, [3, 50], 6, [3, 6])],
)
def test_milestones_and_the_last_round_are_evaluated_whatever_the_interval(
    eval_every: int, milestones: list[int], rounds: int, evaluated: list[int]
) -> None:
    params = run_params(**TINY | {"eval_every": eval_every, "milestones": milestones, "rounds": rounds})
    assert [number for number in range(1, rounds + 1) if runs.is_evaluated(params, number)] == evaluated


def test_the_tiny_run_learns(finished: Result) -> None:
    metrics, rounds = finished
    assert metrics["best_global_accuracy"] > 60  # chance is 10
    assert rounds["train_loss"].iloc[-1] < 2.0  # chance is ln 10 = 2.3


# One result


@pytest.mark.usefixtures("outputs")
def test_the_same_seed_gives_the_same_bits(finished: Result) -> None:
    assert_identical(result(train()), finished)


@pytest.mark.usefixtures("outputs")
def test_two_workers_give_the_same_bits(finished: Result) -> None:
    record = train(workers=2)
    assert record["workers"] == 2
    assert_identical(result(record), finished)


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(("seed", "agrees"), [(0, True), (1, False)])
def test_another_seed_gives_another_result(finished: Result, seed: int, agrees: bool) -> None:
    _, rounds = result(train(seed=seed, rounds=2, milestones=[]))
    assert (rounds["train_loss"].iloc[0] == finished[1]["train_loss"].iloc[0]) == agrees


# Interruptions


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("where", "call", "rounds_kept"),
    [("run_round", 1, 0), ("run_round", 3, 2), ("evaluate", 2, 2), ("run_round", 5, 4)],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    finished: Result,
    interrupted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    where: str,
    call: int,
    rounds_kept: int,
) -> None:
    interrupted(where, call)
    assert checkpoint_path(PARAMS.run_id).exists()
    assert not record_path(PARAMS.run_id).exists()
    capsys.readouterr()
    record = train()
    assert f"{rounds_kept}/5" in capsys.readouterr().err.split("\r")[1]  # the bar goes on from there
    assert_identical(result(record), finished)
    assert record["rounds_done"] == 5
    assert not checkpoint_path(PARAMS.run_id).exists()


@pytest.mark.usefixtures("outputs")
def test_running_estimates_of_batch_norm_survive_an_interruption(interrupted: Callable[..., None]) -> None:
    changes = {"norm": "bn", "levels": "e", "rounds": 3, "milestones": []}
    expected = result(train(**changes))
    interrupted("run_round", 3, **changes, force=True)
    assert_identical(result(train(**changes, force=True)), expected)


@pytest.mark.usefixtures("copy")
def test_a_finished_run_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(record_path(PARAMS.run_id))
    monkeypatch.setattr(Federation, "run_round", None)  # would fail
    assert train() == record
    assert capsys.readouterr().out == f"{PARAMS.run_id} is done already; force=True (or --force) redoes it\n"


@pytest.mark.usefixtures("copy")
def test_force_redoes_a_run_and_keeps_the_old_record_until_then(
    finished: Result, interrupted: Callable[..., None]
) -> None:
    old = {**read_record(record_path(PARAMS.run_id)), "metrics": {"marked": "old"}}
    record_path(PARAMS.run_id).write_text(json.dumps(old), encoding="utf-8")
    curve = rounds_path(PARAMS.run_id).read_bytes()
    interrupted("run_round", 4, force=True)
    assert read_record(record_path(PARAMS.run_id)) == old
    assert rounds_path(PARAMS.run_id).read_bytes() == curve
    assert_identical(result(train(force=True)), finished)


# What cannot be done


def test_outputs_that_cannot_be_written_are_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "outputs"
    in_the_way.write_text("a file")
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(in_the_way))
    monkeypatch.setattr(Federation, "run_round", None)  # would fail
    with pytest.raises(InputError) as failure:
        train()
    path = checkpoint_path(PARAMS.run_id)
    assert str(failure.value) in (f"cannot write {path}: {why}" for why in ("Not a directory", "File exists"))
    assert list(tmp_path.iterdir()) == [in_the_way]


@pytest.mark.usefixtures("outputs")
def test_a_damaged_checkpoint_is_neither_used_nor_deleted() -> None:
    path = checkpoint_path(PARAMS.run_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"^checkpoint {path} is damaged"):
        train()
    assert path.read_bytes() == b"damaged"
    assert list(path.parent.iterdir()) == [path]
