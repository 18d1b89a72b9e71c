"""One run from its parameters to its record, resumed where it was interrupted."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from heterofl_core.checkpoints import RunState, load_checkpoint, save_checkpoint
from heterofl_core.clients import peak_memory_mb
from heterofl_core.engines import Engine, engine_of
from heterofl_core.errors import InputError
from heterofl_core.executor import backend
from heterofl_core.federation import Federation
from heterofl_core.files import sweep
from heterofl_core.locks import locked
from heterofl_core.own import changed_files
from heterofl_core.params import Execution, RunParams
from heterofl_core.provenance import processor, provenance
from heterofl_core.records import (
    METRICS,
    START_ANEW,
    checkpoint_path,
    metrics,
    read_record,
    record_path,
    rounds_path,
    write_run,
)

MB = 2**20


def is_done(params: RunParams) -> bool:
    """Whether the run has a record."""
    return record_path(params.run_id).exists()


def execute(federation: Federation, execution: Execution) -> dict[str, Any]:
    """Trains, evaluates and records one run; shows a progress bar with the time left.

    A finished run is not done again unless `execution.force` says so; its old record stays until the new
    one replaces it. An interrupted run goes on from its checkpoint, with the same result as if it had
    never stopped. If another process executes the same run, this one waits for its record.

    Returns:
        The record.

    Raises:
        InputError: the outputs folder cannot be written, the record is damaged, the checkpoint cannot be
            used, the engine is not possible (see `engine_of`), or the backend cannot be had.
    """
    run_id = federation.params.run_id
    with locked(run_id):
        drop_outlived(checkpoint_path(run_id), record_path(run_id))
        if is_done(federation.params) and not execution.force:
            record = read_record(record_path(run_id))
            before = "".join(f", with another {name}" for name in changed_files(record))
            print(f"{run_id} is done already{before}; force=True (or --force) redoes it")
            return record
        for path in (checkpoint_path(run_id), rounds_path(run_id), record_path(run_id)):
            sweep(path)
        engine = engine_of(federation.params, execution)
        with backend(execution) as workers:
            return carry_on(federation, execution, engine.processes(workers), engine)


def drop_outlived(checkpoint: Path, record: Path) -> None:
    """Removes the checkpoint of a run that was killed between its record and the end."""
    if checkpoint.exists() and record.exists() and checkpoint.stat().st_mtime < record.stat().st_mtime:
        checkpoint.unlink()


def carry_on(federation: Federation, execution: Execution, workers: int, engine: Engine) -> dict[str, Any]:
    """Does the rounds that are left, and records the run."""
    params = federation.params
    checkpoint = checkpoint_path(params.run_id)
    state = start(federation, checkpoint, engine)
    with tqdm(total=params.rounds, initial=state.round, unit="round", desc=params.levels) as bar:
        while state.round < params.rounds:
            advance(federation, state, workers, engine)
            evaluated = params.is_evaluated(state.round)
            if evaluated or state.round % execution.checkpoint_every == 0:
                save_checkpoint(checkpoint, state)
            if evaluated:
                bar.set_postfix_str(headline(state.rows[-1]))
            bar.update()
    started = time.perf_counter()
    sub_models = federation.evaluate_sub_models(state.weights, workers, engine)
    state.evaluation_seconds += time.perf_counter() - started
    record = make_record(federation, state, engine) | {
        "sub_models": sub_models,
        "backend": execution.backend,
        "workers": workers,
    }
    write_run(record, pd.DataFrame(state.rows))
    checkpoint.unlink()
    return record


def start(federation: Federation, checkpoint: Path, engine: Engine) -> RunState:
    """The state to go on from: the checkpoint's, or that of a new run.

    Raises:
        InputError: the checkpoint cannot be used, or another engine or device, other versions or other files
            made it.
    """
    origin = {
        "engine": engine.name,
        "device": engine.device,
        **provenance()["versions"],
        **federation.own,
    }
    if checkpoint.exists():
        state = load_checkpoint(checkpoint)
        for name in {**origin, **state.origin}:
            then, now = state.origin.get(name), origin.get(name)
            if then != now:
                raise InputError(
                    f"checkpoint {checkpoint} was written with {name} {then}, and now it is {now}; go on as "
                    f"before, or {START_ANEW}"
                )
        state.machines = list(dict.fromkeys([*state.machines, machine(engine)]))
        return state
    state = RunState(
        federation.initial_weights(), round=0, rows=[], origin=origin, machines=[machine(engine)]
    )
    save_checkpoint(checkpoint, state)  # before any work: shows whether it can be written
    return state


def headline(row: Mapping[str, Any]) -> str:
    """The first metric of an evaluated round, for the progress bar."""
    name = next(name for name in METRICS if name in row)
    return f"{METRICS[name].title.lower()} {row[name]:.2f}"


def advance(federation: Federation, state: RunState, workers: int, engine: Engine) -> None:
    """Moves the state on by one round, evaluated if its turn has come."""
    started = time.perf_counter()
    state.round += 1
    state.weights, summary = federation.run_round(state.weights, state.round, workers, engine)
    state.bytes_down += summary.bytes_down
    state.bytes_up += summary.bytes_up
    trained = time.perf_counter()
    state.training_seconds += trained - started
    if federation.params.is_evaluated(state.round):
        found = federation.evaluate(state.weights, workers, engine)
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


def make_record(federation: Federation, state: RunState, engine: Engine) -> dict[str, Any]:
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
        "threads_per_worker": 1,
        "engine": engine.name,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
        "device": " and ".join(state.machines),
        **({"own": federation.own} if federation.own else {}),
        "status": "done",
    }


def machine(engine: Engine) -> str:
    """The name of the processor or of the GPU that executes the clients."""
    return torch.cuda.get_device_name() if engine.device == "cuda" else processor()
