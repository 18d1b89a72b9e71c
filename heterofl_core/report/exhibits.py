"""The tables of the paper as tables of the book: each cell beside the mean of our runs. No torch."""

import functools
import html
import itertools
import math
from collections.abc import Iterable, Sequence

import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler

from heterofl_core.params import RunParams, run_params
from heterofl_core.printing import fixed, magnitude, signed
from heterofl_core.records import all_records
from heterofl_core.report import series
from heterofl_core.report.differences import holm
from heterofl_core.report.evidence import MARKS, Answer, Evidence, estimate
from heterofl_core.report.order import order
from heterofl_core.report.paper import (
    BASELINES,
    EXCERPT,
    SOURCES,
    ablation,
    defined_otherwise,
    paper_value,
    run_of_ablation,
    run_of_row,
    table,
)
from heterofl_core.report.tables import aligned, run_link, searchable, unless_empty
from heterofl_core.report.titles import dataset_title, variation
from heterofl_core.settings import command
from heterofl_core.studies import read_study

PERPLEXITIES = {"perplexity": "All", "masked_perplexity": "Masked", "visible_perplexity": "Visible"}
NETWORKS = {"cnn": "CNN", "preresnet18": "PreResNet18", "mlp": "perceptron"}
COLUMNS = ("Paper", "Ours", "Schedule", "±", "Seeds", "Difference", "Final")


@functools.cache
def all_evidence() -> Evidence:
    """All records, read once for a page."""
    return Evidence(all_records())


def results(dataset: str, partition: str, metric: str, excerpt: bool = False) -> Styler:
    """The rows of Table 5, 6 or 7 for one result column, or of their excerpts, Tables 1 to 3."""
    printed = table(dataset)
    rows = [row for row in printed.index if not excerpt or row in (*EXCERPT, *BASELINES.values())]
    described = printed.loc[rows, ["ratio", "parameters", "flops", "space_mb"]].reset_index()
    described.columns = pd.Index(["Model", "Ratio", "Parameters", "FLOPs", "Space (MB)"])
    described["Ratio"] = described["Ratio"].map("{:.2f}".format)
    described["Parameters"] = described["Parameters"].map(magnitude)
    described["FLOPs"] = described["FLOPs"].map(magnitude)
    described["Space (MB)"] = described["Space (MB)"].map("{:.2f}".format)
    asked = [run_of_row(dataset, partition, row) for row in rows]
    return beside(described, ["Model"], asked, list(map(all_evidence().answer, asked)), metric)


def in_order(dataset: str, partition: str, metric: str) -> Markdown:
    """How far the rows of `results` come out in the order of the paper's."""
    return Markdown(order(all_evidence(), dataset, partition, metric))


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
    asked = [run_of_ablation(dataset, row) for row in rows]
    answers = all_evidence().comparable(asked)
    return beside(described, described.columns, asked, answers, metric, sources=["slides"])


def beside(
    described: pd.DataFrame,
    words: Iterable[str],
    asked: Sequence[RunParams],
    answers: Sequence[Answer | None],
    metric: str,
    sources: Sequence[str] = SOURCES,
) -> Styler:
    """The paper's numbers and ours to the right of what describes the rows, in words or in numbers.

    Args:
        asked, answers: a run for each row, and what we have of it.
        sources: of the paper's numbers, see `paper.paper_value`.
    """
    rows = [
        cell(answer, run, metric, paper_value(run, metric, sources))
        for run, answer in zip(asked, answers, strict=True)
    ]
    cells = pd.DataFrame(rows, index=described.index)
    return searchable(aligned(pd.concat([described, cells], axis=1), text=[*words, "Schedule"]))


def cell(answer: Answer | None, asked: RunParams, metric: str, paper: float | None) -> dict[str, str]:
    """What the table says of one run, as HTML; `±` is half of the 95 % interval of the mean over seeds. A run
    that is shorter than the paper's, or measures something else, has no difference to its number.

    Args:
        paper: what is printed for it.
    """
    if answer is None:
        return dict.fromkeys(COLUMNS, "") | {"Paper": fixed(paper), "Ours": not_run(asked)}
    found = estimate(answer.values(metric))
    like = answer.full and not defined_otherwise(asked, metric)
    return {
        "Paper": fixed(paper),
        "Ours": linked(answer, fixed(found.mean) + MARKS[answer.state]),
        "Schedule": answer.schedule,
        "±": "" if math.isnan(found.half_width) else fixed(found.half_width),
        "Seeds": str(found.count),
        "Difference": signed(found.mean - paper) if paper is not None and like else "",
        "Final": fixed(estimate(answer.values(metric, "final")).mean),
    }


def not_run(asked: RunParams) -> str:
    """Says of a run that it is missing and, unfolded, by which command it is done; HTML."""
    return f"<details><summary>not run</summary><code>{html.escape(command(asked))}</code></details>"


def linked(answer: Answer, text: str) -> str:
    """A text that leads to the page of the first of the runs."""
    return run_link(answer.records[0]["run_id"], text)


def points(found: pd.DataFrame) -> Styler | HTML:
    """The points of ours in a figure of interpolation, one line for each pair of levels that was run.

    Args:
        found: see `series.interpolation`.
    """
    ours = found[found["whose"] == "ours"]
    wide = (
        ours.assign(Levels=ours["large"] + "–" + ours["small"])
        .pivot_table("value", "Levels", "share")
        .map(fixed)
    )
    wide.columns = pd.Index([f"{share} %" for share in wide.columns])
    return unless_empty(aligned(wide.rename_axis("Levels").reset_index(), text=["Levels"]))


def sub_models(metric: str) -> Styler | HTML:
    """What clients of each level would use, beside a federation of that level alone, after the last round;
    the caption counts them, see `counted`.
    """
    found = series.sub_models(all_evidence(), metric)
    rows = [slice_row(row) for _, row in found.iterrows()]
    table = aligned(pd.DataFrame(rows), text=["Data", "Mix", "Level", "Schedule"])
    table.set_caption(counted(found))
    return unless_empty(searchable(table))


def slices_counted(metric: str) -> str:
    """The caption of `sub_models`, for another page."""
    return counted(series.sub_models(all_evidence(), metric))


def counted(found: pd.DataFrame) -> str:
    """How many slices are worse than a federation of their level alone, and how many better, by more than
    chance; and how many of these are so when all are asked at once.

    Args:
        found: see `series.sub_models`.
    """
    worse, better = (sign * found["gain"] > found["half_width"] for sign in (-1, 1))
    told = found["chance"] <= holm(list(found["chance"].dropna()))
    beside, judged = found["alone"].count(), found["half_width"].count()
    return (
        f"{beside} slices stand beside a level alone: {worse.sum()} worse and {better.sum()} better by more "
        f"than ±, {judged - worse.sum() - better.sum()} with an interval that includes zero, and "
        f"{beside - judged} without an interval. After Holm's correction for all of them, "
        f"{(worse & told).sum()} worse and {(better & told).sum()} better remain."
    )


def slice_row(found: pd.Series) -> dict[str, str]:
    """A row of `sub_models` from one of `series.sub_models`."""
    mix, alone = found["answer"], found["level_alone"]
    return {
        "Data": f"{dataset_title(mix.params.dataset)}, {mix.params.partition}",
        "Mix": linked(mix, mix_of(mix) + MARKS[mix.state]),
        "Level": found["level"],
        "Its slice": fixed(found["sliced"]),
        "Alone": linked(alone, fixed(found["alone"]) + MARKS[alone.state]) if alone else "not run",
        "Better by": signed(found["gain"]),
        "±": "" if math.isnan(found["half_width"]) else fixed(found["half_width"]),
        "Freedom": found["basis"],
        "Seeds": str(found["seeds"]),
        "Schedule": mix.schedule,
    }


def mix_of(answer: Answer) -> str:
    """The levels of a mix, how they are assigned, and what else the runs change."""
    params = answer.params
    return ", ".join(
        filter(None, (params.levels, params.assignment, variation(params.model_dump(mode="json"))))
    )


def selections(dataset: str, partition: str, metric: str) -> Styler:
    """Static, random and rolling sub-models under one protocol."""
    asked = [
        run for run in read_study("selection").runs if (run.dataset, run.partition) == (dataset, partition)
    ]
    described = pd.DataFrame(
        [{"Levels": f"{run.levels}, {run.assignment}", "Sub-models": run.selection} for run in asked]
    )
    answers: list[Answer | None] = []
    for _, variants in itertools.groupby(asked, lambda run: (run.levels, run.assignment)):
        answers += all_evidence().comparable(list(variants))
    return beside(described, described.columns, asked, answers, metric)


def networks(dataset: str, partition: str, metric: str) -> Styler:
    """HeteroFL and the baselines with the network of HeteroFL's tables, and the baselines with theirs."""
    settings = {"dataset": dataset, "partition": partition}
    asked = [run_params(**settings, levels=levels) for levels in ("a", "a-e", "e")]
    asked += [
        run_params(**settings, levels="a", method=method, arch=arch)
        for arch in (asked[0].arch, "mlp")
        for method in BASELINES
    ]
    described = pd.DataFrame(
        [
            {
                "Method": BASELINES.get(run.method, "HeteroFL"),
                "Network": NETWORKS[run.arch],
                "Levels": run.levels,
            }
            for run in asked
        ]
    )
    return beside(described, described.columns, asked, all_evidence().comparable(asked), metric)


def perplexities() -> Styler:
    """All runs on WikiText2: the best perplexity beside the paper's, and after the last round the perplexity
    of all tokens, of the hidden and of the visible ones.
    """
    rows = [perplexity_row(one) for one in all_evidence().all_answers() if one.params.dataset == "wikitext2"]
    columns = ["Levels", "Changed", "Paper", "Best", *PERPLEXITIES.values(), "Seeds", "Schedule"]
    return searchable(aligned(pd.DataFrame(rows, columns=columns), text=["Levels", "Changed", "Schedule"]))


def perplexity_row(answer: Answer) -> dict[str, str]:
    """A row of `perplexities`."""
    best = fixed(estimate(answer.values("perplexity")).mean) + MARKS[answer.state]
    return {
        "Levels": f"{answer.params.levels}, {answer.params.assignment}",
        "Changed": variation(answer.params.model_dump(mode="json")),
        "Paper": fixed(paper_value(answer.params, "perplexity")),
        "Best": linked(answer, best),
        **{title: with_interval(answer.values(name, "final")) for name, title in PERPLEXITIES.items()},
        "Seeds": str(len(answer.records)),
        "Schedule": answer.schedule,
    }


def with_interval(values: Sequence[float]) -> str:
    """A mean, and half of its 95 % interval where there is one."""
    found = estimate(values)
    interval = "" if math.isnan(found.half_width) else f" ± {fixed(found.half_width)}"
    return fixed(found.mean) + interval
