"""The claims of `claims.py` as tables of the book. Nothing here needs torch."""

import html
import math
from collections import Counter
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from heterofl_core.claims import MEASURED, OUTCOMES, VERDICTS, Claim, Comparison, judged, read_claims, verdict
from heterofl_core.differences import noises
from heterofl_core.evidence import MARKS, Evidence
from heterofl_core.exhibits import all_evidence
from heterofl_core.paper import TABLES, paper_difference
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS
from heterofl_core.report import DATASETS, variation
from heterofl_core.tables import aligned, printed, signed

PLURAL = {"holds": "hold", "fails": "fail", "open": "open"}


def verdict_of(evidence: Evidence, claim: Claim, dataset: str) -> str:
    """What the runs on a data set say of a claim, and from how many outcomes; `–` if it makes no claim of it.

    Where a measured comparison is not by the paper's schedule, it says so.
    """
    judgements = [judged(evidence, one) for one in claim.of(dataset)]
    if not judgements:
        return "–"
    said = verdict([outcome for _, outcome in judgements])
    counts = Counter(outcome for _, outcome in judgements if outcome in MEASURED)
    if not counts:
        return f"{said} (0 of {len(judgements)})"
    measured = [found for found, outcome in judgements if found and outcome in MEASURED]
    short = "" if all(found.full for found in measured) else ", in short runs"
    found = ", ".join(f"{counts[name]} {PLURAL[name]}" for name in MEASURED if counts[name])
    return f"{said}{short} ({found} of {len(judgements)})"


def overview(page: str = "") -> Styler:
    """All claims with a verdict for each data set, and what came of its comparisons.

    Args:
        page: that has the details, as seen from the page of the table; the same one unless given.
    """
    evidence = all_evidence()
    rows = [
        {
            "": f'<a href="{page}#claim-{claim.number}">{claim.number}</a>',
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
        text = [
            name for name in rows.columns if name not in ("Margin", "Paper", "Ours", "±", "Pairs", "Freedom")
        ]
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
    paper = paper_difference(better, worse, comparison.metric)
    return {
        "Data": f"{DATASETS[better.dataset]}, {better.partition}",
        "Better": short(better, worse),
        "Worse": short(worse, better),
        "Metric": METRICS[comparison.metric].title,
        "Margin": signed(comparison.margin) if comparison.margin else "0",
        "Paper": "–" if paper is None else signed(METRICS[comparison.metric].sign * paper),
        "Ours": signed(found.value) + MARKS[found.state] if found else "–",
        "±": "–" if found is None or math.isnan(found.half_width) else f"{found.half_width:.2f}",
        "Pairs": str(found.pairs) if found else "–",
        "Freedom": str(found.freedom) if found and found.freedom else "–",
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


def scatter() -> Styler:
    """What the intervals rest on: how much runs scatter beside what setting and seed explain."""
    rows = [
        {
            "Data": f"{DATASETS[noise.dataset]}, {noise.partition}",
            "Rounds": str(noise.rounds),
            "Metric": METRICS[noise.metric].title,
            "Standard deviation": f"{noise.deviation:.2f}",
            "Degrees of freedom": str(noise.freedom),
            "Settings with several seeds": str(noise.settings),
        }
        for noise in noises(all_evidence())
    ]
    columns = ["Data", "Rounds", "Metric", "Standard deviation", "Degrees of freedom"]
    table = pd.DataFrame(rows, columns=[*columns, "Settings with several seeds"])
    return aligned(table, text=["Data", "Metric"])
