"""Figures show what the method does, with units on their axes."""

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from heterofl_core import figures
from heterofl_core.records import METRICS

ROUNDS = pd.DataFrame(
    {
        "round": [1, 2, 3, 4],
        "lr": [0.1, 0.1, 0.01, 0.01],
        "train_loss": [2.3, 1.5, 1.0, 0.9],
        "global_accuracy": [10.0, 50.0, 80.0, 81.0],
        "local_accuracy": [20.0, 60.0, 90.0, 91.0],
    }
)


TEXT = pd.DataFrame(
    {
        "round": [1, 2],
        "lr": [0.1, 0.1],
        "train_loss": [7.0, 5.0],
        "perplexity": [40.0, 9.0],
        "masked_perplexity": [9000.0, 2000.0],
        "visible_perplexity": [12.0, 2.0],
    }
)


def labels(figure: Figure) -> list[tuple[str, str]]:
    """The labels of each plot's axes."""
    return [(plot.get_xlabel(), plot.get_ylabel()) for plot in figure.axes]


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
    assert labels(figure) == [("client", "label"), ("", "examples held")]
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


def test_a_curve_on_text_has_its_three_perplexities_on_a_logarithmic_axis() -> None:
    figure = figures.curve(TEXT)
    assert labels(figure) == [("", "perplexity"), ("communication round", "local loss (nats)")]
    above = figure.axes[0]
    names = ["perplexity", "masked_perplexity", "visible_perplexity"]
    for line, metric in zip(above.lines, names, strict=True):
        assert np.array_equal(line.get_xydata(), TEXT[["round", metric]])
    assert len({line.get_color() for line in above.lines}) == 3
    assert above.get_yscale() == "log"
    assert figures.curve(ROUNDS).axes[0].get_yscale() == "linear"


def test_every_metric_has_a_colour() -> None:
    assert list(figures.METRIC_COLOURS) == list(METRICS)


def test_a_decay_is_marked_right_after_its_milestone() -> None:
    """However far the next evaluated round is."""
    figure = figures.curve(ROUNDS.assign(round=ROUNDS["round"] * 10))
    assert np.array_equal(figure.axes[0].lines[-1].get_xdata(), [20.5, 20.5])


def test_a_run_without_decay_has_no_mark() -> None:
    figure = figures.curve(ROUNDS.assign(lr=0.1))
    assert [len(plot.lines) for plot in figure.axes] == [2, 1]


def test_partitions_show_the_examples_of_each_client_and_label_for_each_kind() -> None:
    kinds = ["iid", "non-iid-2", "dirichlet-0.3"]
    figure = figures.partitions(kinds)
    plots = figure.axes[:3]
    assert [plot.get_title() for plot in plots] == kinds
    assert labels(figure) == [("", "label"), ("", "label"), ("client", "label"), ("", "training examples")]
    shown = [np.asarray(plot.images[0].get_array()) for plot in plots]
    for counts in shown:
        assert counts.shape == (10, 100)
        assert counts.sum(axis=1).tolist() == [6000] * 10
    assert shown[0].sum(axis=0).tolist() == [600] * 100
    assert ((shown[1] > 0).sum(axis=0) <= 2).all()


def test_selections_show_the_coordinates_held_in_each_round() -> None:
    figure = figures.selections(width=8, level="c", rounds=3)
    assert [plot.get_title() for plot in figure.axes] == ["static", "random", "rolling"]
    assert [plot.get_xlabel() for plot in figure.axes] == ["channel"] * 3
    assert figure.axes[0].get_ylabel() == "communication round"
    static, random, rolling = (np.asarray(plot.images[0].get_array()) for plot in figure.axes)
    assert static.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]] * 3
    assert rolling.tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
    ]
    assert random.sum(axis=1).tolist() == [2, 2, 2]
