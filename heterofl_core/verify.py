"""Verifying a record: its first rounds, executed again, give the same curve, and its model costs the same."""

import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from heterofl_core.checkpoints import RunState
from heterofl_core.engines import Engine, engine_of
from heterofl_core.equivalence import (
    certificate_path,
    certify,
    covered,
    differing,
    is_current,
    leads_on,
    read_certificate,
    samples,
)
from heterofl_core.errors import InputError, MismatchError
from heterofl_core.executor import backend
from heterofl_core.federation import Federation
from heterofl_core.own import changed_files
from heterofl_core.params import Execution, RunParams
from heterofl_core.provenance import provenance
from heterofl_core.records import (
    MEASURED,
    all_records,
    engine_of_record,
    machine_of_record,
    read_rounds,
    recorded_run,
    rounds_text,
)
from heterofl_core.runs import advance

COLUMNS = ["round", "column", "recorded", "found"]


@dataclass(frozen=True)
class Verification:
    """What executing a run again has shown.

    Attributes:
        rounds: that were executed.
        curve: what was recorded and what was found, for each of their evaluated rounds and each column, and
            for the mean cost; columns round, column, recorded, found.
        changed: what is not as it was when the record was made: name, then and now.
    """

    rounds: int
    curve: pd.DataFrame
    changed: dict[str, tuple[Any, Any]]

    @property
    def differences(self) -> pd.DataFrame:
        """The rows of `curve` that differ."""
        then, now = self.curve["recorded"], self.curve["found"]
        finite = then.abs().lt(math.inf) | now.abs().lt(math.inf)  # else the run diverged, both times
        return self.curve[then.ne(now) & finite]


def verify(run_id: str, rounds: int | None, execution: Execution) -> Verification:
    """Executes the first rounds of a finished run again and compares its curve and its cost, digit by digit;
    after the last round the slices of the final model, too.

    It takes the engine that the record names: two engines agree up to rounding only.

    Args:
        rounds: to execute; up to the first evaluated one unless given. Nothing is written.

    Raises:
        InputError: there is no such record, it is damaged, or no round in that range was evaluated.
    """
    record, recorded = recorded_run(run_id), read_rounds(run_id)
    first = int(recorded["round"].iloc[0])
    rounds = first if rounds is None else rounds
    if not first <= rounds <= record["rounds_done"]:
        raise InputError(
            f"rounds {rounds} is not allowed; run {run_id} allows {first} to {record['rounds_done']}"
        )
    with again(record, rounds, execution) as (federation, state, workers, engine):
        curve = [
            side_by_side_curves(recorded[recorded["round"] <= rounds], curve_of(state)),
            side_by_side_cost(rounds, record["cost"], asdict(federation.mean_cost())),
        ]
        if rounds == record["rounds_done"] and "sub_models" in record:
            now = federation.evaluate_sub_models(state.weights, workers, engine)
            curve.append(side_by_side_slices(rounds, record["sub_models"], now))
    return Verification(rounds, pd.concat(curve, ignore_index=True), changed_since(record))


def changed_since(record: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What of a record's provenance is otherwise now: name, then and now."""
    here = provenance() | ({"device": gpu()} if device_of_record(record) == "cuda" else {})
    there = {**record, "device": machine_of_record(record)}
    changed = {name: (there[name], value) for name, value in here.items() if there[name] != value}
    others = changed_files(record)
    return changed | ({"own": (f"other {', '.join(others)}", "those here")} if others else {})


@contextmanager
def again(
    record: Mapping[str, Any], rounds: int, execution: Execution
) -> Iterator[tuple[Federation, RunState, int, Engine]]:
    """Executes the first rounds of a finished run again, by the engine that its record names; nothing is
    written.

    Yields:
        The federation, what it has learned, and the workers and the engine, which can judge it.
    """
    federation = Federation(RunParams(**record["params"]))
    state = RunState(federation.initial_weights(), round=0, rows=[])
    execution = execution.model_copy(
        update={"engine": engine_of_record(record), "device": device_of_record(record)}
    )
    engine = engine_of(federation.params, execution)
    with backend(execution) as workers:
        processes = engine.processes(workers)
        for _ in tqdm(range(rounds), unit="round", desc=federation.params.run_id):
            advance(federation, state, processes, engine)
        yield federation, state, processes, engine


def device_of_record(record: Mapping[str, Any]) -> str:
    """The device on which a run is to be executed again: this machine's GPU if it is such a one as before."""
    return "cuda" if record["device"] == gpu() else "cpu"


def gpu() -> str | None:
    """The name of this machine's GPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def check_end(record: Mapping[str, Any], accuracy: float) -> None:
    """Raises a `MismatchError` unless a run that was executed again, to its end, has the Global accuracy of
    its record, in percent.
    """
    recorded = record["metrics"]["final_global_accuracy"]
    if abs(accuracy - recorded) > 1e-6:
        raise MismatchError(
            f"run {record['run_id']} ends with {accuracy} % today; its record says {recorded} %"
        )


@dataclass(frozen=True)
class Finding:
    """What one comparison of older code with today's gave.

    Attributes:
        run_id, rounds: that were compared.
        differences: numbers that were not the same.
        hindrance: why the run could not be executed; empty if it could.
    """

    run_id: str
    rounds: int
    differences: int
    hindrance: str = ""


def verify_stale(execution: Execution) -> Iterator[Finding]:
    """Compares today's code with older code that made records, by a few of its runs; see `equivalence`.

    A comparison is kept as soon as it is done. Left out are records of another machine or other versions,
    whose last digits may differ anyway, and those of somebody's own data or model, which may have changed.

    Raises:
        InputError: a number differed before; the message names the certificate.
    """
    by_code: dict[str, list[dict[str, Any]]] = defaultdict(list)
    here = provenance()
    for record in all_records():
        if is_comparable(record, here) and "own" not in record:
            by_code[record["code_hash"]].append(record)
    for then in sorted(by_code, key=lambda code: not leads_on(code)):
        records = [record for record in by_code[then] if not is_current(record)]
        if not records:
            continue
        path = certificate_path(then)
        if before := differing(read_certificate(path)):
            raise InputError(
                f"certificate {path} has a difference in run {before[0]}; delete it to compare anew"
            )
        for sample, rounds in samples(records, covered(path)):
            try:
                differences = len(verify(sample["run_id"], rounds, execution).differences)
            except InputError as error:  # the others may be executed
                yield Finding(sample["run_id"], rounds, 0, str(error))
                continue
            certify((sample, rounds), differences)
            yield Finding(sample["run_id"], rounds, differences)
            if differences:
                break  # nothing can be certified any more


def is_comparable(record: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether a run's machine and versions are those that `provenance` names here, so that the same code
    gives the same digits.
    """
    alike = machine_of_record(record) in (here["device"], gpu())
    return alike and bool(record["versions"] == here["versions"])


def left_stale() -> Counter[str]:
    """How many records of each machine are stale and cannot be compared here."""
    here = provenance()
    elsewhere = (record for record in all_records() if not is_comparable(record, here))
    return Counter(machine_of_record(record) for record in elsewhere if not is_current(record))


def curve_of(state: RunState) -> pd.DataFrame:
    """The curve so far, with the digits that `rounds.csv` has."""
    return pd.read_csv(io.StringIO(rounds_text(pd.DataFrame(state.rows))))


def side_by_side_curves(recorded: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Two curves in long form, without what is measured."""
    kept = [name for name in recorded if name not in MEASURED]
    columns = {"recorded": recorded[kept], "found": found.reindex(columns=kept)}
    long = {name: curve.melt("round", var_name="column") for name, curve in columns.items()}
    return long["recorded"].rename(columns={"value": "recorded"}).assign(found=long["found"]["value"])


def side_by_side_cost(round: int, recorded: Mapping[str, float], found: Mapping[str, float]) -> pd.DataFrame:
    """Two mean costs in the same form; see `cost.Cost`."""
    rows = [(round, f"{name} of a client", value, found.get(name)) for name, value in recorded.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


Slices = Mapping[str, Mapping[str, float]]
"""Metrics of each level's slice; see `Federation.evaluate_sub_models`."""


def side_by_side_slices(round: int, recorded: Slices, found: Slices) -> pd.DataFrame:
    """The slices of two final models in the same form."""
    rows = [
        (round, f"{metric} of slice {level}", value, found.get(level, {}).get(metric))
        for level, metrics in recorded.items()
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
