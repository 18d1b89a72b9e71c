"""Figures that answer the reader's mouse: the same data as the still ones, which stand above them."""

import html
from typing import Any

import pandas as pd

from heterofl_core.figures import LEVEL_COLOURS
from heterofl_core.levels import LEVELS
from heterofl_core.records import METRICS

GREY = "#8a8a8a"  # readable on white and on the dark theme's background
LAYOUT: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": GREY},
    "margin": {"l": 60, "r": 10, "t": 40, "b": 50},
    "hovermode": "closest",
    "height": 420,
}
AXIS = {"gridcolor": "rgba(138,138,138,0.25)", "zeroline": False}
NOTHING = '<p class="plain">Not run.</p>'
DASHES = {"fix": "dash", "dynamic": "solid"}


def as_html(figure: Any, alt: str) -> str:
    """A plotly figure as data that the page's script draws; what it shows stands in words beside it."""
    data, words = html.escape(figure.to_json()), html.escape(alt)
    return (
        f'<div class="plain interactive-plot" role="figure" aria-label="{words}" data-figure="{data}"></div>'
    )


def mix_slider(points: pd.DataFrame, metric: str) -> str:
    """The points of an interpolation at one share of clients, which a slider chooses.

    Args:
        points: see `series.interpolation`.
    """
    import plotly.graph_objects as go

    ours = points[points["whose"] == "ours"]
    if ours.empty:
        return NOTHING
    shares = sorted(ours["share"].unique())
    figure = go.Figure(layout=LAYOUT)
    for share in shares:
        for large in LEVELS[:-1]:
            line = ours[(ours["share"] == share) & (ours["large"] == large)]
            figure.add_scatter(
                x=line["small"].tolist(),
                y=line["value"].tolist(),
                name=f"larger level {large}",
                mode="lines+markers",
                line_color=LEVEL_COLOURS[large],
                visible=bool(share == shares[0]),
                hovertemplate=f"{large}–%{{x}}: %{{y:.2f}}<extra></extra>",
            )
    kinds = len(LEVELS) - 1
    steps = [
        {
            "method": "restyle",
            "label": f"{share} %",
            "args": ["visible", [place // kinds == number for place in range(kinds * len(shares))]],
        }
        for number, share in enumerate(shares)
    ]
    figure.update_layout(
        sliders=[
            {"steps": steps, "currentvalue": {"prefix": "clients at the larger level: "}, "pad": {"t": 45}}
        ],
        xaxis=AXIS | {"title": "smaller level", "categoryorder": "array", "categoryarray": list(LEVELS[1:])},
        yaxis=AXIS | {"title": METRICS[metric].axis},
    )
    return as_html(
        figure, f"{METRICS[metric].title} of pairs of levels at a share of clients that a slider chooses."
    )


def curves(found: pd.DataFrame, metric: str) -> str:
    """Learning curves with their values under the mouse, and a choice of the larger level.

    Args:
        found: see `series.learning_curves`.
    """
    import plotly.graph_objects as go

    if found.empty:
        return NOTHING
    figure = go.Figure(layout=LAYOUT)
    larger = []
    for (large, small, assignment), line in found.groupby(["large", "small", "assignment"]):
        larger.append(str(large))
        figure.add_scatter(
            x=line["round"].tolist(),
            y=line[metric].tolist(),
            name=f"{large}–{small}, {assignment}",
            line={"color": LEVEL_COLOURS[str(small)], "dash": DASHES[str(assignment)]},
            hovertemplate=f"{large}–{small}, {assignment}, round %{{x}}: %{{y:.2f}}<extra></extra>",
        )
    choices = [("all levels", [True] * len(larger))]
    choices += [(f"larger level {level}", [one == level for one in larger]) for level in sorted(set(larger))]
    buttons = [{"label": label, "method": "restyle", "args": ["visible", shown]} for label, shown in choices]
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.15, "yanchor": "top"}],
        xaxis=AXIS | {"title": "communication round"},
        yaxis=AXIS | {"title": METRICS[metric].axis},
    )
    return as_html(
        figure, f"{METRICS[metric].title} over communication rounds; a menu chooses the larger level."
    )
