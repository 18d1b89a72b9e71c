"""The tables of the paper as tables of the book: each cell beside the mean of our runs. No torch."""

import functools
import html
import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from heterofl_core import series
from heterofl_core.evidence import MARKS, Answer, Evidence, estimate
from heterofl_core.paper import (
    BASELINES,
    EXCERPT,
    ablation,
    paper_value,
    run_of_ablation,
    run_of_row,
    table,
)
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS, all_records
from heterofl_core.report import variation
from heterofl_core.series import PAIRS
from heterofl_core.settings import command
from heterofl_core.studies import read_study
from heterofl_core.tables import aligned, magnitude, run_link, searchable, signed

DECIMALS = 2
COLUMNS = ("Paper", "Ours", "±", "Seeds", "Difference", "Schedule")


@functools.cache
def all_evidence() -> Evidence:
    """All records, read once for a page."""
    return Evidence(all_records())


def results(dataset: str, partition: str, metric: str, excerpt: bool = False) -> Styler:
    """The rows of Table 5, 6 or 7 for one result column, or of their excerpts, Tables 1 to 3."""
    printed = table(dataset)
    rows = [row for row in printed.index if not excerpt or row in (*EXCERPT, *BASELINES.values())]
    described = printed.loc[rows, ["ratio", "parameters", "space_mb"]].reset_index()
    described.columns = pd.Index(["Model", "Ratio", "Parameters", "Space (MB)"])
    described["Ratio"] = described["Ratio"].map("{:.2f}".format)
    described["Parameters"] = described["Parameters"].map(magnitude)
    described["Space (MB)"] = described["Space (MB)"].map("{:.2f}".format)
    return beside(described, ["Model"], [run_of_row(dataset, partition, row) for row in rows], metric)


def ablations(dataset: str, metric: str) -> Styler:
    """The slides' Table 2 for one data set and metric."""
    rows = [row for _, row in ablation().iterrows()]
    described = pd.DataFrame(
        {
            "Model": [row["model"] for row in rows],
            "Norm": [row["norm"] for row in rows],
            "Scaler": [{"na": "–", "yes": "on", "no": "off"}[row["scaler"]] for row in rows],
            "Masked loss": [{"yes": "on", "no": "off"}[row["masked_ce"]] for row in rows],
        }
    )
    return beside(described, described.columns, [run_of_ablation(dataset, row) for row in rows], metric)


def runs(asked: Sequence[tuple[Mapping[str, str], RunParams]], metric: str) -> Styler:
    """A table of any runs.

    Args:
        asked: what the first columns say of each run, and the run.
    """
    described = pd.DataFrame([words for words, _ in asked])
    return beside(described, described.columns, [run for _, run in asked], metric)


def beside(described: pd.DataFrame, words: Iterable[str], asked: Iterable[RunParams], metric: str) -> Styler:
    """The paper's numbers and ours to the right of what describes the rows, in words or in numbers."""
    evidence = all_evidence()
    cells = pd.DataFrame([cell(evidence.answer(run), run, metric) for run in asked], index=described.index)
    return searchable(aligned(pd.concat([described, cells], axis=1), text=[*words, "Schedule"]))


def cell(answer: Answer | None, asked: RunParams, metric: str) -> dict[str, str]:
    """What the table says of one run, as HTML; `±` is half of the 95 % interval of the mean over seeds."""
    paper = paper_value(asked, metric)
    printed = "–" if paper is None else f"{paper:.{DECIMALS}f}"
    if answer is None:
        how = f"<details><summary>not run</summary><code>{html.escape(command(asked))}</code></details>"
        return dict.fromkeys(COLUMNS, "") | {"Paper": printed, "Ours": how}
    found = estimate(answer.values(metric))
    return {
        "Paper": printed,
        "Ours": linked(answer, f"{found.mean:.{DECIMALS}f}{MARKS[answer.state]}"),
        "±": "" if math.isnan(found.half_width) else f"{found.half_width:.{DECIMALS}f}",
        "Seeds": str(found.count),
        "Difference": "" if paper is None else signed(found.mean - paper),
        "Schedule": answer.schedule,
    }


def linked(answer: Answer, text: str) -> str:
    """A text that leads to the page of the first of the runs."""
    return run_link(answer.records[0]["run_id"], text)


def points(found: pd.DataFrame) -> Styler:
    """The points of ours in a figure of interpolation, one line for each pair of levels.

    Args:
        found: see `series.interpolation`.
    """
    ours = found[found["whose"] == "ours"]
    pairs = [f"{large}–{small}" for large, small in PAIRS]
    wide = (
        ours.assign(Levels=ours["large"] + "–" + ours["small"])
        .pivot_table("value", "Levels", "share")
        .reindex(index=pairs, columns=range(0, 101, 10))
        .map(lambda value: f"{value:.{DECIMALS}f}", na_action="ignore")
        .fillna("–")
    )
    wide.columns = pd.Index([f"{share} %" for share in wide.columns])
    return aligned(wide.rename_axis("Levels").reset_index(), text=["Levels"])


def sub_models(metric: str) -> Styler:
    """What clients of each level would use, beside a federation of that level alone, after the last round."""
    found = series.sub_models(all_evidence(), all_records(), metric)
    number = f"{{:.{DECIMALS}f}}".format
    gain = (found["sliced"] - found["alone"].astype(float)) * METRICS[metric].sign
    table = pd.DataFrame(
        {
            "Data": found["dataset"] + ", " + found["partition"],
            "Mix": found["mix"] + ", " + found["assignment"],
            "Level": found["level"],
            "Its slice": found["sliced"].map(number),
            "Alone": [("not run" if pd.isna(value) else number(value)) for value in found["alone"]],
            "Better by": [("–" if pd.isna(value) else signed(value)) for value in gain],
            "Schedule": found["schedule"],
        }
    )
    return searchable(aligned(table, text=["Data", "Mix", "Level", "Schedule"]))


def selections(dataset: str, partition: str, metric: str) -> Styler:
    """Static, random and rolling sub-models under one protocol."""
    asked = [
        ({"Levels": f"{run.levels}, {run.assignment}", "Sub-models": run.selection}, run)
        for run in read_study("selection").runs
        if (run.dataset, run.partition) == (dataset, partition)
    ]
    return runs(asked, metric)


def perplexities() -> Styler:
    """All runs on WikiText2, with the perplexity of all tokens, of the hidden and of the visible ones."""
    names = ("perplexity", "masked_perplexity", "visible_perplexity")
    rows = [
        {
            "Levels": linked(answer, f"{answer.params.levels}, {answer.params.assignment}"),
            "Changed": variation(answer.params.model_dump(mode="json")),
            **{METRICS[name].title: with_interval(answer.values(name)) for name in names},
            "Seeds": str(len(answer.records)),
            "Schedule": answer.schedule,
        }
        for answer in all_evidence().all_answers()
        if answer.params.dataset == "wikitext2"
    ]
    columns = ["Levels", "Changed", *(METRICS[name].title for name in names), "Seeds", "Schedule"]
    return searchable(aligned(pd.DataFrame(rows, columns=columns), text=["Levels", "Changed", "Schedule"]))


def with_interval(values: Sequence[float]) -> str:
    """A mean, and half of its 95 % interval where there is one."""
    found = estimate(values)
    interval = "" if math.isnan(found.half_width) else f" ± {found.half_width:.{DECIMALS}f}"
    return f"{found.mean:.{DECIMALS}f}{interval}"
