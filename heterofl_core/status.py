"""How far the runs of a study are: done, running, failed, missing; nothing here needs torch."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from heterofl_core.equivalence import is_current
from heterofl_core.errors import InputError
from heterofl_core.estimate import Timings, seconds_of
from heterofl_core.locks import is_locked
from heterofl_core.own import changed_files
from heterofl_core.params import RunParams
from heterofl_core.provenance import code_hash
from heterofl_core.records import (
    START_ANEW,
    checkpoint_path,
    executed_path,
    failed_path,
    read_progress,
    read_record,
    record_path,
)

STATES = {
    "done": "has a record of today's code, or of code that is certified to give the same",
    "stale": "has a record of other code or of other files, which may give something else",
    "damaged": "has a record that was changed or cut short; counts as done until a person decides",
    "running": "a process executes it now",
    "failed": "ended with an error, as its notebook shows, or has a checkpoint that cannot be used",
    "stopped": "was interrupted, and goes on from its checkpoint",
    "missing": "was never started",
}
"""What can be said of a run, in the order of a report."""


@dataclass(frozen=True)
class RunStatus:
    """How far one run is.

    Attributes:
        params: of the run.
        state: one of `STATES`.
        detail: what a person wants to know beside it: the rounds done, or what is wrong; may be empty.
        rounds_done: of `params.rounds`; of a stale run those from which a redo that was interrupted goes on.
    """

    params: RunParams
    state: str
    detail: str
    rounds_done: int

    @property
    def is_open(self) -> bool:
        """Whether the run still has to be done."""
        return self.state in ("running", "failed", "stopped", "missing")

    @property
    def share_left(self) -> float:
        """The share of its rounds that the run lacks, or that a stale one still takes to be redone."""
        return 1 - self.rounds_done / self.params.rounds


def status_of(params: RunParams) -> RunStatus:
    """How far a run is, from what lies in the outputs folder.

    Raises:
        InputError: a certificate cannot be used; see `equivalence.is_current`.
    """
    run_id, rounds_done, damage = params.run_id, 0, ""
    if checkpoint_path(run_id).exists():
        try:
            progress = read_progress(checkpoint_path(run_id))
            rounds_done = progress["round"]
            if progress["code_hash"] != code_hash():
                damage = f"checkpoint {checkpoint_path(run_id)} was written by other code; {START_ANEW}"
        except InputError as error:
            damage = str(error)
    detail = f"{rounds_done} of {params.rounds} rounds"
    if is_locked(run_id) or is_locked(executed_path(run_id).name):  # papermill's kernel may only be starting
        return RunStatus(params, "running", detail, rounds_done)
    if record_path(run_id).exists():
        return recorded(params, 0 if damage else rounds_done)
    if damage:
        return RunStatus(params, "failed", damage, 0)
    if failed_last(run_id):
        return RunStatus(params, "failed", f"{failure(run_id)} ({failed_path(run_id)})", rounds_done)
    if checkpoint_path(run_id).exists():
        return RunStatus(params, "stopped", detail, rounds_done)
    return RunStatus(params, "missing", "", 0)


def failed_last(run_id: str) -> bool:
    """Whether a notebook failed, and the run did not go on without it."""
    failed, checkpoint = failed_path(run_id), checkpoint_path(run_id)
    return failed.exists() and not (
        checkpoint.exists() and checkpoint.stat().st_mtime_ns > failed.stat().st_mtime_ns
    )


def recorded(params: RunParams, redone: int) -> RunStatus:
    """The status of a run that has a record.

    Args:
        redone: rounds of the checkpoint from which a redo would go on.
    """
    try:
        record = read_record(record_path(params.run_id))
    except InputError as error:
        return RunStatus(params, "damaged", str(error), params.rounds)
    if is_current(record):
        return RunStatus(params, "done", "", params.rounds)
    others = " and ".join(changed_files(record))
    made = f"made from another {others}" if others else f"made by code {record['code_hash']}"
    return RunStatus(params, "stale", made, redone)


def failure(run_id: str) -> str:
    """What the traceback in a failed notebook ends with."""
    try:
        notebook: dict[str, Any] = json.loads(failed_path(run_id).read_text(encoding="utf-8"))
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        errors = [output for output in outputs if output["output_type"] == "error"]
        return f"{errors[0]['ename']}: {errors[0]['evalue']}" if errors else "the kernel was killed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its notebook is damaged: {error!r}"


def summary(name: str, statuses: Sequence[RunStatus], timings: Timings) -> str:
    """One line for a study: how many runs are in which state, and the time left on this machine."""
    counts = Counter(status.state for status in statuses)
    found = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{name}: {len(statuses)} runs: {found}; {time_left(statuses, timings)}"


def time_left(statuses: Iterable[RunStatus], timings: Timings) -> str:
    """The time that the open runs still need on this machine, if it has been timed."""
    seconds = 0.0
    for status in statuses:
        if status.is_open:
            try:
                whole = seconds_of(status.params, timings)
            except InputError as error:
                return f"time left unknown: {error}"
            if whole is None:
                return "time left unknown (`python -m heterofl_core list STUDY` times this machine)"
            seconds += whole * status.share_left
    if not seconds:
        return "nothing left"
    return f"{seconds / 3600:.1f} hours left" if seconds > 3600 else f"{seconds / 60:.0f} minutes left"
