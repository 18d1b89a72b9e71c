"""The numbers that the paper printed, by the settings that they belong to. Nothing here needs torch."""

import functools
from collections.abc import Sequence

import pandas as pd

from heterofl_core.folders import PARAMS
from heterofl_core.params import RunParams, run_params
from heterofl_core.records import METRICS
from heterofl_core.report.evidence import question

TABLES = {
    "mnist": "table5_mnist.csv",
    "cifar10": "table6_cifar10.csv",
    "wikitext2": "table7_wikitext2.csv",
}
CELLS = {
    ("iid", "global_accuracy"): "iid_global_accuracy",
    ("non-iid-2", "local_accuracy"): "noniid_local_accuracy",
    ("non-iid-2", "global_accuracy"): "noniid_global_accuracy",
    ("iid", "perplexity"): "iid_global_perplexity",
}
"""The result columns of Tables 5 to 7."""

EXCERPT = ("a", "a-e", "a-b-c-d-e", "b", "b-e", "b-c-d-e", "c", "c-e", "c-d-e", "d", "d-e", "e")
"""The rows of Tables 1 to 3, beside the baselines."""

BASELINES = {"standalone": "Standalone", "fedavg": "FedAvg", "lg-fedavg": "LG-FedAvg"}
"""What the tables call the baselines, whose model is the multilayer perceptron."""

ABLATION_CELLS = {"local_accuracy": "local", "global_accuracy": "global"}

SOURCES = ("tables", "slides")
"""Where results are printed: Tables 5 to 7, and the slides' Table 2. Where both print a cell, they differ."""


@functools.cache
def table(dataset: str) -> pd.DataFrame:
    """Table 5, 6 or 7 as printed, by model."""
    return pd.read_csv(PARAMS / "paper" / TABLES[dataset]).set_index("model")


@functools.cache
def ablation() -> pd.DataFrame:
    """The slides' Table 2 as printed."""
    return pd.read_csv(PARAMS / "paper" / "ablation_noniid.csv")


def run_of_row(dataset: str, partition: str, row: str) -> RunParams:
    """The run of a row of Tables 5 to 7."""
    for method, name in BASELINES.items():
        if row == name:
            return run_params(dataset=dataset, partition=partition, levels="a", method=method, arch="mlp")
    return run_params(dataset=dataset, partition=partition, levels=row)


def run_of_ablation(dataset: str, row: "pd.Series[str]") -> RunParams:
    """The run of a row of the slides' Table 2."""
    scaler = {} if row["scaler"] == "na" else {"scaler": row["scaler"] == "yes"}
    return run_params(
        dataset=dataset,
        partition="non-iid-2",
        levels=row["model"],
        norm=row["norm"],
        masked_loss="zero" if row["masked_ce"] == "yes" else "none",
        **scaler,
    )


@functools.cache
def printed_cells(source: str) -> dict[tuple[str, str], float]:
    """Every result that one of `SOURCES` prints, by the question that it answers and the metric."""
    cells: dict[tuple[str, str], float] = {}
    if source == "slides":
        for dataset in ("mnist", "cifar10"):
            for _, row in ablation().iterrows():
                asked = question(run_of_ablation(dataset, row))
                for metric, part in ABLATION_CELLS.items():
                    cells[asked, metric] = float(row[f"{dataset}_{part}"])
        return cells
    for dataset in TABLES:
        for (partition, metric), column in CELLS.items():
            if column in table(dataset):
                for name, value in table(dataset)[column].items():
                    cells[question(run_of_row(dataset, partition, str(name))), metric] = float(value)
    return cells


def paper_value(params: RunParams, metric: str, sources: Sequence[str] = SOURCES) -> float | None:
    """What the paper printed for a run's settings, whatever the run's schedule; None if nothing.

    Args:
        sources: the first one that prints it counts.
    """
    values = (printed_cells(source).get((question(params), metric)) for source in sources)
    return next((value for value in values if value is not None), None)


def defined_otherwise(params: RunParams, metric: str) -> bool:
    """Whether a printed number is not of what we measure: Standalone's Global accuracy is that of a mean of
    parameters, ours that of the mean of predicted probabilities.
    """
    return (params.method, metric) == ("standalone", "global_accuracy")


def paper_gain(better: RunParams, worse: RunParams, metric: str) -> float | None:
    """How much better one result is than another in a table that prints both; None if there is none, or if
    one of them is defined otherwise than ours.
    """
    if any(defined_otherwise(params, metric) for params in (better, worse)):
        return None
    for source in SOURCES:
        first, second = (paper_value(params, metric, [source]) for params in (better, worse))
        if first is not None and second is not None:
            return METRICS[metric].gain(first, second)
    return None


def printed_twice() -> pd.DataFrame:
    """The results that Tables 5 and 6 print, and the slides for the same settings: how well the paper repeats
    itself, in percent.
    """
    rows = [
        {"dataset": dataset, "levels": row["model"], "metric": metric} | values
        for dataset in ("mnist", "cifar10")
        for _, row in ablation().iterrows()
        for metric in ABLATION_CELLS
        if None not in (values := both(run_of_ablation(dataset, row), metric)).values()
    ]
    return pd.DataFrame(rows)


def both(params: RunParams, metric: str) -> dict[str, float | None]:
    """A result as each of `SOURCES` prints it."""
    return {source: paper_value(params, metric, [source]) for source in SOURCES}
