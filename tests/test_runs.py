"""A run gives the same result however it is executed, and leaves a whole record or none."""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from heterofl_core import runs
from heterofl_core.checkpoints import RunState, load_checkpoint, save_checkpoint
from heterofl_core.errors import InputError
from heterofl_core.federation import Federation
from heterofl_core.locks import lock_path
from heterofl_core.params import RunParams, run_params
from heterofl_core.records import (
    checkpoint_path,
    digest,
    read_record,
    read_rounds,
    record_path,
    rounds_path,
    write_run,
)
from heterofl_core.settings import split_settings

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
        original, calls = getattr(Federation, where), iter(range(1, 100))

        def counted(*arguments: Any) -> Any:
            if next(calls) == call:
                raise KeyboardInterrupt
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Federation, where, counted)
            with pytest.raises(KeyboardInterrupt):
                train(**changes)

    return run


# What a run leaves behind


def test_a_run_leaves_its_record_and_curve_and_no_checkpoint(folder: Path, finished: Result) -> None:
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert [str(path) for path in files] == [
        f"locks/{PARAMS.run_id}",  # an empty file, by which processes tell who is at work
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
    assert (record["backend"], record["workers"], record["threads_per_worker"]) == ("loky", 1, 1)
    assert record["engine"] == "plain"  # `auto` compiles nothing for so short a run
    curve = (folder / "runs" / PARAMS.run_id / "rounds.csv").read_text(encoding="utf-8")
    assert record["digest"] == digest(record, curve)
    provenance = {"device", "versions", "git_commit", "git_dirty", "code_hash"}
    assert provenance | {"cost", "finished_at"} <= set(record)


@pytest.mark.usefixtures("outputs")
def test_the_peak_is_that_of_all_processes_together_in_the_largest_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_round, peaks = Federation.run_round, iter([{1: 100.0, 2: 200.0}, {1: 10.0}])

    def with_peaks(*arguments: Any) -> Any:
        weights, summary = run_round(*arguments)
        return weights, replace(summary, peak_memory_mb=next(peaks))

    monkeypatch.setattr(Federation, "run_round", with_peaks)
    monkeypatch.setattr(runs, "peak_memory_mb", lambda: 50.0)
    assert train(rounds=2, milestones=[])["peak_memory_mb"] == 350


def test_the_curve_has_a_line_for_each_evaluated_round(finished: Result) -> None:
    _, rounds = finished
    assert rounds["round"].tolist() == [2, 3, 4, 5]  # every second, the milestone, the last
    assert rounds["lr"].tolist() == pytest.approx([0.1, 0.1, 0.01, 0.01], rel=1e-9)
    assert rounds["down_mb"].is_monotonic_increasing


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


# Every method, architecture and way to share

FEW: dict[str, Any] = {
    **TINY,
    "num_clients": 10,
    "participation": 0.2,
    "rounds": 2,
    "milestones": [],
    "eval_every": 1,
}
MLP: dict[str, Any] = {"arch": "mlp", "levels": "e"}
RUNS: dict[str, dict[str, Any]] = {
    "standalone": {**MLP, "method": "standalone", "partition": "non-iid-2"},
    "lg-fedavg": {**MLP, "method": "lg-fedavg", "partition": "non-iid-2"},
    "fedavg": {**MLP, "method": "fedavg"},
    "a mix of mlps": {"arch": "mlp"},
    "preresnet18": {"arch": "preresnet18", "levels": "e"},
    "rolling": {"selection": "rolling"},
    "random": {"selection": "random"},
    "dirichlet": {"partition": "dirichlet-0.5"},
    "uniform": {"assignment": "uniform"},
    "trace": {"trace": "".join(random.Random(0).choices("de", k=100)), "num_clients": 100},
    "augmented": {"augmented": True, "augmented_statistics": True},
    "gn": {"norm": "gn"},
}


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_every_kind_goes_from_end_to_end(name: str) -> None:
    record = train(**{**FEW, **RUNS[name]})
    params = RunParams.model_validate(record["params"])
    assert params.model_dump(include=set(RUNS[name])) == RUNS[name]
    assert (params.run_id, params.local_epochs, record["rounds_done"]) == (record["run_id"], 1, 2)
    rounds = read_rounds(record["run_id"])
    assert rounds["round"].tolist() == [1, 2]
    assert rounds["global_accuracy"].between(0, 100).all()
    assert rounds["local_accuracy"].between(0, 100).all()
    assert np.isfinite(rounds["train_loss"]).all()
    assert not checkpoint_path(record["run_id"]).exists()


MLP_LAYERS = [256 * 32 + 32, 32 * 16 + 16, 16 * 16 + 16, 16 * 8 + 8, 8 * 10 + 10]  # at level e


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("method", "shared_layers", "sent"),
    [
        ("fedavg", 3, sum(MLP_LAYERS)),
        ("lg-fedavg", 3, sum(MLP_LAYERS[2:])),
        ("lg-fedavg", 1, MLP_LAYERS[4]),
        ("lg-fedavg", 9, sum(MLP_LAYERS)),
        ("standalone", 3, 0),
    ],
)
def test_only_what_is_shared_is_sent(method: str, shared_layers: int, sent: int) -> None:
    record = train(**FEW | MLP | {"method": method, "shared_layers": shared_layers})
    rounds = read_rounds(record["run_id"])
    clients = 2
    assert (rounds["down_mb"] * 2**20).tolist() == pytest.approx([4 * clients * sent, 8 * clients * sent])
    assert rounds["up_mb"].tolist() == rounds["down_mb"].tolist()


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize("name", ["lg-fedavg", "augmented"])
def test_two_workers_train_and_evaluate_every_kind_to_the_same_bits(name: str) -> None:
    one, two = (result(train(**{**FEW, **RUNS[name]}, workers=n, force=True)) for n in (1, 2))
    assert_identical(one, two)


# Text


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A data folder with a little text of 50 words, and settings of a run on it."""
    folder = tmp_path / "data" / "wikitext2"
    folder.mkdir(parents=True)
    for half, lines in (("train", 90), ("test", 70)):
        words = random.Random(half).choices([f"w{number}" for number in range(50)], k=10 * lines)
        table = pd.DataFrame({"text": [" ".join(words[start::lines]) for start in range(lines)]})
        table.to_parquet(folder / f"{half}-00000-of-00001.parquet")
    monkeypatch.setenv("HETEROFL_DATA", str(folder.parent))
    few = {"num_clients": 6, "batch_size": 12, "participation": 0.5, "rounds": 2, "milestones": []}
    return {"dataset": "wikitext2", "levels": "d-e", "eval_every": 1, **few}


def train_text(workers: int = 1, **settings: Any) -> dict[str, Any]:
    """The record of a run on text."""
    params, execution = split_settings({**settings, "workers": workers, "force": True})
    return runs.execute(Federation(params), execution)


@pytest.mark.usefixtures("outputs")
def test_a_run_on_text_is_judged_by_perplexities_only(text: dict[str, Any]) -> None:
    record = train_text(**text)
    names = {"perplexity", "masked_perplexity", "visible_perplexity"}
    assert set(record["metrics"]) == {
        *(f"final_{name}" for name in names),
        *(f"best_{name}" for name in names),
        *(f"best_{name}_round" for name in names),
    }
    rounds = read_rounds(record["run_id"])
    assert not [column for column in rounds if "accuracy" in str(column)]
    assert (rounds[sorted(names)] > 1).all(axis=None)
    assert record["metrics"]["best_perplexity"] == pytest.approx(rounds["perplexity"].min(), rel=1e-9)


@pytest.mark.usefixtures("outputs")
def test_two_workers_give_the_same_bits_on_text(text: dict[str, Any]) -> None:
    assert_identical(*(result(train_text(workers, **text)) for workers in (1, 2)))


@pytest.mark.usefixtures("outputs")
def test_fedavg_on_text_sends_every_word(text: dict[str, Any]) -> None:
    record = train_text(**text | {"levels": "e", "method": "fedavg"})
    rounds = read_rounds(record["run_id"])
    assert rounds["up_mb"].tolist() == rounds["down_mb"].tolist()
    sent = 3 * record["cost"]["parameters"] * 4 / 2**20  # three clients a round
    assert rounds["down_mb"].tolist() == pytest.approx([sent, 2 * sent])


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


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize("name", ["standalone", "lg-fedavg"])
def test_what_clients_keep_survives_an_interruption(interrupted: Callable[..., None], name: str) -> None:
    changes = {**FEW, **RUNS[name], "rounds": 4, "participation": 0.5}  # some train before and after it
    expected = result(train(**changes))
    interrupted("run_round", 4, **changes, force=True)
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
    marked = {**read_record(record_path(PARAMS.run_id)), "metrics": {"marked": "old"}}
    write_run(marked, read_rounds(PARAMS.run_id))
    old = read_record(record_path(PARAMS.run_id))
    assert old["metrics"] == {"marked": "old"}
    curve = rounds_path(PARAMS.run_id).read_bytes()
    interrupted("run_round", 4, force=True)
    assert read_record(record_path(PARAMS.run_id)) == old
    assert rounds_path(PARAMS.run_id).read_bytes() == curve
    assert_identical(result(train(force=True)), finished)


@pytest.mark.usefixtures("copy")
def test_an_interrupted_redo_goes_on_from_its_own_checkpoint(
    finished: Result, interrupted: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is newer than the record, which is that of the run before."""
    interrupted("run_round", 4, force=True)
    capsys.readouterr()
    assert train()["rounds_done"] == 5  # without force: the record that there is
    assert capsys.readouterr().out.endswith("is done already; force=True (or --force) redoes it\n")
    assert load_checkpoint(checkpoint_path(PARAMS.run_id)).round == 3
    assert_identical(result(train(force=True)), finished)
    assert "3/5" in capsys.readouterr().err.split("\r")[1]


# Checkpoints, and what a killed process leaves


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("changes", "saved"),
    [
        ({}, [0, 2, 3, 4, 5]),  # at each evaluated round
        ({"checkpoint_every": 1}, [0, 1, 2, 3, 4, 5]),
        ({"eval_every": 100, "milestones": []}, [0, 5]),
        ({"eval_every": 100, "milestones": [], "checkpoint_every": 2}, [0, 2, 4, 5]),
        ({"eval_every": 3, "milestones": [], "checkpoint_every": 2}, [0, 2, 3, 4, 5]),
    ],
)
def test_a_checkpoint_is_saved_before_all_work_every_few_rounds_and_at_each_evaluation(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], saved: list[int]
) -> None:
    rounds: list[int] = []

    def save(path: Path, state: RunState) -> None:
        rounds.append(state.round)
        save_checkpoint(path, state)

    def advance(federation: Federation, state: RunState, *_: Any) -> None:
        """A round in which nothing is learned."""
        state.round += 1
        if federation.params.is_evaluated(state.round):
            state.rows.append({"round": state.round, "global_accuracy": 10.0})

    monkeypatch.setattr(runs, "save_checkpoint", save)
    monkeypatch.setattr(runs, "advance", advance)
    train(**changes)
    assert rounds == saved


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(("checkpoint_every", "kept"), [(5, 0), (1, 1)])
def test_rounds_after_the_last_checkpoint_are_done_again(
    finished: Result,
    interrupted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    checkpoint_every: int,
    kept: int,
) -> None:
    interrupted("run_round", 2, checkpoint_every=checkpoint_every)
    capsys.readouterr()
    record = train()
    assert f"{kept}/5" in capsys.readouterr().err.split("\r")[1]
    assert_identical(result(record), finished)


@pytest.mark.usefixtures("outputs")
def test_a_run_removes_the_temporary_files_of_its_killed_writers_and_nothing_else() -> None:
    folder = record_path(PARAMS.run_id).parent
    folder.mkdir(parents=True)
    left = [".record.json.k2_x.json", ".rounds.csv.abc.csv", ".checkpoint.safetensors.1.safetensors"]
    others = [".gitkeep", "notes.json", ".record.jsonl"]
    for name in left + others:
        (folder / name).touch()
    train()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*others, "record.json", "rounds.csv"])


def killed_at_the_end(age: float) -> Path:
    """Leaves a checkpoint of `TINY`'s end beside its record, as many seconds older than that one."""
    checkpoint, record = checkpoint_path(PARAMS.run_id), record_path(PARAMS.run_id)
    save_checkpoint(checkpoint, RunState(Federation(PARAMS).initial_weights(), round=5, rows=[]))
    written = record.stat().st_mtime - age
    os.utime(checkpoint, (written, written))
    return checkpoint


@pytest.mark.usefixtures("copy")
def test_a_run_that_was_killed_between_its_record_and_the_end_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = killed_at_the_end(age=0.5)
    record = read_record(record_path(PARAMS.run_id))
    monkeypatch.setattr(Federation, "run_round", None)  # would fail
    assert train() == record
    assert not checkpoint.exists()


@pytest.mark.usefixtures("copy")
def test_its_outlived_checkpoint_does_not_shorten_a_redo(
    finished: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_at_the_end(age=0.5)
    assert_identical(result(train(force=True)), finished)
    assert "0/5" in capsys.readouterr().err.split("\r")[1]


@pytest.mark.usefixtures("copy")
def test_a_checkpoint_younger_than_the_record_is_that_of_a_redo_and_stays() -> None:
    checkpoint = killed_at_the_end(age=-0.5)
    runs.drop_outlived(checkpoint, record_path(PARAMS.run_id))
    assert checkpoint.exists()


@pytest.mark.usefixtures("outputs")
def test_a_checkpoint_without_a_record_stays_however_old_it_is() -> None:
    checkpoint = checkpoint_path(PARAMS.run_id)
    save_checkpoint(checkpoint, RunState(Federation(PARAMS).initial_weights(), round=2, rows=[]))
    os.utime(checkpoint, (0, 0))
    runs.drop_outlived(checkpoint, record_path(PARAMS.run_id))
    assert checkpoint.exists()


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
    path = lock_path(PARAMS.run_id)
    assert str(failure.value) in (f"cannot write {path}: {why}" for why in ("Not a directory", "File exists"))
    assert list(tmp_path.iterdir()) == [in_the_way]


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("name", "other"),
    [("torch", "9"), ("engine", "compiled"), ("device", "another processor"), ("train.parquet", "0123")],
)
def test_a_checkpoint_that_was_written_with_something_else_is_refused_and_stays(
    interrupted: Callable[..., None], name: str, other: object
) -> None:
    """Its rounds and those to come would not be of one run."""
    interrupted("run_round", 4)
    path = checkpoint_path(PARAMS.run_id)
    state = load_checkpoint(path)
    state.origin[name] = other
    save_checkpoint(path, state)
    with pytest.raises(InputError) as failure:
        train()
    assert str(failure.value).startswith(f"checkpoint {path} was written with {name} {other}, and now it is ")
    assert str(failure.value).endswith("; go on as before, or delete it to start the run anew")
    assert load_checkpoint(path).round == 3


@pytest.mark.usefixtures("outputs")
def test_a_damaged_checkpoint_is_neither_used_nor_deleted() -> None:
    path = checkpoint_path(PARAMS.run_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"^checkpoint {path} is damaged"):
        train()
    assert path.read_bytes() == b"damaged"
    assert list(path.parent.iterdir()) == [path]
