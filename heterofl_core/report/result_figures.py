"""Figures of results, in the visual language of `figures.py`: ours filled, the paper's numbers hollow."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes as Plot
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from heterofl_core.figures import LEVEL_COLOURS
from heterofl_core.levels import LEVELS
from heterofl_core.records import METRICS
from heterofl_core.report import frequencies

DASHES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = "os^Dv"
"""What tells lines of one colour apart: every dash with the first marker, then with the next."""

STYLES = {"fix": "--", "dynamic": "-"}
HOLLOW: dict[str, Any] = {"marker": "o", "ms": 7, "mfc": "none", "ls": "none"}


def nothing_run() -> Figure:
    """In place of a figure for which there are no runs."""
    figure = Figure(figsize=(7.6, 0.6))
    plot = figure.subplots()  # without one, a notebook would show no figure
    plot.set_axis_off()
    say_not_run(plot)
    return figure


def say_not_run(plot: Plot) -> None:
    """Says so in the middle of an empty panel."""
    plot.text(0.5, 0.5, "not run", transform=plot.transAxes, ha="center", va="center", color="#767676")


def learning_curves(curves: pd.DataFrame, metric: str) -> Figure:
    """One line for each run, coloured by the largest level; lines of one colour differ in their dashes.

    A panel has the runs of one data set and partition that are equally long, those that change nothing of the
    method or those that do.

    Args:
        curves: see `run_tables.curves`.
        metric: a column of it, such as `global_accuracy`.
    """
    shown = curves[curves[metric].notna()] if metric in curves else curves.head(0)
    if shown.empty:
        return nothing_run()
    kinds = shown.assign(changed=shown["variation"] != "")
    panels = list(kinds.groupby(["dataset", "partition", "changed", "rounds"]))
    heights = [max(2.5, 0.8 + 0.17 * runs["run_id"].nunique()) for _, runs in panels]  # room for the legend
    figure = Figure(figsize=(7.6, sum(heights)))
    plots = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for plot, ((dataset, partition, changed, rounds), runs) in zip(plots, panels, strict=True):
        draw_runs(plot, runs, metric, ["levels", "assignment", "variation"])
        what = "changed, " if changed else ""
        plot.set_title(f"{dataset}, {partition}: {what}{rounds} rounds", loc="left")
        plot.set(xlabel="communication round", ylabel=METRICS[metric].axis, xlim=(0, None))
        plot.legend(
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            title="levels",
            fontsize=8,
            handlelength=3.2,
        )
        plot.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return figure


def draw_runs(plot: Plot, runs: pd.DataFrame, metric: str, told: Sequence[str]) -> None:
    """A line for each run over its rounds, in the colour of its largest level; lines of one colour differ in
    their dashes, then in their markers.

    Args:
        runs: see `run_tables.curves`.
        metric: a column of it.
        told: columns whose values name a run in the legend.
    """
    drawn: Counter[str] = Counter()
    for (*names, _), run in runs.groupby([*told, "run_id"]):
        largest = str(run["levels"].iloc[0])[0]
        marker, dash = divmod(drawn[largest], len(DASHES))
        plot.plot(
            run["round"],
            run[metric],
            color=LEVEL_COLOURS[largest],
            linestyle=DASHES[dash],
            marker=MARKERS[marker % len(MARKERS)],
            ms=3,
            label=textwrap.fill(", ".join(str(name) for name in names if name), 34),
        )
        drawn[largest] += 1


def four_panels(
    data: pd.DataFrame, metric: str, across: str
) -> tuple[Figure, list[tuple[str, Plot, pd.DataFrame]]]:
    """A figure with a panel for each larger level a to d.

    Args:
        data: whose column `large` says which panel a line is for.
        across: label of what runs from left to right.

    Returns:
        The figure, and for each panel its level, its axes and its data.
    """
    figure = Figure(figsize=(7.6, 6.0))
    plots = figure.subplots(2, 2)
    panels = []
    for large, plot in zip(LEVELS, plots.flat, strict=False):
        plot.set_title(f"larger level {large}", loc="left")
        plot.set(xlabel=across, ylabel=METRICS[metric].axis)
        panels.append((large, plot, data[data["large"] == large]))
    return figure, panels


def interpolation(points: pd.DataFrame, metric: str) -> Figure:
    """A line for each smaller level, over the share of clients that have the larger one.

    Args:
        points: see `series.interpolation`.
    """
    figure, panels = four_panels(points, metric, "clients at the larger level (%)")
    for large, plot, panel in panels:
        for small, line in panel.groupby("small"):
            ours, paper = (line[line["whose"] == whose] for whose in ("ours", "paper"))
            colour = LEVEL_COLOURS[str(small)]
            mixed = ours["share"].between(0, 100, inclusive="neither").any()
            plot.errorbar(
                ours["share"],
                ours["value"],
                ours["half_width"],
                color=colour,
                linestyle="-" if mixed else "none",  # nothing is known of what lies between two ends
                marker="o",
                ms=4,
                capsize=2,
            )
            for end, level in ((0, small), (100, large)):
                alone = paper[paper["share"] == end]
                plot.plot(alone["share"], alone["value"], color=LEVEL_COLOURS[str(level)], **HOLLOW)
            if not ours.empty:
                plot.plot([], [], color=colour, marker="o", ms=4, label=f"{large}–{small}")
        plot.plot([], [], color="#666666", label="one level alone, paper (its full schedule)", **HOLLOW)
        plot.set_xlim(-5, 105)
        if panel[panel["whose"] == "ours"].empty:
            say_not_run(plot)
        plot.legend(frameon=False, fontsize=8)
    ran = sorted(points.loc[points["whose"] == "ours", "schedule"].unique())
    if ran:
        figure.suptitle(f"schedule of ours: {'; '.join(ran)}", fontsize=10)
    return figure


def slices(points: pd.DataFrame, metric: str) -> Figure:
    """A line for each pair of levels, in the smaller one's colour and the larger one's dash, over the share
    of clients that have the larger one.

    Args:
        points: see `series.slices_by_share`.
    """
    if points.empty:
        return nothing_run()
    figure = Figure(figsize=(7.6, 3.4))
    plot = figure.subplots()
    for (large, small), line in points.groupby(["large", "small"]):
        plot.errorbar(
            line["share"],
            line["value"],
            line["half_width"],
            color=LEVEL_COLOURS[str(small)],
            linestyle=DASHES[LEVELS.index(str(large))],
            marker=MARKERS[LEVELS.index(str(large))],
            ms=4,
            capsize=2,
            label=f"slice of level {small}, others at {large}",
        )
    plot.set(xlim=(-5, 95), xlabel="clients at the larger level (%)", ylabel=METRICS[metric].axis)
    plot.set_title(f"schedule: {'; '.join(sorted(points['schedule'].unique()))}", loc="left", fontsize=10)
    plot.legend(frameon=False, fontsize=8)
    return figure


def pair_curves(curves: pd.DataFrame, metric: str) -> Figure:
    """A line for each smaller level and assignment, over the communication rounds.

    Args:
        curves: see `series.pair_curves`.
    """
    if curves.empty:
        return nothing_run()
    figure, panels = four_panels(curves, metric, "communication round")
    figure.set_figheight(7.6)  # the legends stand below their panels, where no curve is
    for large, plot, panel in panels:
        for (small, assignment, schedule), line in panel.groupby(["small", "assignment", "schedule"]):
            plot.plot(
                line["round"],
                line[metric],
                color=LEVEL_COLOURS[str(small)],
                linestyle=STYLES[str(assignment)],
                label=f"{large}–{small}, {assignment} ({schedule})",
            )
        if panel.empty:
            plot.set_axis_off()
            say_not_run(plot)
        else:
            plot.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def spendings(curves: pd.DataFrame, metric: str) -> Figure:
    """A metric over what was sent, and over the seconds of training; mixes with level e are dashed.

    Args:
        curves: see `series.spendings`.
    """
    if curves.empty:
        return nothing_run()
    figure = Figure(figsize=(7.6, 3.2))
    plots = figure.subplots(1, 2, sharey=True)
    for plot, (column, label) in zip(
        plots, {"sent_mb": "sent in all (MB)", "seconds": "training (s)"}.items(), strict=True
    ):
        for (levels, schedule), line in curves.groupby(["levels", "schedule"], sort=False):
            plot.plot(
                line[column],
                line[metric],
                color=LEVEL_COLOURS[str(levels)[0]],
                linestyle="-" if len(str(levels)) == 1 else "--",
                label=f"{levels} ({schedule})",
            )
        plot.set(xlabel=label, xscale="log")
        plain_ticks(plot.xaxis)
    plots[0].set_ylabel(METRICS[metric].axis)
    if METRICS[metric].is_logarithmic:
        plots[0].set_yscale("log")
        plain_ticks(plots[0].yaxis)
    legend_below(figure, plots[0])
    return figure


def copying(curves: pd.DataFrame) -> Figure:
    """Perplexity of hidden and of visible tokens over the communication rounds: a line for each run on
    WikiText2, in the colour of its largest level, and what word frequencies alone are worth.

    Args:
        curves: see `run_tables.curves`.
    """
    if curves.empty:
        return nothing_run()
    figure = Figure(figsize=(7.6, 3.6))
    plots = figure.subplots(1, 2)
    named = curves.assign(length=curves["rounds"].astype(str) + " rounds")
    plots[0].axhline(frequencies.OF_ALL_TEXT, color="#666666", ls=":", label="word frequencies alone")
    plots[0].axhline(frequencies.OF_HOLDERS, color="#666666", ls="-.", label="the same, as holders find them")
    for plot, metric in zip(plots, ("masked_perplexity", "visible_perplexity"), strict=True):
        draw_runs(plot, named, metric, ["levels", "variation", "length"])
        plot.set(xlabel="communication round", ylabel=METRICS[metric].axis, yscale="log")
        plot.set_title(METRICS[metric].title, loc="left", fontsize=10)
        plain_ticks(plot.yaxis)
    legend_below(figure, plots[0])
    return figure


def legend_below(figure: Figure, plot: Plot) -> None:
    """One legend for all panels, below them, of the lines of one."""
    figure.legend(
        *plot.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )


def plain_ticks(axis: Axis) -> None:
    """Few numbers on a logarithmic axis, written out."""
    low, high = axis.get_view_interval()
    decades = LogLocator(subs=(1, 3) if high < 1000 * low else (1,))
    axis.set_major_locator(MaxNLocator(4) if high < 10 * low else decades)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
