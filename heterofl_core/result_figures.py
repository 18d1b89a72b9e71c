"""Figures of results, in the visual language of `figures.py`: ours filled, the paper's numbers hollow."""

import pandas as pd
from matplotlib.axes import Axes as Plot
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heterofl_core.figures import LEVEL_COLOURS
from heterofl_core.levels import LEVELS
from heterofl_core.records import METRICS

STYLES = {"fix": "--", "dynamic": "-"}


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
    plots = figure.subplots(2, 2, sharex=True)
    panels = []
    for large, plot in zip(LEVELS, plots.flat, strict=False):
        plot.set_title(f"larger level {large}", loc="left")
        plot.set_ylabel(METRICS[metric].axis)
        panels.append((large, plot, data[data["large"] == large]))
    for plot in plots[-1]:
        plot.set_xlabel(across)
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
            plot.errorbar(
                ours["share"],
                ours["value"],
                ours["half_width"],
                color=colour,
                marker="o",
                ms=4,
                capsize=2,
            )
            plot.plot(paper["share"], paper["value"], color=colour, marker="o", ms=7, mfc="none", ls="none")
            plot.plot([], [], color=colour, marker="o", ms=4, label=f"{large}–{small}")
        if panel[panel["whose"] == "ours"].empty:
            not_run(plot)
        plot.legend(frameon=False, fontsize=8)
    return figure


def pair_curves(curves: pd.DataFrame, metric: str) -> Figure:
    """A line for each smaller level and assignment, over the communication rounds.

    Args:
        curves: see `series.learning_curves`.
    """
    figure, panels = four_panels(curves, metric, "communication round")
    for large, plot, panel in panels:
        for (small, assignment), line in panel.groupby(["small", "assignment"]):
            plot.plot(
                line["round"],
                line[metric],
                color=LEVEL_COLOURS[str(small)],
                linestyle=STYLES[str(assignment)],
                label=f"{large}–{small}, {assignment}",
            )
        if panel.empty:
            not_run(plot)
        else:
            plot.legend(frameon=False, fontsize=8)
        plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def not_run(plot: Plot) -> None:
    """Says so in the middle of an empty panel."""
    plot.text(0.5, 0.5, "not run", transform=plot.transAxes, ha="center", va="center", color="#767676")


def spendings(curves: pd.DataFrame, metric: str) -> Figure:
    """A metric over what was sent, and over the seconds of training; mixes with level e are dashed.

    Args:
        curves: see `series.spendings`.
    """
    figure = Figure(figsize=(7.6, 3.2))
    plots = figure.subplots(1, 2, sharey=True)
    for plot, (column, label) in zip(
        plots, {"sent_mb": "sent in all (MB)", "seconds": "training (s)"}.items(), strict=True
    ):
        for levels, line in curves.groupby("levels", sort=False):
            plot.plot(
                line[column],
                line[metric],
                color=LEVEL_COLOURS[str(levels)[0]],
                linestyle="-" if len(str(levels)) == 1 else "--",
                label=levels,
            )
        if curves.empty:
            not_run(plot)
        else:
            plot.set_xscale("log")
        plot.set_xlabel(label)
    plots[0].set_ylabel(METRICS[metric].axis)
    if not curves.empty:
        plots[1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="levels", fontsize=8)
    return figure
