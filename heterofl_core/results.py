"""Turning machine hours into records: the first missing run of a plan that fits the time left, then the next.

A plan in `params/plans/` is a study whose order matters: what tells most per machine hour comes first.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.estimate import Timings, seconds_of
from heterofl_core.folders import PARAMS
from heterofl_core.notebooks import run_notebook
from heterofl_core.params import Execution, RunParams
from heterofl_core.processor import lacks_instructions, processor
from heterofl_core.provenance import check_unchanged
from heterofl_core.settings import telling
from heterofl_core.status import RunStatus, status_of
from heterofl_core.studies import Study, read_study
from heterofl_core.timings import timings_for

PLANS = PARAMS / "plans"
HOUR = 3600.0  # seconds


def read_plan(name: str, /, **changes: Any) -> Study:
    """A plan by its name, or by the path of its file; for `changes` see `read_study`.

    Raises:
        InputError: there is no such plan, or one of its runs is not valid.
    """
    path = Path(name) if name.endswith(".yaml") else PLANS / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(path.stem for path in PLANS.glob("*.yaml")))
        raise InputError(f"plan {name!r} is unknown; allowed are {known}, or a YAML file")
    return read_study(str(path), **changes)


def to_do(status: RunStatus) -> bool:
    """Whether nobody has done the run with today's code, or is about to; a stale record is replaced."""
    return status.state in ("missing", "stopped", "failed", "stale")


def seconds_left(status: RunStatus, timings: Timings, workers: int | None = None) -> float:
    """What the run still takes on this machine, at most: by the plain loop, from its checkpoint on.

    Args:
        workers: processes of the run; None for as many as there are cores.
    """
    return (seconds_of(status.params, timings, workers) or 0.0) * status.share_left


def next_run(
    runs: Sequence[RunParams],
    seconds: float,
    timings: Timings,
    failed: Collection[str],
    workers: int | None = None,
) -> RunStatus | None:
    """The first run of a plan that is to be done and fits the time; None if there is none.

    Args:
        seconds: that are left.
        failed: ids of runs that failed before; they are left out.
        workers: see `seconds_left`.
    """
    for params in runs:
        if params.run_id not in failed:
            status = status_of(params)
            if to_do(status) and seconds_left(status, timings, workers) <= seconds:
                return status
    return None


def work_off(plan: str, hours: float, execution: Execution, /, **changes: Any) -> tuple[list[str], list[str]]:
    """Does runs of a plan through papermill until the time is over or nothing is left that fits.

    It may be stopped at any moment: the run goes on from its checkpoint the next time.

    Args:
        plan: its name.
        hours: a run that would take longer than what is left of them, on the processor, is not started.
        execution: of each run.
        changes: parameters that win over the plan's in every run.

    Returns:
        Ids of the runs that were done, and of those that failed.

    Raises:
        InputError: there is no such plan, one of its runs is not valid, hours are not positive, runs that
            are done are to be done again, or the code was changed meanwhile: each run's process would read it
            as it is then, and this one would take the record for stale.
    """
    if not hours > 0:
        raise InputError(f"hours {hours} is not allowed; it must be above 0")
    if execution.force:
        raise InputError("force True is not for results; allowed is study --force")
    workers = execution.workers
    planned, end = read_plan(plan, **changes).runs, time.monotonic() + hours * HOUR
    runs = [params for params in planned if not lacks_instructions(params.precision, execution.device)]
    if left_out := len(planned) - len(runs):
        print(
            f"{left_out} runs in bf16 are left out, since {processor()} has no instructions for it; "
            "-p precision=fp32 does them all in fp32",
            flush=True,
        )
    timings = timings_for(runs)
    done: list[str] = []
    failed: list[str] = []
    while status := next_run(runs, end - time.monotonic(), timings, failed, workers):
        check_unchanged()
        params = status.params
        minutes = seconds_left(status, timings, workers) / 60
        anew = ", for a stale record" if status.state == "stale" else ""
        print(f"{params.run_id}: at most {minutes:.0f} minutes{anew}", flush=True)
        try:
            how = execution.model_copy(update={"force": status.state == "stale"})
            run_notebook(telling(params) | how.model_dump(exclude_defaults=True))
            if to_do(status_of(params)):
                raise InputError("its notebook ended, and the run is not done")
            done.append(params.run_id)
        except InputError as error:  # the next run may work
            print(f"{params.run_id} failed: {error}", flush=True)
            failed.append(params.run_id)
    return done, failed
