"""Tables of the report: what the paper printed, what the records hold, and how they differ.

Nothing here needs torch, and nothing is computed that is not in `outputs/` or `params/paper/`.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from heterofl_core.folders import PARAMS
from heterofl_core.levels import Mix
from heterofl_core.params import RunParams, planned_schedule
from heterofl_core.provenance import code_hash
from heterofl_core.records import METRIC_NAMES, all_records, executed_path, read_rounds, results_table

PAPER_CELLS = {
    ("iid", "global_accuracy"): "iid_global_accuracy",
    ("non-iid-2", "local_accuracy"): "noniid_local_accuracy",
    ("non-iid-2", "global_accuracy"): "noniid_global_accuracy",
}
"""The accuracy columns of Tables 5 and 6."""

PAPER_SETTINGS = {
    "method": "heterofl",
    "arch": "cnn",
    "norm": "sbn",
    "scaler": True,
    "masked_loss": "zero",
    "num_clients": 100,
    "participation": 0.1,
}
"""What a run must have in common with the paper's, beside its schedule, to stand beside its cell."""

SETTINGS = ["run_id", "dataset", "partition", "levels", "assignment", "protocol", "rounds", "seed"]
"""What tells the runs of the report apart."""

COLUMNS = {
    "dataset": "Data",
    "partition": "Partition",
    "levels": "Levels",
    "schedule": "Schedule",
    "seed": "Seed",
    "metric": "Accuracy",
    "paper": "Paper",
    "best": "Best",
    "final": "Final",
    "difference": "Best − paper",
    "state": "Code",
}
"""What `table_of_runs` shows, and under which heading; accuracies in percent."""


def results() -> pd.DataFrame:
    """All finished runs, one row each; see `records.results_table`."""
    return results_table(all_records())


def paper_accuracies() -> pd.DataFrame:
    """The accuracies of Tables 5 and 6: columns dataset, partition, levels, metric, paper (percent)."""
    tables = []
    for dataset, file in (("mnist", "table5_mnist.csv"), ("cifar10", "table6_cifar10.csv")):
        printed = pd.read_csv(PARAMS / "paper" / file)
        tables += [
            pd.DataFrame(
                {
                    "dataset": dataset,
                    "partition": partition,
                    "levels": printed["model"],
                    "metric": metric,
                    "paper": printed[column],
                }
            )
            for (partition, metric), column in PAPER_CELLS.items()
        ]
    return pd.concat(tables, ignore_index=True)


def is_papers_setting(run: "pd.Series[Any]") -> bool:
    """Whether a run differs from the paper's in its schedule and seed at most."""
    papers_assignment = "fix" if len(Mix.parse(run["levels"]).levels) == 1 else "dynamic"
    return run["assignment"] == papers_assignment and all(
        run[name] == value for name, value in PAPER_SETTINGS.items()
    )


def state(run: "pd.Series[Any]") -> str:
    """Whether a run's record belongs to the code as it is now."""
    if run["code_hash"] != code_hash():
        return "stale"
    return "uncommitted" if run["git_dirty"] else "current"


def beside_paper(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each run and accuracy that the paper's tables have for its partition.

    Args:
        runs: rows of `results`.

    Returns:
        The run's settings, `metric`, `best`, `final`, `paper`, `difference` (best - paper) and `state`;
        `paper` and `difference` are missing where the paper has no such cell.
    """
    rows = [
        {
            **run[SETTINGS],
            "metric": metric,
            "best": run[f"best_{metric}"],
            "final": run[f"final_{metric}"],
            "state": state(run),
            "comparable": is_papers_setting(run),
        }
        for _, run in runs.iterrows()
        for partition, metric in PAPER_CELLS
        if run["partition"] == partition
    ]
    columns = [*SETTINGS, "metric", "best", "final", "state", "comparable"]
    table = pd.DataFrame(rows, columns=columns).merge(
        paper_accuracies(), how="left", on=["dataset", "partition", "levels", "metric"]
    )
    table["paper"] = table["paper"].where(table.pop("comparable").astype(bool))
    table["difference"] = table["best"] - table["paper"]
    order = ["dataset", "partition", "levels", "metric", "protocol", "rounds", "seed"]
    return table.sort_values(order, ascending=[False, *[True] * 6], ignore_index=True)


def table_of_runs(runs: pd.DataFrame) -> Styler:
    """`beside_paper` for people: each run leads to its page, if it has one."""
    table = beside_paper(runs)
    table["metric"] = table["metric"].map(METRIC_NAMES).str.removesuffix(" accuracy")
    table["schedule"] = table["protocol"] + ", " + table["rounds"].astype(str) + " rounds"
    described = table["levels"] + ", " + table["assignment"]
    table["levels"] = [
        f'<a href="../executed/{run_id}.html">{levels}</a>' if executed_path(run_id).exists() else levels
        for run_id, levels in zip(table["run_id"], described, strict=True)
    ]
    numbers: list[Hashable] = [COLUMNS[name] for name in ("seed", "paper", "best", "final", "difference")]
    return (
        table[list(COLUMNS)]
        .rename(columns=COLUMNS)
        .style.hide(axis="index")
        .format(precision=2, na_rep="–")
        .format("{:+.2f}", subset=["Best − paper"], na_rep="–")
        .set_properties(subset=numbers, **{"text-align": "right", "font-variant-numeric": "tabular-nums"})
        .set_table_attributes('class="dataframe"')  # as the theme styles tables, light and dark
    )


def curves(runs: pd.DataFrame) -> pd.DataFrame:
    """The evaluated rounds of several runs, one below the other, with each run's settings.

    Args:
        runs: rows of `results`.
    """
    tables = [
        read_rounds(run["run_id"]).assign(**{name: run[name] for name in SETTINGS})
        for _, run in runs.iterrows()
    ]
    return pd.concat(tables or [pd.DataFrame(columns=SETTINGS)], ignore_index=True)


def schedules() -> pd.DataFrame:
    """The schedules of `params/schedules.yaml`: Table 4 of the paper, and ours for digits."""
    columns = {}
    for dataset in ("mnist", "digits"):
        for partition in ("iid", "non-iid-2"):
            plan = planned_schedule({"dataset": dataset, "partition": partition})
            columns[f"{dataset}, {partition}"] = plan
    return pd.DataFrame(columns)


def settings_of(params: RunParams) -> pd.DataFrame:
    """All parameters of a run, one row each."""
    return pd.Series(params.model_dump(mode="json"), name=params.run_id).astype(str).to_frame()


def accuracies_of(record: Mapping[str, Any]) -> pd.DataFrame:
    """The accuracies of one run: the best over its evaluated rounds, and the last round's."""
    metrics = record["metrics"]
    rows = {
        name: {
            "best (%)": f"{metrics[f'best_{metric}']:.2f}",
            "in round": metrics[f"best_{metric}_round"],
            "final (%)": f"{metrics[f'final_{metric}']:.2f}",
        }
        for metric, name in METRIC_NAMES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def how_it_ran(record: Mapping[str, Any]) -> str:
    """Run id, time and machine of one run, as text of a few lines."""
    return (
        f"run {record['run_id']}\n"
        f"{record['rounds_done']} rounds in {record['seconds']} s: training {record['training_seconds']} s, "
        f"evaluation {record['evaluation_seconds']} s\n"
        f"{record['workers']} workers on {record['device']}, up to {record['peak_memory_mb']} MB of memory\n"
        f"code {record['code_hash']}, commit {str(record['git_commit'])[:12]}"
        f"{' with uncommitted changes' if record['git_dirty'] else ''}"
    )


def title_of(params: Mapping[str, Any]) -> str:
    """A title for the page of one run."""
    names = {"digits": "Digits", "mnist": "MNIST"}
    seed = f", seed {params['seed']}" if params["seed"] else ""
    return (
        f"{names[params['dataset']]}, {params['partition'].replace('iid', 'IID')}, "
        f"levels {params['levels']} ({params['assignment']}), {params['rounds']} rounds{seed}"
    )
