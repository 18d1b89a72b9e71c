"""Verifying a record: its first rounds, executed again, give the same curve."""

import io
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm import tqdm

from heterofl_core.checkpoints import RunState
from heterofl_core.engines import engine_of
from heterofl_core.equivalence import certify, is_current, samples
from heterofl_core.errors import InputError
from heterofl_core.executor import backend
from heterofl_core.federation import Federation
from heterofl_core.params import Execution, RunParams
from heterofl_core.provenance import processor, provenance
from heterofl_core.records import MEASURED, all_records, read_record, read_rounds, record_path, rounds_text
from heterofl_core.runs import advance


@dataclass(frozen=True)
class Verification:
    """What executing a run again has shown.

    Attributes:
        rounds: that were executed.
        curve: what was recorded and what was found, for each of their evaluated rounds and each column;
            columns round, column, recorded, found.
        changed: what is not as it was when the record was made: name, then and now.
    """

    rounds: int
    curve: pd.DataFrame
    changed: dict[str, tuple[Any, Any]]

    @property
    def differences(self) -> pd.DataFrame:
        """The rows of `curve` that differ."""
        return self.curve[self.curve["recorded"] != self.curve["found"]]


def verify(run_id: str, rounds: int | None, execution: Execution) -> Verification:
    """Executes the first rounds of a finished run again and compares its curve, digit by digit.

    It takes the engine that the record names: two engines agree up to rounding only.

    Args:
        rounds: to execute; up to the first evaluated one unless given. Nothing is written.

    Raises:
        InputError: there is no such record, it is damaged, or no round in that range was evaluated.
    """
    if not record_path(run_id).exists():
        raise InputError(f"run {run_id!r} has no record in {record_path(run_id).parent.parent}")
    record, recorded = read_record(record_path(run_id)), read_rounds(run_id)
    first = int(recorded["round"].iloc[0])
    rounds = first if rounds is None else rounds
    if not first <= rounds <= record["rounds_done"]:
        raise InputError(
            f"rounds {rounds} is not allowed; run {run_id} allows {first} to {record['rounds_done']}"
        )
    federation = Federation(RunParams(**record["params"]))
    state = RunState(federation.initial_weights(), round=0, rows=[])
    engine = engine_of(federation.params, execution.model_copy(update={"engine": record["engine"]}))
    with backend(execution) as workers:
        for _ in tqdm(range(rounds), unit="round", desc=run_id):
            advance(federation, state, engine.processes(workers), engine)
    found = pd.read_csv(io.StringIO(rounds_text(pd.DataFrame(state.rows))))
    now = provenance()
    return Verification(
        rounds,
        side_by_side_curves(recorded[recorded["round"] <= rounds], found),
        {name: (record[name], value) for name, value in now.items() if record[name] != value},
    )


def verify_stale(execution: Execution) -> dict[str, list[str]]:
    """Compares today's code with older code that made records here, by a few of its runs; see `equivalence`.

    Returns:
        For each hash of older code the runs that differ. Where there is none, a certificate was written.
        Records of other machines are left out: there, the last digits may differ anyway.
    """
    by_code: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in all_records():
        if record["device"] == processor() and not is_current(record):
            by_code[record["code_hash"]].append(record)
    differing: dict[str, list[str]] = {}
    for then, records in by_code.items():
        compared = samples(records)
        found = {record["run_id"]: verify(record["run_id"], None, execution) for record in compared}
        differing[then] = [run_id for run_id, one in found.items() if len(one.differences)]
        if not differing[then]:
            rounds = {run_id: one.rounds for run_id, one in found.items()}
            certify(then, rounds, compared, provenance())
    return differing


def side_by_side_curves(recorded: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Two curves in long form, without what is measured."""
    kept = [name for name in recorded if name not in MEASURED]
    columns = {"recorded": recorded[kept], "found": found.reindex(columns=kept)}
    long = {name: curve.melt("round", var_name="column") for name, curve in columns.items()}
    return long["recorded"].rename(columns={"value": "recorded"}).assign(found=long["found"]["value"])
