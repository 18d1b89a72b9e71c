"""Interactive figures: what their data say to the script that draws them."""

import html
import json
import re
from typing import Any

import pandas as pd

from heterofl_core.report import interactive
from heterofl_core.report.tables import NOT_RUN

POINTS = pd.DataFrame(
    [
        ("a", "e", 0, 90.0, "ours"),
        ("a", "e", 50, 94.0, "ours"),
        ("b", "e", 50, 93.0, "ours"),
        ("a", "e", 100, 99.5, "paper"),
    ],
    columns=["large", "small", "share", "value", "whose"],
)
CURVES = pd.DataFrame(
    {
        "large": ["a", "a", "b", "b"],
        "small": "e",
        "assignment": ["fix", "fix", "dynamic", "dynamic"],
        "schedule": ["paper", "paper", "short, 2 rounds", "short, 2 rounds"],
        "round": [1, 2, 1, 2],
        "global_accuracy": [50.0, 60.0, 55.0, 65.0],
    }
)


def figure_of(page: str) -> dict[str, Any]:
    """What is drawn, read back from the attribute in which it travels."""
    found = re.search(r'data-figure="(.*?)"', page)
    assert found
    figure: dict[str, Any] = json.loads(html.unescape(found[1]))
    return figure


def test_a_slider_shows_one_share_at_a_time_and_leaves_the_papers_points_out() -> None:
    figure = figure_of(interactive.mix_slider(POINTS, "global_accuracy"))
    values = [(line["name"], line["y"], line["visible"]) for line in figure["data"] if line["y"]]
    assert values == [
        ("larger level a", [90.0], False),
        ("larger level a", [94.0], True),
        ("larger level b", [93.0], True),
    ]
    (slider,) = figure["layout"]["sliders"]
    assert slider["active"] == 1  # a half of the clients: where all have one level, there is no mix
    assert [step["label"] for step in slider["steps"]] == ["0 %", "50 %"]
    for number, step in enumerate(slider["steps"]):
        shown = [
            line["y"] for line, on in zip(figure["data"], step["args"][1], strict=True) if on and line["y"]
        ]
        assert shown == [[[90.0]], [[94.0], [93.0]]][number]


def test_a_menu_shows_the_curves_of_one_larger_level_at_a_time() -> None:
    figure = figure_of(interactive.curves(CURVES, "global_accuracy"))
    assert [(line["name"], line["x"], line["y"], line["visible"]) for line in figure["data"]] == [
        ("a–e, fix<br>(paper)", [1, 2], [50.0, 60.0], True),
        ("b–e, dynamic<br>(short, 2 rounds)", [1, 2], [55.0, 65.0], False),
    ]
    (menu,) = figure["layout"]["updatemenus"]
    assert [(button["label"], button["args"][1]) for button in menu["buttons"]] == [
        ("larger level a", [True, False]),
        ("larger level b", [False, True]),
    ]


def test_what_nobody_ran_is_said_in_words() -> None:
    for points in (POINTS[POINTS["whose"] == "paper"], POINTS[POINTS["share"] == 0]):  # ends are no mixes
        assert interactive.mix_slider(points, "global_accuracy") == NOT_RUN
    assert interactive.curves(CURVES[:0], "global_accuracy") == NOT_RUN


def test_a_caption_says_what_is_drawn_and_what_the_mouse_does() -> None:
    page = interactive.curves(CURVES, "global_accuracy")
    assert "<figcaption>Global accuracy over communication rounds. The menu chooses the larger" in page
    page = interactive.mix_slider(POINTS, "global_accuracy")
    assert "<figcaption>Global accuracy of pairs of levels. The slider chooses the share" in page
