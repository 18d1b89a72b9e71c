"""What can be said of a run from what lies in the outputs folder."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from heterofl_core.estimate import Timing, timing_name, work_of
from heterofl_core.files import write_text
from heterofl_core.locks import locked
from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import (
    checkpoint_path,
    failed_path,
    read_progress,
    record_path,
    rounds_path,
    write_run,
)
from heterofl_core.status import STATES, RunStatus, status_of, summary, time_left

PARAMS = run_params(dataset="digits", levels="e", rounds=40)
RUN = PARAMS.run_id


def write_record(**changes: Any) -> None:
    """A record of the run, with as little as its status needs."""
    write_run({"run_id": RUN, "code_hash": code_hash(), **changes}, pd.DataFrame({"round": [40]}))


def write_checkpoint(rounds: int, code: str = "") -> None:
    """A checkpoint after some rounds."""
    header = {"progress": json.dumps({"round": rounds, "rows": []}), "code_hash": code or code_hash()}
    checkpoint_path(RUN).parent.mkdir(parents=True, exist_ok=True)
    save_file({"shared/w": np.zeros(2)}, checkpoint_path(RUN), metadata=header)


def write_failed(outputs_of_last_cell: list[dict[str, Any]]) -> None:
    """An executed notebook that failed."""
    cells = [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs_of_last_cell}]
    write_text(failed_path(RUN), json.dumps({"cells": cells}))


def found() -> tuple[str, str]:
    """State and detail of the run."""
    seen = status_of(PARAMS)
    assert seen.state in STATES
    return seen.state, seen.detail


def test_a_run_without_any_file_is_missing(outputs: Path) -> None:
    assert found() == ("missing", "")
    assert not outputs.exists()


def test_a_record_of_todays_code_is_done(outputs: Path) -> None:
    write_record()
    assert found() == ("done", "")


def test_a_checkpoint_of_other_code_cannot_go_on(outputs: Path) -> None:
    write_checkpoint(7, code="0123456789abcdef")
    state, detail = found()
    assert state == "failed"
    assert detail.endswith("was written by other code; delete it to start the run anew")


def test_a_record_of_other_code_is_stale(outputs: Path) -> None:
    write_record(code_hash="0123456789abcdef")
    assert found() == ("stale", "made by code 0123456789abcdef")
    assert status_of(PARAMS).share_left == 1


@pytest.mark.parametrize(("code", "left"), [("today", 1 / 4), ("0123456789abcdef", 1)])
def test_a_redo_of_a_stale_run_goes_on_from_its_checkpoint(outputs: Path, code: str, left: float) -> None:
    write_record(code_hash="0123456789abcdef")
    write_checkpoint(30, code=code_hash() if code == "today" else code)
    assert found()[0] == "stale"
    assert status_of(PARAMS).share_left == left


@pytest.mark.parametrize("path", [record_path, rounds_path])
def test_a_record_or_curve_that_was_edited_is_damaged_and_stays_as_it_is(outputs: Path, path: Any) -> None:
    write_record(metrics={"best_global_accuracy": 40.0})
    edited = path(RUN).read_text().replace("40", "99")
    path(RUN).write_text(edited)
    state, detail = found()
    assert state == "damaged"
    assert str(record_path(RUN)) in detail
    assert path(RUN).read_text() == edited


def test_a_checkpoint_alone_is_a_run_that_was_stopped(outputs: Path) -> None:
    write_checkpoint(30)
    assert found() == ("stopped", "30 of 40 rounds")
    assert status_of(PARAMS).rounds_done == 30


def test_a_truncated_checkpoint_is_named_and_left(outputs: Path) -> None:
    write_checkpoint(30)
    checkpoint_path(RUN).write_bytes(checkpoint_path(RUN).read_bytes()[:-4])
    state, detail = found()
    assert state == "failed"
    assert f"checkpoint {checkpoint_path(RUN)} is damaged" in detail
    assert checkpoint_path(RUN).exists()


def test_a_run_whose_lock_is_held_is_running(outputs: Path) -> None:
    write_checkpoint(10)
    with locked(RUN):
        assert found() == ("running", "10 of 40 rounds")
    assert found() == ("stopped", "10 of 40 rounds")


def test_a_run_whose_notebook_is_being_started_is_running(outputs: Path) -> None:
    with locked(f"{RUN}.ipynb"):
        assert found()[0] == "running"
    assert found()[0] == "missing"


def test_a_run_that_is_redone_is_running_although_it_has_a_record(outputs: Path) -> None:
    write_record()
    with locked(RUN):
        assert found()[0] == "running"


def test_a_failed_notebook_is_named_with_its_error(outputs: Path) -> None:
    write_failed([{"output_type": "stream"}, {"output_type": "error", "ename": "InputError", "evalue": "no"}])
    assert found() == ("failed", f"InputError: no ({failed_path(RUN)})")


def test_a_run_that_went_on_after_its_notebook_failed_was_stopped(outputs: Path) -> None:
    write_checkpoint(10)
    os.utime(checkpoint_path(RUN), ns=(1, 1))
    write_failed([{"output_type": "error", "ename": "InputError", "evalue": "no"}])
    assert found()[0] == "failed"
    write_checkpoint(20)
    os.utime(failed_path(RUN), ns=(1, 1))
    assert found() == ("stopped", "20 of 40 rounds")


def test_a_failed_notebook_without_an_error_is_one_whose_kernel_was_killed(outputs: Path) -> None:
    write_failed([{"output_type": "stream"}])
    assert found() == ("failed", f"the kernel was killed ({failed_path(RUN)})")


def test_a_record_counts_more_than_an_earlier_failure(outputs: Path) -> None:
    write_failed([])
    write_record()
    assert found() == ("done", "")


def test_a_done_run_with_the_damaged_checkpoint_of_a_redo_is_done(outputs: Path) -> None:
    write_record()
    checkpoint_path(RUN).write_bytes(b"cut")
    assert found() == ("done", "")


def test_a_checkpoint_that_vanishes_while_one_looks_is_no_failure(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends just then: its record is there, its checkpoint is gone."""
    write_checkpoint(39)

    def read(path: Path) -> dict[str, Any]:
        write_record()
        path.unlink()
        return read_progress(path)

    monkeypatch.setattr("heterofl_core.status.read_progress", read)
    assert found() == ("done", "")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"cells": [{"outputs": [{}]}]}'])
def test_a_failed_notebook_that_is_damaged_itself_is_named(outputs: Path, content: str) -> None:
    write_text(failed_path(RUN), content)
    state, detail = found()
    assert state == "failed"
    assert detail.startswith("its notebook is damaged: ")


MODEL = timing_name(PARAMS, "e")
TIMINGS = {MODEL: Timing(step_seconds=0.5, forward_seconds=0.25)}


def statuses(*pairs: tuple[str, int]) -> list[RunStatus]:
    """Runs in these states after so many rounds."""
    return [RunStatus(PARAMS, state, "", rounds) for state, rounds in pairs]


def test_time_left_is_that_of_the_rounds_that_open_runs_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    work = work_of(PARAMS)
    whole = (work.steps * 0.5 + work.evaluated * 0.25) / 2
    left = time_left(statuses(("missing", 0), ("stopped", 30), ("done", 40), ("stale", 40)), TIMINGS)
    assert left == f"{1.25 * whole / 3600:.1f} hours left"


def test_less_than_an_hour_is_given_in_minutes_and_nothing_is_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step takes so long that all of them, on two cores, take twenty minutes."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    quick = {MODEL: Timing(2 * 20 * 60 / work_of(PARAMS).steps, 0.0)}
    assert time_left(statuses(("missing", 0)), quick) == "20 minutes left"
    assert time_left(statuses(("done", 40)), quick) == "nothing left"


def test_time_left_is_unknown_on_a_machine_that_was_never_timed() -> None:
    assert time_left(statuses(("missing", 0)), {}).startswith("time left unknown")
    assert time_left(statuses(("done", 40)), {}) == "nothing left"


def test_time_left_is_unknown_where_somebodys_own_data_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path))
    own = RunStatus(run_params(dataset="own-mine", levels="e"), "missing", "", 0)
    assert time_left([own], {}).startswith("time left unknown: dataset 'own-mine' is not in ")


def test_the_summary_counts_the_states_in_their_order() -> None:
    line = summary("table5", statuses(("missing", 0), ("done", 40), ("missing", 0)), TIMINGS)
    assert line.startswith("table5: 3 runs: 1 done, 2 missing; ")
