"""The queue takes the first missing run that fits the time left."""

from pathlib import Path
from typing import Any

import pytest

from heterofl_core import provenance, results
from heterofl_core.errors import InputError
from heterofl_core.estimate import Timing, timing_name
from heterofl_core.params import Execution, RunParams, run_params
from heterofl_core.results import PLANS, next_run, read_plan, seconds_left, to_do, work_off
from heterofl_core.settings import split_settings
from heterofl_core.status import STATES, RunStatus
from heterofl_core.studies import read_study

RUNS = tuple(run_params(dataset="digits", levels=levels, rounds=10) for levels in ("a", "b", "e"))
TIMINGS = {
    timing_name(params, params.levels): Timing(seconds, 0.0)
    for params, seconds in zip(RUNS, (1.0, 0.1, 0.01), strict=True)
}


@pytest.fixture
def done(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """States of runs by their id, which the queue believes; its plan is `RUNS`."""
    states: dict[str, str] = {}

    def status_of(params: RunParams) -> RunStatus:
        state = states.get(params.run_id, "missing")
        return RunStatus(params, state, "", 5 if state in ("stopped", "failed") else 0)

    monkeypatch.setattr(results, "status_of", status_of)
    monkeypatch.setattr(results, "timings_for", lambda _: TIMINGS)
    monkeypatch.setattr(results, "read_plan", lambda _: type("Plan", (), {"runs": RUNS}))
    return states


def test_what_nobody_did_with_todays_code_is_to_be_done() -> None:
    states = {state: to_do(RunStatus(RUNS[0], state, "", 0)) for state in STATES}
    assert {state for state, open_ in states.items() if open_} == {"missing", "stopped", "failed", "stale"}


def test_the_first_missing_run_that_fits_comes_next(done: dict[str, str]) -> None:
    whole = [seconds_left(RunStatus(params, "missing", "", 0), TIMINGS) for params in RUNS]
    assert whole[0] > whole[1] > whole[2] > 0

    def chosen(seconds: float) -> RunParams | None:
        status = next_run(RUNS, seconds, TIMINGS, set())
        return status.params if status else None

    assert chosen(whole[0]) == RUNS[0]
    assert chosen(whole[0] - 1e-9) == RUNS[1]
    assert chosen(whole[2] / 2) is None
    done[RUNS[0].run_id] = "done"
    done[RUNS[1].run_id] = "running"
    assert chosen(whole[0]) == RUNS[2]


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_run_that_has_a_checkpoint_needs_only_the_rest(state: str, done: dict[str, str]) -> None:
    whole = seconds_left(RunStatus(RUNS[0], "missing", "", 0), TIMINGS)
    done[RUNS[0].run_id] = state
    status = next_run(RUNS, whole / 2, TIMINGS, set())
    assert status is not None
    assert status.params == RUNS[0]


def test_runs_are_done_in_order_and_a_failed_one_is_left_out(
    done: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def run_notebook(values: dict[str, Any]) -> None:
        asked.append(values)
        run_id = split_settings(values)[0].run_id
        if values["levels"] == "b":
            raise InputError("broken")
        done[run_id] = "done"

    monkeypatch.setattr(results, "run_notebook", run_notebook)
    done[RUNS[2].run_id] = "stale"
    assert work_off("gpu", 10, Execution(device="cuda")) == (
        [RUNS[0].run_id, RUNS[2].run_id],
        [RUNS[1].run_id],
    )
    assert [values["levels"] for values in asked] == ["a", "b", "e"]
    assert [values["device"] for values in asked] == ["cuda"] * 3
    assert [values.get("force", False) for values in asked] == [False, False, True]
    announced = [line for line in capsys.readouterr().out.splitlines() if ": at most " in line]
    assert [line.endswith(" minutes, for a stale record") for line in announced] == [
        False,
        False,
        True,
    ]


def test_no_run_is_begun_that_the_hours_left_do_not_hold(
    done: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one worker, the first run takes an hour and a half of two; the others take more than is left."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    hours = {"a": 1.5, "b": 0.75, "e": 0.6}
    monkeypatch.setattr(
        results,
        "seconds_left",
        lambda status, timings, workers: 3600 * hours[status.params.levels] / (workers or 100),
    )
    asked: list[str] = []

    def run_notebook(values: dict[str, Any]) -> None:
        nonlocal now
        params = split_settings(values)[0]
        asked.append(params.levels)
        now += 3600 * hours[params.levels]
        done[params.run_id] = "done"

    monkeypatch.setattr(results, "run_notebook", run_notebook)
    work_off("cpu", 2, Execution(workers=1))
    assert asked == ["a"]


@pytest.mark.parametrize(
    ("instructions", "device", "left_out"),
    [("avx2", "cpu", 3), ("avx2", "cuda", 0), ("avx512f", "cpu", 0), (None, "cpu", 0)],
)
def test_runs_in_bf16_wait_for_a_processor_that_has_instructions_for_it(
    instructions: str | None,
    device: str,
    left_out: int,
    done: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_bf16 = [params.model_copy(update={"precision": "bf16"}) for params in RUNS]
    monkeypatch.setattr(results, "read_plan", lambda _: type("Plan", (), {"runs": [*RUNS, *in_bf16]}))
    monkeypatch.setattr("heterofl_core.processor.instructions", lambda: instructions)
    asked: list[str] = []
    monkeypatch.setattr(results, "run_notebook", lambda values: asked.append(values.get("precision")))
    work_off("cpu", 10, Execution(device=device))
    assert asked == [None] * 3 + ["bf16"] * (3 - left_out)
    assert (f"{left_out} runs in bf16 are left out" in capsys.readouterr().out) == (left_out > 0)


def test_a_notebook_that_does_another_run_is_a_failure_and_not_asked_again(
    done: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "run_notebook", lambda values: None)
    assert work_off("cpu", 10, Execution()) == ([], [params.run_id for params in RUNS])
    told = capsys.readouterr().out
    for params in RUNS:
        assert told.count(f"{params.run_id} failed: its notebook ended, and the run is not done") == 1


def test_code_that_changes_meanwhile_ends_the_queue_before_the_next_run(
    done: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def change(values: dict[str, Any]) -> None:
        asked.append(values["levels"])
        done[RUNS[len(asked) - 1].run_id] = "done"
        monkeypatch.setattr(provenance, "hashed", lambda modules: "another")

    monkeypatch.setattr(results, "run_notebook", change)
    with pytest.raises(InputError, match="was changed since this command began; start it again"):
        work_off("cpu", 10, Execution())
    assert asked == ["a"]


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_hours_must_be_positive(hours: float) -> None:
    with pytest.raises(InputError, match=r"hours .* is not allowed; it must be above 0"):
        work_off("cpu", hours, Execution())


def test_runs_that_are_done_are_not_redone_by_force() -> None:
    with pytest.raises(InputError, match="force True is not for results; allowed is study --force"):
        work_off("cpu", 1, Execution(force=True))


@pytest.mark.parametrize("name", ["tpu", "missing.yaml"])
def test_an_unknown_plan_is_named_with_those_that_exist(name: str) -> None:
    with pytest.raises(InputError, match=f"plan '{name}' is unknown; allowed are cpu, gpu, or a YAML file"):
        read_plan(name)


def test_settings_win_over_the_plan() -> None:
    assert {params.seed for params in read_plan("cpu", seed=7).runs} == {7}


@pytest.mark.parametrize("name", sorted(path.stem for path in PLANS.glob("*.yaml")))
def test_a_plan_is_valid_and_begins_with_the_papers_own_schedule(name: str) -> None:
    runs = read_plan(name).runs
    assert len(runs) > 100
    assert runs[0].protocol == "paper"


def test_the_gpus_plan_has_every_run_of_the_papers_tables_and_interpolations_and_ablation() -> None:
    planned = set(read_plan("gpu").runs)
    tables = ("table5", "table6", "table7", "ablation", "baselines")
    for name in (*tables, "figure2", "figure3", "figure4", "figures5and7", "figures6and8"):
        assert set(read_study(name).runs) <= planned, name
