"""Figures of results: ours filled, the paper's hollow, and `not run` where nothing ran."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_figures import ROUNDS, TEXT

from heterofl_core.figures import LEVEL_COLOURS
from heterofl_core.records import METRICS
from heterofl_core.report import result_figures

POINTS = pd.DataFrame(
    [
        ("a", "e", 0, 90.0, float("nan"), "ours", "short, 20 rounds"),
        ("a", "e", 50, 94.0, 0.5, "ours", "short, 20 rounds"),
        ("a", "e", 100, 99.5, float("nan"), "paper", None),
        *((large, "e", 100, 99.4, float("nan"), "paper", None) for large in "bcd"),
    ],
    columns=["large", "small", "share", "value", "half_width", "whose", "schedule"],
)
CURVES = pd.DataFrame(
    {
        "large": "a",
        "small": ["e", "e", "e", "e"],
        "assignment": ["fix", "fix", "dynamic", "dynamic"],
        "schedule": ["paper", "paper", "short, 2 rounds", "short, 2 rounds"],
        "round": [1, 2, 1, 2],
        "global_accuracy": [50.0, 60.0, 55.0, 65.0],
    }
)
SPENDINGS = pd.DataFrame(
    {
        "levels": ["a", "a", "a-e", "a-e"],
        "schedule": ["paper", "paper", "short, 2 rounds", "short, 2 rounds"],
        "sent_mb": [10.0, 20.0, 5.0, 10.0],
        "seconds": [100.0, 200.0, 60.0, 120.0],
        "global_accuracy": [50.0, 60.0, 55.0, 65.0],
    }
)


def points_of(line: Any) -> list[list[float]]:
    """Where a line goes, as pairs."""
    pairs: list[list[float]] = line.get_xydata().tolist()
    return pairs


def words(plot: Axes) -> list[str]:
    return [text.get_text() for text in plot.texts]


def axis_labels(figure: Figure) -> list[tuple[str, str]]:
    return [(plot.get_xlabel(), plot.get_ylabel()) for plot in figure.axes]


def test_a_panel_for_each_larger_level_shows_its_own_pairs() -> None:
    figure, panels = result_figures.four_panels(CURVES, "global_accuracy", "share (%)")
    accuracy = METRICS["global_accuracy"].axis
    assert axis_labels(figure) == [("share (%)", accuracy)] * 4
    assert [(large, plot.get_title(loc="left"), len(data)) for large, plot, data in panels] == [
        ("a", "larger level a", 4),
        ("b", "larger level b", 0),
        ("c", "larger level c", 0),
        ("d", "larger level d", 0),
    ]


def test_slices_have_the_smaller_levels_colour_and_the_larger_ones_dash() -> None:
    rows = [("c", "e", 10, 97.0), ("c", "e", 90, 94.0), ("d", "e", 50, 96.0)]
    points = pd.DataFrame(rows, columns=["large", "small", "share", "value"])
    figure = result_figures.slices(
        points.assign(half_width=float("nan"), schedule="paper"), "global_accuracy"
    )
    (plot,) = figure.axes
    containers: Any = plot.containers
    lines = [container.lines[0] for container in containers]
    assert [points_of(line) for line in lines] == [[[10, 97], [90, 94]], [[50, 96]]]
    assert {to_hex(line.get_color()) for line in lines} == {LEVEL_COLOURS["e"].lower()}
    assert len({line.get_linestyle() for line in lines} | {line.get_marker() for line in lines}) == 4
    assert plot.get_title(loc="left") == "schedule: paper"
    assert axis_labels(figure) == [("clients at the larger level (%)", METRICS["global_accuracy"].axis)]
    nothing = result_figures.slices(points.iloc[:0].assign(half_width=[], schedule=[]), "perplexity")
    assert words(nothing.axes[0]) == ["not run"]


def test_hidden_and_visible_tokens_have_a_panel_each_and_runs_their_largest_levels_colour() -> None:
    run = {"variation": "", "rounds": 2, "round": [1, 2]}
    runs = [
        pd.DataFrame(
            run | {"levels": levels, "run_id": levels, "masked_perplexity": masked, "visible_perplexity": 2.0}
        )
        for levels, masked in (("e", [3000.0, 2500.0]), ("d-e", [2000.0, 4000.0]), ("d", [900.0, 800.0]))
    ]
    figure = result_figures.copying(pd.concat(runs))
    masked, visible = figure.axes
    of_all_text, of_holders, *lines = masked.lines
    assert set(np.ravel(of_all_text.get_ydata())) == {911.7}
    assert set(np.ravel(of_holders.get_ydata())) == {2867.6}
    assert [points_of(line) for line in lines] == [
        [[1, 900], [2, 800]],
        [[1, 2000], [2, 4000]],
        [[1, 3000], [2, 2500]],
    ]
    colours = [LEVEL_COLOURS[level].lower() for level in "dde"]
    assert [[to_hex(line.get_color()) for line in some] for some in (lines, visible.lines)] == [colours] * 2
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    (legend,) = figure.legends
    known = ["word frequencies alone", "the same, as holders find them"]
    runs_drawn = ["d, 2 rounds", "d-e, 2 rounds", "e, 2 rounds"]
    assert [text.get_text() for text in legend.get_texts()] == [*known, *runs_drawn]
    assert words(result_figures.copying(pd.DataFrame()).axes[0]) == ["not run"]


def test_an_interpolation_draws_ours_filled_and_the_papers_hollow_in_their_levels_colours() -> None:
    figure = result_figures.interpolation(POINTS, "global_accuracy")
    assert figure.get_suptitle() == "schedule of ours: short, 20 rounds"
    first, second, *_ = figure.axes
    container: Any
    (container,) = first.containers
    ours, _, (interval,) = container.lines
    assert points_of(ours) == [[0, 90], [50, 94]]
    assert to_hex(ours.get_color()) == LEVEL_COLOURS["e"].lower()
    hollow = [line for line in first.lines if str(line.get_markerfacecolor()) == "none" and points_of(line)]
    assert [points_of(line) for line in hollow] == [[[100, 99.5]]]
    assert to_hex(hollow[0].get_color()) == LEVEL_COLOURS["a"].lower()  # where all clients have level a
    assert first.get_legend_handles_labels()[1] == ["a–e", "one level alone, paper (its full schedule)"]
    assert second.get_legend_handles_labels()[1] == ["one level alone, paper (its full schedule)"]
    ends = [path.vertices for path in interval.get_paths()]
    drawn = [end.tolist() for end in ends if np.isfinite(end).all()]
    assert drawn == [[[50, 93.5], [50, 94.5]]]  # a single seed has no interval
    assert words(first) == []
    assert words(second) == ["not run"]


@pytest.mark.parametrize(("shares", "style"), [([0, 100], "None"), ([0, 50], "-"), ([50, 100], "-")])
def test_a_line_leads_through_mixes_but_not_from_end_to_end(shares: list[int], style: str) -> None:
    points = pd.concat([POINTS[:2].assign(share=shares), POINTS[2:]])
    container: Any
    (container,) = result_figures.interpolation(points, "global_accuracy").axes[0].containers
    assert container.lines[0].get_linestyle() == style


def test_pair_curves_tell_fix_from_dynamic_and_schedules_and_hide_the_axes_of_empty_panels() -> None:
    first, *others = result_figures.pair_curves(CURVES, "global_accuracy").axes
    dynamic, fix = first.lines
    assert [dynamic.get_label(), fix.get_label()] == [
        "a–e, dynamic (short, 2 rounds)",
        "a–e, fix (paper)",
    ]
    assert [dynamic.get_linestyle(), fix.get_linestyle()] == ["-", "--"]
    assert points_of(fix) == [[1, 50], [2, 60]]
    assert {to_hex(line.get_color()) for line in first.lines} == {LEVEL_COLOURS["e"].lower()}
    assert [words(plot) for plot in others] == [["not run"]] * 3
    assert [plot.axison for plot in (first, *others)] == [True, False, False, False]


def test_spendings_are_over_megabytes_and_over_seconds() -> None:
    figure = result_figures.spendings(SPENDINGS, "global_accuracy")
    sent, seconds = figure.axes
    assert axis_labels(figure) == [
        ("sent in all (MB)", METRICS["global_accuracy"].axis),
        ("training (s)", ""),
    ]
    alone, mixed = sent.lines
    assert (alone.get_linestyle(), mixed.get_linestyle()) == ("-", "--")
    assert points_of(alone) == [[10, 50], [20, 60]]
    assert points_of(seconds.lines[1]) == [[60, 55], [120, 65]]
    assert sent.get_xscale() == "log"

    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a (paper)", "a-e (short, 2 rounds)"]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0.5, 40), ["1", "3", "10", "30"]),
        ((20, 60_000), ["100", "1,000", "10,000"]),
        ((12, 21), ["12.5", "15", "17.5", "20"]),
    ],
)
def test_ticks_are_few_and_written_out(limits: tuple[float, float], expected: list[str]) -> None:
    plot = Figure().subplots()
    plot.set(xscale="log", xlim=limits)
    result_figures.plain_ticks(plot.xaxis)
    shown = [
        label.get_text()
        for label, place in zip(plot.get_xticklabels(), plot.get_xticks(), strict=True)
        if limits[0] <= place <= limits[1]
    ]
    assert shown == expected
    assert plot.get_xticks(minor=True).size == 0


@pytest.mark.parametrize(
    "figure",
    [
        result_figures.spendings(SPENDINGS[:0], "global_accuracy"),
        result_figures.pair_curves(CURVES[:0], "global_accuracy"),
    ],
)
def test_what_nobody_ran_has_no_axes_and_says_so(figure: Figure) -> None:
    (plot,) = figure.axes
    assert (plot.axison, words(plot)) == (False, ["not run"])


# Learning curves


def run(
    levels: str, partition: str, dataset: str = "mnist", variation: str = "", length: int = 4
) -> pd.DataFrame:
    """One run's rows of `run_tables.curves`."""
    name = f"{dataset} {partition} {levels} {variation} {length}"
    rounds = TEXT if dataset == "wikitext2" else ROUNDS
    return rounds.assign(
        run_id=name,
        levels=levels,
        assignment="dynamic",
        partition=partition,
        dataset=dataset,
        variation=variation,
        rounds=length,
    )


def titles(figure: Figure) -> list[str]:
    """What stands above each plot."""
    return [plot.get_title(loc="left") for plot in figure.axes]


@pytest.mark.parametrize("metric", ["global_accuracy", "local_accuracy"])
def test_learning_curves_have_a_panel_for_each_partition_and_a_line_for_each_run(metric: str) -> None:
    curves = pd.concat([run("a", "iid"), run("c-e", "iid"), run("e", "non-iid-2")])
    figure = result_figures.learning_curves(curves, metric)
    above, below = figure.axes
    assert axis_labels(figure) == [("communication round", "accuracy (%)")] * 2
    assert titles(figure) == ["mnist, iid: 4 rounds", "mnist, non-iid-2: 4 rounds"]
    drawn = [(line.get_label(), line.get_color()) for line in [*above.lines, *below.lines]]
    colour = LEVEL_COLOURS
    assert drawn == [
        ("a, dynamic", colour["a"]),
        ("c-e, dynamic", colour["c"]),
        ("e, dynamic", colour["e"]),
    ]
    assert np.array_equal(above.lines[0].get_ydata(), ROUNDS[metric])


def test_a_line_is_labelled_by_its_levels_and_what_the_run_changes() -> None:
    runs = [run("a", "iid", variation=changed) for changed in ("fedavg, mlp", "norm bn, scaler False")]
    figure = result_figures.learning_curves(pd.concat(runs), "global_accuracy")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "levels"
    expected = ["a, dynamic, fedavg, mlp", "a, dynamic, norm bn, scaler False"]
    assert [text.get_text() for text in legend.get_texts()] == expected
    assert [line.get_label() for line in figure.axes[0].lines] == expected


def test_lines_of_one_colour_differ_in_their_dashes_then_in_their_markers() -> None:
    runs = [run("e", "iid", variation=f"norm {number}") for number in range(8)]
    figure = result_figures.learning_curves(
        pd.concat([run("a", "iid", variation="norm gn"), *runs]), "global_accuracy"
    )
    first, *others = figure.axes[0].lines
    kinds = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in [first, *others]]
    colour = LEVEL_COLOURS
    assert kinds[:4] == [
        (colour["a"], "-", "o"),
        (colour["e"], "-", "o"),
        (colour["e"], "--", "o"),
        (colour["e"], ":", "o"),
    ]
    assert kinds[-1] == (colour["e"], "-", "s")


def test_data_sets_lengths_and_changes_of_the_method_do_not_share_a_panel() -> None:
    runs = [
        run("a", "iid", "mnist"),
        run("a", "iid", "digits"),
        run("a", "iid", "mnist", variation="norm bn"),
        run("a", "iid", "mnist", length=20),
    ]
    figure = result_figures.learning_curves(pd.concat(runs), "global_accuracy")
    assert titles(figure) == [
        "digits, iid: 4 rounds",
        "mnist, iid: 4 rounds",
        "mnist, iid: 20 rounds",
        "mnist, iid: changed, 4 rounds",
    ]


def test_learning_curves_on_text_show_perplexities() -> None:
    figure = result_figures.learning_curves(run("a", "iid", "wikitext2"), "perplexity")
    assert axis_labels(figure) == [("communication round", "perplexity")]
    assert np.array_equal(figure.axes[0].lines[0].get_ydata(), TEXT["perplexity"])


def test_runs_without_the_metric_have_no_panel() -> None:
    both = pd.concat([run("a", "iid"), run("a", "iid", "wikitext2")])
    assert titles(result_figures.learning_curves(both, "perplexity")) == ["wikitext2, iid: 4 rounds"]
    assert titles(result_figures.learning_curves(both, "local_accuracy")) == ["mnist, iid: 4 rounds"]
    (plot,) = result_figures.learning_curves(run("a", "iid"), "perplexity").axes
    assert (plot.axison, [text.get_text() for text in plot.texts]) == (False, ["not run"])


def test_ticks_of_rounds_are_whole_numbers_from_zero_on() -> None:
    (plot,) = result_figures.learning_curves(run("a", "iid"), "global_accuracy").axes
    low, high = plot.get_xlim()
    assert low == 0
    assert [tick for tick in plot.get_xticks() if tick <= high] == [0, 1, 2, 3, 4]
