"""Multiply-accumulates of a run, and what is timed on this machine."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heterofl_core import models, timings
from heterofl_core.cnn import CNN
from heterofl_core.estimate import (
    CLIENT_WORDS,
    SIZES,
    Timing,
    keep_timings,
    kept_timings,
    seconds_of,
    timing_name,
    work_of,
)
from heterofl_core.executor import on_one_thread
from heterofl_core.params import RunParams, run_params
from heterofl_core.timings import (
    REPEATS,
    STEPS,
    forward_seconds,
    macs_of,
    measure,
    step_seconds,
    timed_task,
    timings_for,
)


def digits(**values: Any) -> RunParams:
    return run_params(**{"dataset": "digits", "levels": "e", "protocol": "smoke", **values})


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, for what is kept."""
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


# Multiply-accumulates


def test_macs_by_hand() -> None:
    """MNIST, level e: 200 rounds of 10 clients with 600 images, 5 epochs, forward and backward; 40 passes
    over 70,000 images."""
    forward = 182_912
    macs = macs_of(run_params(dataset="mnist", levels="e"))
    assert macs == forward * (200 * 10 * 5 * 600 * 3 + 40 * 70_000)


def test_macs_of_a_mix_by_hand() -> None:
    """Training costs what the levels cost on average, evaluation what the largest one costs."""
    macs = macs_of(run_params(dataset="mnist", levels="a-e", rounds=1, milestones=[]))
    assert macs == (39_974_912 + 182_912) / 2 * (10 * 5 * 600 * 3) + 39_974_912 * 2 * 70_000


def test_text_trains_on_a_clients_words_and_is_evaluated_on_all() -> None:
    """Level e, one evaluation: a word less is 16 products less at each of 64 tokens."""
    params = run_params(dataset="wikitext2", levels="e", rounds=1, milestones=[])
    work = work_of(params)
    whole = 34_618_368
    own = whole - (33_279 - CLIENT_WORDS) * 16 * 64
    assert macs_of(params) == pytest.approx(work.trained * 3 * own + work.evaluated * whole, rel=1e-12)


def test_a_norm_without_statistics_saves_the_pass_over_the_training_data() -> None:
    saved = macs_of(digits()) - macs_of(digits(norm="gn"))
    assert saved == pytest.approx(2 * SIZES["digits"].train * macs_of_one_image(), rel=1e-12)


def macs_of_one_image() -> float:
    """A run of two rounds evaluates twice; digits have 360 test images."""
    one, two = (macs_of(digits(norm="gn", rounds=rounds, eval_every=1, milestones=[])) for rounds in (1, 2))
    training = 10 * SIZES["digits"].train / 100 * 3
    return (two - one) / (training + SIZES["digits"].test)


def test_more_blocks_have_more_macs() -> None:
    one, more = (macs_of(digits(arch="preresnet18", **changes)) for changes in ({}, {"blocks": [2, 2, 2, 2]}))
    assert more > 1.3 * one


# What is timed

KINDS = {
    "cnn": digits(),
    "preresnet18": digits(arch="preresnet18"),
    "mlp": digits(arch="mlp", method="standalone"),
    "augmented colours": run_params(dataset="cifar10", levels="e", arch="cnn"),
    "text": run_params(dataset="wikitext2", levels="e"),
    "two rows of text": run_params(dataset="wikitext2", levels="e", num_clients=50),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_client_is_timed_for_a_few_whole_steps_of_its_own_batch_size(name: str) -> None:
    params = KINDS[name]
    task = timed_task(params, "e")
    batches = list(task.examples.epoch(task.batch_size, np.random.default_rng(0)))
    assert len(batches) == STEPS
    rows = {"text": 1, "two rows of text": 2}.get(name, params.batch_size)
    assert {tuple(inputs.shape) for inputs, _ in batches} == {(rows, *SIZES[params.dataset].shape)}
    assert (task.model.arch, task.local_epochs) == (params.arch, 1)


@pytest.mark.parametrize("name", ["cnn", "preresnet18", "mlp", "text"])
def test_every_architecture_can_be_timed(name: str) -> None:
    timing = measure(KINDS[name], "e")
    assert all(0 < seconds < 10 for seconds in dataclasses.astuple(timing))


class NeedsAll(CNN):
    def __init__(
        self, width_rate: float, norm: str, scale: float, input_shape: tuple[int, ...], num_labels: int
    ) -> None:
        super().__init__(width_rate, norm=norm, scale=scale, input_shape=input_shape, num_labels=num_labels)


def test_a_model_that_needs_all_that_a_federation_gives_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = macs_of(KINDS["cnn"])
    monkeypatch.setitem(models.ARCHITECTURES, "cnn", NeedsAll)
    assert macs_of(KINDS["cnn"]) == usual
    assert measure(KINDS["cnn"], "e").step_seconds > 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A clock on which what is timed takes 9, 6, 5 and 7 seconds, and so on; grows by what was timed."""
    timed: list[tuple[str, Any]] = []
    now, durations = [100.0], itertools.cycle([9.0, 6.0, 5.0, 7.0])

    def take(function: Any, job: Any) -> None:
        timed.append((function.__name__, job))
        on_one_thread(function, job)
        now[0] += next(durations)

    monkeypatch.setattr(timings, "on_one_thread", take)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return timed


def test_the_shortest_of_four_times_counts_for_one_step_on_one_thread(clock: list[tuple[str, Any]]) -> None:
    assert step_seconds(KINDS["mlp"], "e") == 5 / STEPS
    assert [name for name, _ in clock] == ["client_update"] * REPEATS


@pytest.mark.parametrize(("name", "examples"), [("mlp", 100), ("text", 10)])
def test_the_shortest_of_four_times_counts_for_one_example_on_one_thread(
    clock: list[tuple[str, Any]], name: str, examples: int
) -> None:
    params = KINDS[name]
    assert forward_seconds(params, "e") == 5 / examples
    assert [(name, tuple(inputs.shape)) for name, inputs in clock] == [
        ("forward", (examples, *SIZES[params.dataset].shape))
    ] * REPEATS


# What is kept


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts one second in every timing's place; grows by the name of each that is taken."""
    names: list[str] = []

    def one_second(params: RunParams, level: str) -> Timing:
        names.append(timing_name(params, level))
        return Timing(1.0, 1.0)

    monkeypatch.setattr(timings, "measure", one_second)
    return names


def test_only_what_was_never_timed_is_timed_and_each_model_once(measured: list[str]) -> None:
    kept = {"cnn sbn digits e 5": Timing(0.5, 0.25), "another": Timing(0.1, 0.1)}
    keep_timings(kept)
    runs = [digits(levels="d-e"), digits(levels="d-e", seed=1), digits(levels="c-d")]
    expected = kept | {f"cnn sbn digits {level} 5": Timing(1.0, 1.0) for level in "cd"}
    assert timings_for(runs) == expected
    assert sorted(measured) == ["cnn sbn digits c 5", "cnn sbn digits d 5"]
    assert kept_timings() == expected
    assert timings_for(runs) == expected
    assert len(measured) == 2


def test_nothing_is_written_where_nothing_is_timed(data: Path, measured: list[str]) -> None:
    assert timings_for([]) == {}
    assert measured == []
    assert not data.exists()


def test_what_was_timed_is_enough_for_the_time_of_a_run() -> None:
    short, long = (digits(rounds=rounds, milestones=[], eval_every=2) for rounds in (2, 200))
    found = timings_for([short])
    seconds = [seconds_of(params, found) for params in (short, long)]
    assert seconds[0] is not None
    assert seconds[0] > 0
    assert seconds[1] == pytest.approx(100 * seconds[0], rel=1e-9)
