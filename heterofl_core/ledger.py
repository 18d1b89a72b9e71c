"""The claims of `claims.py` as tables of the book. Nothing here needs torch."""

import html
import math
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from heterofl_core.claims import OUTCOMES, VERDICTS, Claim, Comparison, judged, read_claims, verdict
from heterofl_core.evidence import Evidence
from heterofl_core.exhibits import all_evidence
from heterofl_core.paper import TABLES, paper_value
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS
from heterofl_core.report import DATASETS, variation
from heterofl_core.tables import aligned, printed, signed


def verdict_of(evidence: Evidence, claim: Claim, dataset: str) -> str:
    """What the runs on a data set say of a claim; `–` if it makes no claim about it."""
    outcomes = [judged(evidence, one)[1] for one in claim.of(dataset)]
    if not outcomes:
        return "–"
    measured = sum(outcome in ("holds", "fails", "open") for outcome in outcomes)
    return f"{verdict(outcomes)} ({measured} of {len(outcomes)})"


def overview() -> Styler:
    """All claims with a verdict for each data set, and how many of its comparisons were measured."""
    evidence = all_evidence()
    rows = [
        {
            "": f'<a href="#claim-{claim.number}">{claim.number}</a>',
            "The paper claims": claim.text,
            **{DATASETS[dataset]: verdict_of(evidence, claim, dataset) for dataset in TABLES},
        }
        for claim in read_claims()
    ]
    return printed(pd.DataFrame(rows))


def details() -> str:
    """Each claim with its comparisons, as HTML."""
    evidence = all_evidence()
    sections = []
    for claim in read_claims():
        rows = pd.DataFrame([row(evidence, one) for one in claim.comparisons])
        text = [name for name in rows.columns if name not in ("Margin", "Paper", "Ours", "±", "Pairs")]
        sections.append(
            f'<details class="plain claim" id="claim-{claim.number}">'
            f"<summary>{claim.number}. {html.escape(claim.text)}</summary><p>{html.escape(claim.source)}</p>"
            f'<div class="pst-scrollable-table-container">{aligned(rows, text).to_html()}</div></details>'
        )
    return "\n".join(sections)


def row(evidence: Evidence, comparison: Comparison) -> dict[str, Any]:
    """A line of a claim's table; differences are positive if the first setting is the better one."""
    found, came = judged(evidence, comparison)
    better, worse = comparison.better, comparison.worse
    printed_values = [paper_value(run, comparison.metric) for run in (better, worse)]
    paper = "–"
    if printed_values[0] is not None and printed_values[1] is not None:
        paper = signed(METRICS[comparison.metric].sign * (printed_values[0] - printed_values[1]))
    return {
        "Data": f"{DATASETS[better.dataset]}, {better.partition}",
        "Better": short(better, worse),
        "Worse": short(worse, better),
        "Metric": METRICS[comparison.metric].title,
        "Margin": signed(comparison.margin) if comparison.margin else "0",
        "Paper": paper,
        "Ours": signed(found.value) if found else "–",
        "±": "–" if found is None or math.isnan(found.half_width) else f"{found.half_width:.2f}",
        "Pairs": str(found.pairs) if found else "–",
        "Outcome": came,
        "Schedule": found.schedule if found else "",
    }


def short(run: RunParams, other: RunParams) -> str:
    """What tells a run from the one that it is compared with, behind its levels."""
    ours, theirs = (one.model_dump(mode="json") for one in (run, other))
    changed = variation(ours)
    assignment = (
        [run.assignment]
        if ours["levels"] == theirs["levels"] and ours["assignment"] != theirs["assignment"]
        else []
    )
    return ", ".join([run.levels, *assignment, *([changed] if changed else [])])


def rules() -> Styler:
    """What outcomes and verdicts mean."""
    rows = [("a comparison", name, text) for name, text in OUTCOMES.items()]
    rows += [("a claim", name, text) for name, text in VERDICTS.items()]
    return printed(pd.DataFrame(rows, columns=["of", "is said", "if"]))
