"""What a run leaves behind: its record, its curve, and checkpoints while it goes on.

outputs/runs/<run_id>/record.json   settings, metrics, provenance; exists only when the run is done
outputs/runs/<run_id>/rounds.csv    one line for each evaluated round
outputs/runs/<run_id>/checkpoint.safetensors   parameters and progress; deleted when the run is done
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from heterofl_core.errors import InputError
from heterofl_core.files import atomic, write_text
from heterofl_core.folders import outputs_folder


@dataclass(frozen=True)
class Metric:
    """What a run is judged by.

    Attributes:
        title: for people.
        axis: label of a figure's axis, with the unit.
        sign: +1 if more is better, -1 if less is.
    """

    title: str
    axis: str
    sign: int


METRICS = {
    "global_accuracy": Metric("Global accuracy", "accuracy (%)", +1),
    "local_accuracy": Metric("Local accuracy", "accuracy (%)", +1),
    "perplexity": Metric("Perplexity", "perplexity", -1),
    "masked_perplexity": Metric("Perplexity of masked tokens", "perplexity", -1),
    "visible_perplexity": Metric("Perplexity of visible tokens", "perplexity", -1),
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


def failed_path(run_id: str) -> Path:
    """The notebook of a run that failed, with its traceback."""
    return outputs_folder() / "failed" / f"{run_id}.ipynb"


def write_run(record: dict[str, Any], rounds: pd.DataFrame) -> None:
    """Writes the curve, then the record, so that a record never stands without its curve."""
    with atomic(rounds_path(record["run_id"])) as temporary:
        rounds.to_csv(temporary, index=False, float_format="%.10g")
    write_text(record_path(record["run_id"]), json.dumps(record, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Reads one `record.json`.

    Raises:
        InputError: it is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["run_id"], record["params"], record["metrics"], record["cost"]  # what every reader needs
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"record {path} is damaged ({error!r}); delete its folder and run it again"
        ) from error
    return record


def read_rounds(run_id: str) -> pd.DataFrame:
    """The curve of a run: one row for each evaluated round."""
    return pd.read_csv(rounds_path(run_id))


def metrics(rounds: pd.DataFrame) -> dict[str, float | int]:
    """For each metric of the run its value in the last round, and the best over the evaluated rounds.

    The paper's tables give the best, chosen on the test set.
    """
    values: dict[str, float | int] = {}
    for name in (name for name in METRICS if name in rounds):
        best = int((METRICS[name].sign * rounds[name].to_numpy()).argmax())
        values[f"final_{name}"] = float(rounds[name].to_numpy()[-1])
        values[f"best_{name}"] = float(rounds[name].to_numpy()[best])
        values[f"best_{name}_round"] = int(rounds["round"].to_numpy()[best])
    return values


def all_records() -> list[dict[str, Any]]:
    """The records of all runs that are done, by name."""
    return [read_record(path) for path in sorted(runs_folder().glob("*/record.json"))]


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
                if not isinstance(value, dict) and name != "run_id"
            },
        }
        for record in records
    ]
    return pd.DataFrame(rows, columns=None if rows else ["run_id"])


def collect() -> Path:
    """Writes `outputs/results.csv` from all records, and returns its path."""
    path = outputs_folder() / "results.csv"
    with atomic(path) as temporary:
        results_table(all_records()).to_csv(temporary, index=False)
    return path
