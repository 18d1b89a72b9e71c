"""A page of the book for each record: what was measured, how, and how to do it again. Nothing needs torch."""

import base64
import html
import io
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from heterofl_core import figures
from heterofl_core.equivalence import is_certified
from heterofl_core.own import changed_files
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS, all_records, read_rounds
from heterofl_core.report import run_tables
from heterofl_core.report.evidence import MARKS, state
from heterofl_core.report.titles import title_of
from heterofl_core.settings import command

ORIGINS = {
    "current": "The code of today would make it again.",
    "uncommitted": f"{MARKS['uncommitted']} It was made with code that was not committed.",
    "stale": f"{MARKS['stale']} Other code made it; today's might give something else.",
}
CERTIFIED = (
    "Other code made it. Today's gave the same digits in all runs that were compared, which have each of its "
    "settings between them."
)


def run_pages() -> Iterator[tuple[str, str, str]]:
    """For each record the name of its page, its title, and its text as HTML."""
    for record in all_records():
        yield f"runs/{record['run_id']}", title_of(record["params"]), body(record)


def body(record: Mapping[str, Any]) -> str:
    """The text of a record's page."""
    params = RunParams.model_validate(record["params"])
    parts = [
        f"<h1>{html.escape(title_of(record['params']))}</h1>",
        f"<p>{origin(record)}</p>",
        heading("Results"),
        table(run_tables.metrics_of(record)),
        *sub_models(record),
        heading("Curve"),
        image(figures.curve(read_rounds(record["run_id"])), alternative(record)),
        heading("Do it again"),
        f'<div class="highlight"><pre>{html.escape(command(params))}</pre></div>',
        heading("How it ran"),
        f'<pre class="wrapped">{html.escape(run_tables.how_it_ran(record))}</pre>',
        heading("Settings"),
        table(run_tables.settings_of(params)),
        heading("Versions"),
        table(pd.Series(record["versions"], name="version").to_frame()),
    ]
    return "\n".join(parts)


def origin(record: Mapping[str, Any]) -> str:
    """What there is to say of the code that made a record."""
    found = state(record)
    if others := changed_files(record):
        return f"It was made from another {' and '.join(others)} than that which is here."
    if not is_certified(record):
        return ORIGINS[found]
    return CERTIFIED if found == "current" else f"{CERTIFIED} {ORIGINS[found]}"


def sub_models(record: Mapping[str, Any]) -> Iterator[str]:
    """What each level's slice of the final model can do, if that was measured."""
    if record.get("sub_models"):
        yield heading("The clients' own models")
        yield table(run_tables.sub_models_of(record))


def heading(text: str) -> str:
    """A section's."""
    return f"<h2>{text}</h2>"


def table(values: pd.DataFrame) -> str:
    """A table as those that cells print."""
    printed = values.to_html(classes="dataframe", border=0)
    return f'<div class="cell"><div class="cell_output pst-scrollable-table-container">{printed}</div></div>'


def image(figure: Figure, alt: str) -> str:
    """A figure that is part of the page."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    data = base64.b64encode(drawn.getvalue()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<div class="cell_output"><img alt="{html.escape(alt)}" src="{source}"></div>'


def alternative(record: Mapping[str, Any]) -> str:
    """What the curve shows, in words."""
    names = [metric.title for name, metric in METRICS.items() if f"best_{name}" in record["metrics"]]
    return f"{', '.join(names)} and local loss over {record['rounds_done']} communication rounds."
