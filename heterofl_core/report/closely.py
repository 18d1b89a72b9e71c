"""The tables of the pages of "Reading the paper closely"; nothing here needs torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from heterofl_core.levels import LEVELS, width_rate
from heterofl_core.params import run_params
from heterofl_core.printing import fixed
from heterofl_core.records import METRICS
from heterofl_core.report.evidence import Answer
from heterofl_core.report.exhibits import all_evidence, not_run
from heterofl_core.report.tables import aligned
from heterofl_core.studies import combinations, values_of

NOTHING = dict.fromkeys(("Rounds", "Seeds", "Best", "Final"), "–")


def by_level(columns: Mapping[str, "Callable[[float], float] | pd.Series[Any]"], decimals: int = 2) -> Styler:
    """A row for each of the levels a to e.

    Args:
        columns: by title, a function of the width rate, or values by level, such as a paper's column.
        decimals: of numbers that are not counts.
    """
    values = {
        title: list(column[list(LEVELS)]) if isinstance(column, pd.Series) else of_levels(column)
        for title, column in columns.items()
    }
    return shown(pd.DataFrame({"level": list(LEVELS), **values}), decimals=decimals)


def of_levels(count: Callable[[float], float]) -> list[float]:
    """A function of the width rate at the levels a to e."""
    return [count(width_rate(level)) for level in LEVELS]


def shown(values: pd.DataFrame | Sequence[Sequence[Any]], *titles: str, decimals: int = 2) -> Styler:
    """A table of these pages: counts with commas, other numbers with so many decimals, words at the left.

    Args:
        values: a table, or its rows.
        titles: of the columns, if these are rows.
    """
    found = values if isinstance(values, pd.DataFrame) else pd.DataFrame(values, columns=list(titles))
    if found.empty:
        return aligned(pd.DataFrame({"missing": ["no such run yet"]}), text=["missing"])

    def text(value: Any) -> str:
        if isinstance(value, float):
            return "–" if math.isnan(value) else f"{value:,.{decimals}f}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    words = [str(name) for name in found if not pd.api.types.is_numeric_dtype(found[name])]
    return aligned(found.astype(object).map(text).rename(columns=str), text=words)


def recorded(metric: str, **settings: Any) -> Styler:
    """What this study's records say of some settings, a row for each schedule that was run; the caption has
    the metric with its unit, and what the settings have in common.

    Args:
        metric: in the names of `records.METRICS`.
        settings: in the names of `RunParams`; a list stands for each of its values, as in a study.
    """
    evidence = all_evidence()
    varied = [name for name, value in settings.items() if len(values_of(name, value)) > 1]
    rows = []
    for setting in combinations(settings):
        described = {"Setting": ", ".join(f"{name} {setting[name]}" for name in varied)} if varied else {}
        asked = run_params(**setting)
        answers = evidence.answers_to(asked)
        found = [summary(answer, metric) for answer in sorted(answers, key=lambda answer: answer.rounds)]
        rows += [described | one for one in found or [NOTHING | {"Code": not_run(asked)}]]
    fixed_ones = ", ".join(f"{name} {value}" for name, value in settings.items() if name not in varied)
    table = aligned(pd.DataFrame(rows), text=["Setting", "Code"])
    return table.set_caption(f"{METRICS[metric].title}: {METRICS[metric].axis}; {fixed_ones}")


def summary(answer: Answer, metric: str) -> dict[str, str]:
    """The mean over the seeds of one schedule: of the best evaluated round, and of the last one."""
    return {
        "Rounds": ", ".join([f"{answer.rounds}", *answer.precision]),
        "Seeds": f"{len(answer.records)}",
        "Best": fixed(float(np.mean(answer.values(metric)))),
        "Final": fixed(float(np.mean(answer.values(metric, "final")))),
        "Code": answer.state,
    }
