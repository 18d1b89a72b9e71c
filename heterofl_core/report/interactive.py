"""Figures that answer the reader's mouse: the same data as the still ones, which stand above them."""

import html
from typing import Any

import pandas as pd

from heterofl_core.figures import LEVEL_COLOURS
from heterofl_core.levels import LEVELS
from heterofl_core.records import METRICS
from heterofl_core.report.tables import NOT_RUN

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
ASSIGNMENT_DASHES = {"fix": "dash", "dynamic": "solid"}


def as_html(figure: Any, caption: str) -> str:
    """A plotly figure as data that the page's script draws; what it shows stands in words below it."""
    data, words = html.escape(figure.to_json()), html.escape(caption)
    return (
        f'<figure class="plain interactive"><div class="interactive-plot" data-figure="{data}"></div>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def mix_slider(points: pd.DataFrame, metric: str) -> str:
    """The points of an interpolation at one share of clients, which a slider chooses, at first near one half;
    words without a mix.

    Args:
        points: see `series.interpolation`.
    """
    import plotly.graph_objects as go

    ours = points[points["whose"] == "ours"]
    shares = sorted(ours["share"].unique())
    mixed = [share for share in shares if 0 < share < 100]
    if not mixed:
        return NOT_RUN
    first = min(mixed, key=lambda share: abs(share - 50))
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
                visible=bool(share == first),
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
            {
                "steps": steps,
                "active": shares.index(first),
                "currentvalue": {"prefix": "clients at the larger level: "},
                "pad": {"t": 45},
            }
        ],
        xaxis=AXIS | {"title": "smaller level", "categoryorder": "array", "categoryarray": list(LEVELS[1:])},
        yaxis=AXIS | {"title": METRICS[metric].axis},
    )
    return as_html(
        figure,
        f"{METRICS[metric].title} of pairs of levels. The slider chooses the share of clients that have the "
        "larger level; pointing at a point shows its value.",
    )


def curves(found: pd.DataFrame, metric: str) -> str:
    """Learning curves of one larger level at a time, which a menu chooses, with their values under the mouse.

    Args:
        found: see `series.pair_curves`.
    """
    import plotly.graph_objects as go

    if found.empty:
        return NOT_RUN
    figure = go.Figure(layout=LAYOUT)
    larger = []
    for (large, small, assignment, schedule), line in found.groupby(
        ["large", "small", "assignment", "schedule"]
    ):
        larger.append(str(large))
        figure.add_scatter(
            x=line["round"].tolist(),
            y=line[metric].tolist(),
            name=f"{large}–{small}, {assignment}<br>({schedule})",
            visible=larger[-1] == larger[0],
            line={"color": LEVEL_COLOURS[str(small)], "dash": ASSIGNMENT_DASHES[str(assignment)]},
            hovertemplate=f"{large}–{small}, {assignment}, round %{{x}}: %{{y:.2f}}<extra></extra>",
        )
    choices = [(f"larger level {level}", [one == level for one in larger]) for level in sorted(set(larger))]
    buttons = [{"label": label, "method": "restyle", "args": ["visible", shown]} for label, shown in choices]
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.15, "yanchor": "top"}],
        xaxis=AXIS | {"title": "communication round"},
        yaxis=AXIS | {"title": METRICS[metric].axis},
        showlegend=True,
        legend={"orientation": "h", "y": -0.2},
        height=480,
    )
    return as_html(
        figure,
        f"{METRICS[metric].title} over communication rounds. The menu chooses the larger level; pointing at "
        "a line shows its values.",
    )
