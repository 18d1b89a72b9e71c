"""Figures of the study, in one visual language: a colour for each level a to e throughout.

Nothing here needs torch. Each function returns a figure made without pyplot, which a notebook's cell
then shows once.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes as Plot
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heterofl_core.levels import LEVELS, width_rate
from heterofl_core.partition import Partition, make_partition
from heterofl_core.randomness import generator
from heterofl_core.records import METRICS
from heterofl_core.selection import Axis, random_index, rolling_index, static_index

LEVEL_COLOURS = dict(zip(LEVELS, ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7"), strict=True))
"""Okabe and Ito's colours, told apart with any colour vision."""

METRIC_COLOURS = {
    "global_accuracy": "#000000",
    "local_accuracy": "#56B4E9",
    "perplexity": "#000000",
    "masked_perplexity": "#56B4E9",
    "visible_perplexity": "#999999",
}

matplotlib.rcParams.update(
    {
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
        "svg.fonttype": "path",  # looks the same wherever the page is read
        "svg.hashsalt": "heterofl",  # the same figure is the same file
    }
)


def held_by(levels: str, width: int) -> np.ndarray:
    """For each coordinate of a width×width weight, how many models of these levels hold it.

    The count follows the indices that training uses; the largest level given is the global model.
    """
    outputs, inputs = Axis("outputs", width), Axis("inputs", width)
    count = np.zeros((width, width), dtype=int)
    for level in levels:
        index = static_index({"weight": (outputs, inputs)}, width_rate(level) / width_rate(levels[0]))
        count[np.ix_(index["outputs"], index["inputs"])] += 1
    return count


def nested_slices() -> Figure:
    """The sub-models of a 32×32 weight, and over how many clients each coordinate is averaged.

    Left: the blocks of levels a to e, each inside the next larger one. Right: six clients at levels a, a,
    b, b, c, c, as in Figure 1 of the paper.
    """
    width = 32
    figure = Figure(figsize=(7.6, 3.7))
    left, right = figure.subplots(1, 2)
    smallest = held_by(LEVELS, width) - 1  # position of the smallest level that holds the coordinate
    left.imshow(smallest, cmap=ListedColormap(list(LEVEL_COLOURS.values())), vmin=0, vmax=4)
    left.set_title("Held by level")
    for level in LEVELS:
        edge = width * width_rate(level)
        left.text(edge - 0.9, 0.1, level, ha="right", va="top", color="white", weight="bold", size=9)
    clients = held_by("aabbcc", width)
    image = right.imshow(clients, cmap="Blues", vmin=0, vmax=8)
    right.set_title("Mean over how many of 6 clients")
    for count in np.unique(clients):
        rows, columns = np.nonzero(clients == count)
        colour = "white" if image.norm(count) > 0.5 else "black"
        right.text(columns.max() - 1, rows.max() - 1, str(count), ha="right", va="bottom", color=colour)
    for plot in (left, right):
        plot.set(xlabel="input channel", ylabel="output channel")
        plot.spines[:].set_visible(False)
    return figure


def partition(label_counts: np.ndarray) -> Figure:
    """Who holds what: training examples of each client and label.

    Args:
        label_counts: shape (clients, labels); see `Partition.label_counts`.
    """
    import seaborn as sns  # takes longer to import than most pages to draw

    figure = Figure(figsize=(7.6, 2.4))
    plot = figure.subplots()
    sns.heatmap(
        label_counts.T,
        ax=plot,
        cmap="Blues",
        vmin=0,
        cbar_kws={"label": "examples held", "pad": 0.02},
        xticklabels=max(1, len(label_counts) // 10),
        rasterized=True,
    )
    plot.set(xlabel="client", ylabel="label")
    plot.tick_params(axis="y", rotation=0)
    return figure


def curve(rounds: pd.DataFrame) -> Figure:
    """The metrics and the training loss of one run over its communication rounds.

    Args:
        rounds: as in `rounds.csv`.
    """
    figure = Figure(figsize=(7.6, 4.6))
    figure.set_layout_engine("none")  # the book has hundreds of curves: fixed margins take half the time
    margins = {"left": 0.11, "right": 0.98, "bottom": 0.11, "top": 0.98, "hspace": 0.06}
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1), gridspec_kw=margins)
    shown = [name for name in METRICS if name in rounds]
    for name in shown:
        colour, title = METRIC_COLOURS[name], METRICS[name].title
        above.plot(rounds["round"], rounds[name], marker="o", ms=3, color=colour, label=title)
    above.set(ylabel=METRICS[shown[0]].axis)
    if METRICS[shown[0]].sign < 0:
        above.set_yscale("log")  # the perplexity of masked tokens is hundreds of times that of visible ones
    above.legend(frameon=False)
    below.plot(rounds["round"], rounds["train_loss"], color="#666666")
    below.set(ylabel="local loss (nats)", xlabel="communication round")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    mark_decays(rounds, above, below)
    return figure


def mark_decays(rounds: pd.DataFrame, *plots: Plot) -> None:
    """A dotted line where the learning rate decayed, which is right after an evaluated round."""
    for last in rounds.loc[rounds["lr"].shift(-1) < rounds["lr"], "round"]:
        for plot in plots:
            plot.axvline(last + 0.5, color="#999999", linestyle=":", linewidth=1)


BALANCED = 6000, 1000
"""Images of each of ten labels, for training and for testing, if MNIST had equally many of each."""


def dealt(kind: str) -> Partition:
    """As many images as MNIST has, equally many of each of ten labels, dealt to 100 clients by seed 0.

    Args:
        kind: see `partition.make_partition`.
    """
    train, test = (np.repeat(range(10), images) for images in BALANCED)
    return make_partition(kind, train, test, 100, generator(0, "partition"))


def partitions(kinds: Sequence[str]) -> Figure:
    """Who holds what under several partitions of `dealt`.

    Args:
        kinds: see `partition.make_partition`.
    """
    labels = np.repeat(range(10), BALANCED[0])
    figure = Figure(figsize=(7.6, 1.5 * len(kinds)))
    plots = figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0]
    for plot, kind in zip(plots, kinds, strict=True):
        image = plot.imshow(dealt(kind).label_counts(labels).T, aspect="auto", cmap="Blues", vmin=0, vmax=600)
        plot.set(title=kind, ylabel="label")
    plots[-1].set(xlabel="client")
    figure.colorbar(image, ax=plots, label="training examples", extend="max")
    return figure


def selections(width: int = 32, level: str = "c", rounds: int = 24) -> Figure:
    """The coordinates of one axis that a client holds, round by round, under each selection strategy."""
    axes = {"weight": (Axis("width", width),)}
    rate = width_rate(level)
    by_round = {
        "static": lambda number: static_index(axes, rate),
        "random": lambda number: random_index(axes, rate, generator(0, "sub-model", number, 0)),
        "rolling": lambda number: rolling_index(axes, rate, number),
    }
    figure = Figure(figsize=(7.6, 3.2))
    plots = figure.subplots(1, len(by_round), sharey=True)
    for plot, (name, index) in zip(plots, by_round.items(), strict=True):
        held = np.zeros((rounds, width))
        for number in range(1, rounds + 1):
            held[number - 1, index(number)["width"]] = 1
        colours = ListedColormap(["#eeeeee", LEVEL_COLOURS[level]])
        plot.imshow(held, aspect="auto", cmap=colours, extent=(0, width, rounds + 0.5, 0.5))
        plot.set(title=name, xlabel="channel")
    plots[0].set(ylabel="communication round")
    return figure
