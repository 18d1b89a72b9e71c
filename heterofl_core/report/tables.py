"""How tables look on a page of the book. Nothing here needs torch."""

from collections.abc import Collection, Hashable
from typing import Any

import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

NOT_RUN = '<p class="plain">Not run.</p>'
"""What a page says in place of an empty table or figure."""


def unless_empty(table: Styler) -> Styler | HTML:
    """The table, or words in place of one without rows."""
    return HTML(NOT_RUN) if vars(table)["data"].empty else table


def printed(table: pd.DataFrame) -> Styler:
    """A table for a page, without the numbers of its rows."""
    # The theme styles what has this class, light and dark.
    return table.style.hide(axis="index").set_table_attributes('class="dataframe"')


def searchable(table: Styler) -> Styler:
    """The same table, which a reader may sort and search."""
    return table.set_table_attributes('class="dataframe searchable"')


def aligned(table: pd.DataFrame, text: Collection[str]) -> Styler:
    """A table whose numbers stand below each other.

    Args:
        table: of texts with equal decimals, where they are numbers.
        text: columns that hold words, and stay at the left.
    """
    numbers: list[Hashable] = [name for name in table.columns if name not in text]
    right = {"text-align": "right", "font-variant-numeric": "tabular-nums"}
    head: list[Any] = [
        {"selector": f"th.col{place}", "props": f"text-align: {'left' if name in text else 'right'}"}
        for place, name in enumerate(table.columns)
    ]
    return printed(table).set_properties(subset=numbers, **right).set_table_styles(head)


def run_link(run_id: str, text: str) -> str:
    """A text that leads from a page of the report to a run's own."""
    return f'<a href="../runs/{run_id}.html">{text}</a>'
