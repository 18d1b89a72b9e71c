"""Tables of the report: what the paper printed, what the records hold, and how they differ.

Nothing here needs torch, and nothing is computed that is not in `outputs/` or `params/paper/`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

from heterofl_core.levels import Mix
from heterofl_core.params import RunParams
from heterofl_core.printing import fixed
from heterofl_core.records import (
    METRICS,
    all_records,
    engine_of_record,
    machine_of_record,
    read_rounds,
    results_table,
)
from heterofl_core.report.evidence import Evidence, state
from heterofl_core.report.paper import CELLS, defined_otherwise, paper_value
from heterofl_core.report.tables import aligned, printed, run_link, searchable, unless_empty
from heterofl_core.report.titles import length, title_of, variation
from heterofl_core.status import STATES

SETTINGS = [
    *("run_id", "dataset", "partition", "levels", "assignment"),
    *("protocol", "rounds", "precision", "seed"),
]
"""What tells the runs of the report apart, beside what they change of the method."""

COLUMNS = {
    "dataset": "Data",
    "levels": "Levels",
    "variation": "Changed",
    "schedule": "Schedule",
    "seed": "Seed",
    "metric": "Metric",
    "paper": "Paper",
    "best": "Best",
    "final": "Final",
    "difference": "Best − paper",
    "state": "Code",
}
"""What `table_of_runs` shows, and under which heading; accuracies in percent."""


def results(records: Sequence[Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """Finished runs, all unless given, one row each: `records.results_table` and the `state` of the code."""
    found = all_records() if records is None else records
    # What an old record lacks is the default; left out, it would make floats of the others' whole numbers.
    whole = [
        {**record, "params": RunParams.model_validate(record["params"]).model_dump(mode="json")}
        for record in found
    ]
    return results_table(whole).assign(state=[state(record) for record in found])


def each_run(runs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of `results`, one by one."""
    for row in runs.to_dict("records"):
        yield {str(name): value for name, value in row.items()}


def beside_paper(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each run and metric: those that the paper's tables have for the partition, or all that
    there are for partitions that the paper does not use.

    Args:
        runs: rows of `results`.

    Returns:
        The run's settings, `variation`, `metric`, `best`, `final`, `paper`, `difference` (best - paper) and
        `state`; `paper` and `difference` are missing where the paper has no such cell, the difference also
        where the run has another schedule, or the printed number another definition.
    """
    papers_partitions = {partition for partition, _ in CELLS}
    rows = [
        {
            **{name: run[name] for name in SETTINGS},
            "variation": variation(run),
            "metric": metric,
            "best": run[f"best_{metric}"],
            "final": run[f"final_{metric}"],
            "state": run["state"],
            "paper": paper_value(params_of(run), metric),
            "like": run["protocol"] == "paper" and not defined_otherwise(params_of(run), metric),
        }
        for run in each_run(runs)
        for metric in METRICS
        if (run["partition"], metric) in CELLS or run["partition"] not in papers_partitions
        if ("perplexity" in metric) == (run["dataset"] == "wikitext2")
    ]
    columns = [*SETTINGS, "variation", "metric", "best", "final", "state", "paper", "like"]
    table = pd.DataFrame(rows, columns=columns).astype({"paper": float, "like": bool})
    table["difference"] = (table["best"] - table["paper"]).where(table.pop("like"))
    order = ["dataset", "partition", "variation", "levels", "metric", "protocol", "rounds", "seed"]
    return table.sort_values(order, ignore_index=True)


def params_of(run: Mapping[str, Any]) -> RunParams:
    """The parameters of a row of `results`; NaN there is None."""
    return RunParams(
        **{name: run[name] for name in RunParams.model_fields if name in run and run[name] == run[name]}
    )


def table_of_runs(runs: pd.DataFrame) -> Styler:
    """`beside_paper` for people: each run leads to its page."""
    table = beside_paper(runs)
    table["metric"] = table["metric"].map({name: metric.title for name, metric in METRICS.items()})
    table["dataset"] += ", " + table["partition"]
    table["schedule"] = [f"{run['protocol']}, {length(run)}" for run in each_run(table)]
    described = table["levels"] + ", " + table["assignment"]
    table["levels"] = [
        run_link(run_id, levels) for run_id, levels in zip(table["run_id"], described, strict=True)
    ]
    numbers = ("seed", "paper", "best", "final", "difference")
    text = [title for name, title in COLUMNS.items() if name not in numbers]
    shown = searchable(aligned(table[list(COLUMNS)].rename(columns=COLUMNS), text))
    return shown.format(precision=2, na_rep="–").format("{:+.2f}", subset=["Best − paper"], na_rep="–")


def curves(runs: pd.DataFrame) -> pd.DataFrame:
    """The evaluated rounds of several runs, one below the other, with each run's settings.

    Args:
        runs: rows of `results`.
    """
    tables = [
        read_rounds(run["run_id"]).assign(**{name: run[name] for name in SETTINGS}, variation=variation(run))
        for run in each_run(runs)
    ]
    return pd.concat(tables or [pd.DataFrame(columns=[*SETTINGS, "variation"])], ignore_index=True)


def first_curves() -> pd.DataFrame:
    """The curve of one run for each setting and schedule, the first of its seeds; see `curves`.

    Mixes whose clients keep their levels are left out: Figures 2 to 11 show those, a hundred of them.
    """
    answers = Evidence(all_records()).all_answers()
    kept = [one for one in answers if one.params.assignment != "fix" or "-" not in one.params.levels]
    return curves(results([answer.records[0] for answer in kept]))


def settings_of(params: RunParams) -> pd.DataFrame:
    """All parameters of a run, one row each."""
    values = {name: str(value) for name, value in params.model_dump(mode="json").items()}
    return pd.Series(values, name=params.run_id).to_frame()


def metrics_of(record: Mapping[str, Any]) -> pd.DataFrame:
    """The metrics of one run: the best over its evaluated rounds, and the last round's."""
    found = record["metrics"]
    rows = {
        metric.title: {
            "best": fixed(found[f"best_{name}"]),
            "in round": found[f"best_{name}_round"],
            "final": fixed(found[f"final_{name}"]),
        }
        for name, metric in METRICS.items()
        if f"best_{name}" in found
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def sub_models_of(record: Mapping[str, Any]) -> pd.DataFrame:
    """The metrics of each level's slice of the final global model; the largest level's is that itself."""
    largest = Mix.parse(record["params"]["levels"]).largest
    whole = {
        name: record["metrics"][f"final_{name}"] for name in METRICS if f"final_{name}" in record["metrics"]
    }
    rows = {
        level: {METRICS[name].title: fixed(value) for name, value in found.items()}
        for level, found in ({largest: whole} | record["sub_models"]).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("level")


def costs(runs: pd.DataFrame) -> Styler | HTML:
    """What each recorded run took, the longest first."""
    rows: list[dict[str, Any]] = [
        {
            "run": title_of(run),
            "minutes": run["seconds"] / 60,
            "of it evaluation": run["evaluation_seconds"] / 60,
            "seconds a round": run["training_seconds"] / run["rounds_done"],
            "memory (MB)": run["peak_memory_mb"],
            "processes": run["workers"],
            "on": machine_of_record(run),
        }
        for run in each_run(runs)
    ]
    rows.sort(key=lambda row: -row["minutes"])
    return unless_empty(printed(pd.DataFrame(rows)).format(precision=1))


def states() -> Styler:
    """What the states of a run mean that `status` prints."""
    return printed(pd.DataFrame({"state": list(STATES), "the run …": list(STATES.values())}))


def how_it_ran(record: Mapping[str, Any]) -> str:
    """Run id, time and machine of one run, as text of a few lines."""
    return (
        f"run {record['run_id']}\n"
        f"{record['rounds_done']} rounds in {record['seconds']} s: training {record['training_seconds']} s, "
        f"evaluation {record['evaluation_seconds']} s\n"
        f"{record['workers']} workers on {machine_of_record(record)}, engine {engine_of_record(record)}, "
        f"up to {record['peak_memory_mb']} MB of memory\n"
        f"code {record['code_hash']}, commit {str(record['git_commit'])[:12]}"
        f"{' with uncommitted changes' if record['git_dirty'] else ''}"
    )
