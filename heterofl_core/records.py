"""What a run leaves behind: its record, its curve, and checkpoints while it goes on.

outputs/runs/<run_id>/record.json   settings, metrics, provenance; exists only when the run is done
outputs/runs/<run_id>/rounds.csv    one line for each evaluated round
outputs/runs/<run_id>/checkpoint.safetensors   parameters and progress; deleted when the run is done
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open

from heterofl_core.errors import InputError
from heterofl_core.files import atomic, to_disk, write_text
from heterofl_core.folders import outputs_folder

Record = Mapping[str, Any]
"""What `record.json` holds."""

RESULTS = ("metrics", "sub_models")
"""What a run found, in its record."""

MEASURED = ("seconds", "training_seconds", "evaluation_seconds", "peak_memory_mb", "finished_at")
"""What differs between two executions of one run on one machine; all else in its record is the same."""

START_ANEW = "delete it to start the run anew"
"""What to do about a checkpoint that cannot be used."""
MEND = "restore its folder from git, or delete it and run it again"
"""What to do about a record that cannot be used."""
WHILE_IT_IS_REPLACED = 0.1  # seconds


@dataclass(frozen=True)
class Metric:
    """What a run is judged by.

    Attributes:
        title: for people.
        axis: label of a figure's axis, with the unit.
        sign: +1 if more is better, -1 if less is.
        scale: on which two values are compared. A perplexity is compared by its logarithm: a tenth less is
            as much better from 4 as from 4000.
    """

    title: str
    axis: str
    sign: int
    scale: Callable[[float], float] = float

    @property
    def is_logarithmic(self) -> bool:
        """Whether values are compared by the logarithm of their ratio."""
        return self.scale is math.log

    def gain(self, value: float, other: float) -> float:
        """How much better a value is than another one: in points, or as the logarithm of their ratio."""
        return self.sign * (self.scale(value) - self.scale(other))


METRICS = {
    "global_accuracy": Metric("Global accuracy", "accuracy (%)", +1),
    "local_accuracy": Metric("Local accuracy", "accuracy (%)", +1),
    "perplexity": Metric("Perplexity", "perplexity", -1, math.log),
    "masked_perplexity": Metric("Perplexity of masked tokens", "perplexity", -1, math.log),
    "visible_perplexity": Metric("Perplexity of visible tokens", "perplexity", -1, math.log),
}
"""By the name of their column in `rounds.csv`; images have the accuracies, text the perplexities."""


def runs_folder() -> Path:
    """The folder with one folder for each run."""
    return outputs_folder() / "runs"


def record_path(run_id: str) -> Path:
    """The record of a run; it exists if and only if the run is done."""
    return runs_folder() / run_id / "record.json"


def rounds_path(run_id: str) -> Path:
    """The curve of a run."""
    return runs_folder() / run_id / "rounds.csv"


def checkpoint_path(run_id: str) -> Path:
    """The checkpoint of a run that is not done."""
    return runs_folder() / run_id / "checkpoint.safetensors"


def executed_path(run_id: str) -> Path:
    """The executed notebook of a run that is done."""
    return outputs_folder() / "notebooks" / f"{run_id}.ipynb"


def confusions_path(run_id: str) -> Path:
    """What the final model of a run takes for what; see `confusions`."""
    return outputs_folder() / "confusions" / f"{run_id}.csv"


def ensembles_path(run_id: str) -> Path:
    """How good the clients' own models of a run are together; see `ensembles`."""
    return outputs_folder() / "ensembles" / f"{run_id}.csv"


def failed_path(run_id: str) -> Path:
    """The notebook of a run that failed, with its traceback."""
    return outputs_folder() / "failed" / f"{run_id}.ipynb"


def read_progress(path: Path) -> dict[str, Any]:
    """What a checkpoint's header says: the rounds done, the rows of `rounds.csv` so far, and the code's hash.

    Raises:
        InputError: it is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata()
        progress: dict[str, Any] = json.loads(header["progress"])
        return progress | {"code_hash": header["code_hash"]}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"checkpoint {path} is damaged ({error}); {START_ANEW}") from error


def write_run(record: dict[str, Any], rounds: pd.DataFrame) -> None:
    """Writes the curve, then the record with a digest of both: a record never stands without its curve.

    An old record goes before the new curve comes, so that a run that is killed in between goes on from its
    checkpoint. What was made of the old record goes with it.
    """
    run_id, curve = record["run_id"], rounds_text(rounds)
    record = record | {name: with_null(record[name]) for name in RESULTS if name in record}
    sealed = record | {"digest": digest(record, curve)}
    with atomic(record_path(run_id)) as new_record:
        new_record.write_text(json.dumps(sealed, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        with atomic(rounds_path(run_id)) as new_curve:
            new_curve.write_text(curve, encoding="utf-8")
            to_disk(new_curve)
            for path_of in (record_path, executed_path, confusions_path, ensembles_path):
                path_of(run_id).unlink(missing_ok=True)


def with_null(found: Any) -> Any:
    """What a run found, as JSON can say it: null where a number is not finite, since the run diverged."""
    if isinstance(found, Mapping):
        return {name: with_null(part) for name, part in found.items()}
    return None if isinstance(found, float) and not math.isfinite(found) else found


def with_nan(found: Any) -> Any:
    """What a run found, as it is calculated with: NaN where the record has null."""
    if isinstance(found, Mapping):
        return {name: with_nan(part) for name, part in found.items()}
    return math.nan if found is None else found


def rounds_text(rounds: pd.DataFrame) -> str:
    """A curve as it stands in `rounds.csv`."""
    return rounds.to_csv(index=False, float_format="%.10g")


def digest(record: Mapping[str, Any], curve: str) -> str:
    """A hash of a record, without its own digest, and of its curve."""
    content = {name: value for name, value in record.items() if name != "digest"}
    text = json.dumps(content, sort_keys=True) + curve
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_record(path: Path) -> dict[str, Any]:
    """Reads one `record.json`.

    A run that is done again replaces its curve and its record, one shortly after the other: what does not fit
    together is read once more.

    Raises:
        InputError: it is damaged, or it or its curve is not what the run wrote.
    """
    try:
        return intact_record(path)
    except InputError:
        time.sleep(WHILE_IT_IS_REPLACED)
        return intact_record(path)


def intact_record(path: Path) -> dict[str, Any]:
    """Reads a record that nobody is replacing; see `read_record`."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        curve = path.with_name("rounds.csv").read_text(encoding="utf-8")
        intact = record["digest"] == digest(record, curve)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"record {path} is damaged ({error!r}); {MEND}") from error
    if not intact:
        raise InputError(f"record {path} or its rounds.csv was changed after the run; {MEND}")
    return record | {name: with_nan(record[name]) for name in RESULTS if name in record}


def engine_of_record(record: Mapping[str, Any]) -> str:
    """The engine that made a record; the first ones do not name it."""
    return str(record.get("engine", "plain"))


def machine_of_record(record: Mapping[str, Any]) -> str:
    """The machine that made a record, with its instructions; the first ones leave these out.

    All of those came from one kind of machine: `verify` found the same digits from one to the next, and a
    round in bf16 took seconds, where a processor of that name without instructions for it takes minutes.
    """
    device = str(record["device"])
    return device.replace("AMD EPYC (", "AMD EPYC with avx512_bf16 (")


def read_rounds(run_id: str) -> pd.DataFrame:
    """The curve of a run: one row for each evaluated round."""
    return pd.read_csv(rounds_path(run_id))


def metrics(rounds: pd.DataFrame) -> dict[str, float | int]:
    """For each metric of the run its value in the last round, and the best over the evaluated rounds.

    The paper's tables give the best, chosen on the test set.
    """
    values: dict[str, float | int] = {}
    for name in (name for name in METRICS if name in rounds):
        best = int((METRICS[name].sign * rounds[name]).fillna(-math.inf).to_numpy().argmax())  # NaN: diverged
        values[f"final_{name}"] = float(rounds[name].to_numpy()[-1])
        values[f"best_{name}"] = float(rounds[name].to_numpy()[best])
        values[f"best_{name}_round"] = int(rounds["round"].to_numpy()[best])
    return values


def all_records() -> list[dict[str, Any]]:
    """The records of all runs that are done, by name; without one that vanishes meanwhile, as it does when
    its run is done again.

    Raises:
        InputError: one is damaged; see `read_record`.
    """
    found = []
    for path in sorted(runs_folder().glob("*/record.json")):
        try:
            found.append(read_record(path))
        except InputError:
            if path.exists():
                raise
    return found


def recorded_run(run_id: str) -> dict[str, Any]:
    """The record of a finished run.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not record_path(run_id).exists():
        raise InputError(f"run {run_id!r} has no record in {runs_folder()}")
    return read_record(record_path(run_id))


def results_table(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each record: its settings, metrics, cost and provenance as columns."""
    rows = [
        {
            "run_id": record["run_id"],
            **record["params"],
            **record["metrics"],
            **record["cost"],
            **{
                name: value
                for name, value in record.items()
                if not isinstance(value, dict) and name not in ("run_id", "digest")
            },
        }
        for record in records
    ]
    return pd.DataFrame(rows, columns=None if rows else ["run_id"])


def collect() -> Path:
    """Writes `outputs/results.csv` from all records, and returns its path."""
    path = outputs_folder() / "results.csv"
    write_text(path, results_table(all_records()).to_csv(index=False))
    return path
