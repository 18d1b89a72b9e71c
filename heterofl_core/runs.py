"""One run from its parameters to its record, resumed where it was interrupted."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import joblib
import pandas as pd
from tqdm import tqdm

from heterofl_core.checkpoints import RunState, load_checkpoint, save_checkpoint
from heterofl_core.clients import peak_memory_mb
from heterofl_core.federation import Federation
from heterofl_core.params import Execution, RunParams
from heterofl_core.provenance import provenance
from heterofl_core.records import METRICS, checkpoint_path, metrics, read_record, record_path, write_run

MB = 2**20


def is_done(params: RunParams) -> bool:
    """Whether the run has a record."""
    return record_path(params.run_id).exists()


def execute(federation: Federation, execution: Execution) -> dict[str, Any]:
    """Trains, evaluates and records one run; shows a progress bar with the time left.

    A finished run is not done again unless `execution.force` says so; its old record stays until the new
    one replaces it. An interrupted run goes on from its checkpoint, with the same result as if it had
    never stopped.

    Returns:
        The record.

    Raises:
        InputError: the outputs folder cannot be written, or the checkpoint cannot be used.
    """
    params = federation.params
    if is_done(params) and not execution.force:
        print(f"{params.run_id} is done already; force=True (or --force) redoes it")
        return read_record(record_path(params.run_id))
    checkpoint = checkpoint_path(params.run_id)
    if checkpoint.exists():
        state = load_checkpoint(checkpoint)
    else:
        state = RunState(federation.initial_weights(), round=0, rows=[])
        save_checkpoint(checkpoint, state)  # before any work: shows whether it can be written
    workers = execution.workers or joblib.cpu_count()
    with tqdm(total=params.rounds, initial=state.round, unit="round", desc=params.levels) as bar:
        while state.round < params.rounds:
            advance(federation, state, workers)
            if is_evaluated(params, state.round):
                save_checkpoint(checkpoint, state)
                bar.set_postfix_str(headline(state.rows[-1]))
            bar.update()
    record = make_record(federation, state, workers)
    write_run(record, pd.DataFrame(state.rows))
    checkpoint.unlink()
    return record


def headline(row: Mapping[str, Any]) -> str:
    """The first metric of an evaluated round, for the progress bar."""
    name = next(name for name in METRICS if name in row)
    return f"{METRICS[name].title.lower()} {row[name]:.2f}"


def is_evaluated(params: RunParams, round: int) -> bool:
    """Every `eval_every` rounds, at each milestone, and in the end."""
    return round % params.eval_every == 0 or round in params.milestones or round == params.rounds


def advance(federation: Federation, state: RunState, workers: int) -> None:
    """Moves the state on by one round, evaluated if its turn has come."""
    started = time.perf_counter()
    state.round += 1
    state.weights, summary = federation.run_round(state.weights, state.round, workers)
    state.bytes_down += summary.bytes_down
    state.bytes_up += summary.bytes_up
    trained = time.perf_counter()
    state.training_seconds += trained - started
    if is_evaluated(federation.params, state.round):
        found = federation.evaluate(state.weights, workers)
        state.evaluation_seconds += time.perf_counter() - trained
        state.rows.append(
            {
                "round": state.round,
                "lr": federation.learning_rate(state.round),
                "train_loss": summary.train_loss,
                **found,
                "down_mb": state.bytes_down / MB,
                "up_mb": state.bytes_up / MB,
                "training_seconds": round(state.training_seconds, 3),
                "evaluation_seconds": round(state.evaluation_seconds, 3),
            }
        )
    processes = summary.peak_memory_mb | {os.getpid(): peak_memory_mb()}
    state.peak_memory_mb = max(state.peak_memory_mb, sum(processes.values()))


def make_record(federation: Federation, state: RunState, workers: int) -> dict[str, Any]:
    """The record of a run that is done."""
    params = federation.params
    return {
        "run_id": params.run_id,
        "params": params.model_dump(mode="json"),
        "metrics": metrics(pd.DataFrame(state.rows)),
        "cost": asdict(federation.mean_cost()),
        "rounds_done": state.round,
        "seconds": round(state.training_seconds + state.evaluation_seconds, 1),
        "training_seconds": round(state.training_seconds, 1),
        "evaluation_seconds": round(state.evaluation_seconds, 1),
        "peak_memory_mb": round(state.peak_memory_mb),
        "workers": workers,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
        "status": "done",
    }
