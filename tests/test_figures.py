"""Figures show what the method does, with units on their axes."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from heterofl_core import figures

ROUNDS = pd.DataFrame(
    {
        "round": [1, 2, 3, 4],
        "lr": [0.1, 0.1, 0.01, 0.01],
        "train_loss": [2.3, 1.5, 1.0, 0.9],
        "global_accuracy": [10.0, 50.0, 80.0, 81.0],
        "local_accuracy": [20.0, 60.0, 90.0, 91.0],
    }
)


def labels(figure: Figure) -> list[tuple[str, str]]:
    """The labels of each plot's axes."""
    return [(plot.get_xlabel(), plot.get_ylabel()) for plot in figure.axes]


def run(levels: str, partition: str, dataset: str = "mnist") -> pd.DataFrame:
    """One run's rows of `report.curves`."""
    name = f"{dataset} {partition} {levels}"
    return ROUNDS.assign(run_id=name, levels=levels, partition=partition, dataset=dataset)


def test_each_coordinate_is_averaged_over_the_six_clients_of_figure_1_that_hold_it() -> None:
    expected = np.full((8, 8), 2)
    expected[:4, :4] = 4
    expected[:2, :2] = 6
    assert np.array_equal(figures.held_by("aabbcc", 8), expected)


def test_the_largest_level_given_is_the_global_model() -> None:
    assert np.array_equal(figures.held_by("c", 8), np.ones((8, 8)))
    assert Counter(figures.held_by("ce", 8).ravel().tolist()) == {2: 2 * 2, 1: 8 * 8 - 2 * 2}


def test_nested_slices_print_the_counts_of_figure_1() -> None:
    figure = figures.nested_slices()
    assert labels(figure) == [("input channel", "output channel")] * 2
    left, right = figure.axes
    assert [text.get_text() for text in left.texts] == ["a", "b", "c", "d", "e"]
    assert {text.get_text() for text in right.texts} == {"2", "4", "6"}


def test_each_level_has_a_colour_of_its_own() -> None:
    assert list(figures.LEVEL_COLOURS) == ["a", "b", "c", "d", "e"]
    assert len({to_hex(colour) for colour in figures.LEVEL_COLOURS.values()}) == 5


def test_the_partitions_figure_shows_the_examples_of_each_client_and_label() -> None:
    counts = np.array([[3, 0], [0, 4], [1, 2]])
    figure = figures.partition(counts)
    assert labels(figure) == [("client", "label"), ("", "training examples")]
    mesh = next(part for part in figure.axes[0].collections if isinstance(part, QuadMesh))
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(2, 3), counts.T)


def test_a_runs_curve_has_units_and_marks_the_decay() -> None:
    figure = figures.curve(ROUNDS)
    assert labels(figure) == [("", "accuracy (%)"), ("communication round", "local loss (nats)")]
    above, below = figure.axes
    for line, metric in zip(above.lines, ("global_accuracy", "local_accuracy"), strict=False):
        assert np.array_equal(line.get_xydata(), ROUNDS[["round", metric]])
    for plot in (above, below):
        assert np.array_equal(plot.lines[-1].get_xdata(), [2.5, 2.5])
    legend = above.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["Global accuracy", "Local accuracy"]


def test_a_run_without_decay_has_no_mark() -> None:
    figure = figures.curve(ROUNDS.assign(lr=0.1))
    assert [len(plot.lines) for plot in figure.axes] == [2, 1]


@pytest.mark.parametrize("metric", ["global_accuracy", "local_accuracy"])
def test_learning_curves_have_a_panel_for_each_partition_and_a_line_for_each_run(metric: str) -> None:
    curves = pd.concat([run("a", "iid"), run("c-e", "iid"), run("e", "non-iid-2")])
    figure = figures.learning_curves(curves, metric)
    left, right = figure.axes
    name = {"global_accuracy": "Global accuracy (%)", "local_accuracy": "Local accuracy (%)"}[metric]
    assert labels(figure) == [("communication round", name)] * 2
    assert [left.get_title(), right.get_title()] == ["mnist, iid", "mnist, non-iid-2"]
    drawn = [
        (line.get_label(), line.get_color(), line.get_linestyle()) for line in [*left.lines, *right.lines]
    ]
    colour = figures.LEVEL_COLOURS
    assert drawn == [("a", colour["a"], "-"), ("c-e", colour["c"], "--"), ("e", colour["e"], "-")]
    assert np.array_equal(left.lines[0].get_ydata(), ROUNDS[metric])


def test_data_sets_do_not_share_a_panel() -> None:
    runs = [run("a", "iid", "mnist"), run("a", "iid", "digits"), run("a", "non-iid-2", "mnist")]
    figure = figures.learning_curves(pd.concat(runs), "global_accuracy")
    assert [plot.get_title() for plot in figure.axes] == ["digits, iid", "mnist, iid", "mnist, non-iid-2"]
