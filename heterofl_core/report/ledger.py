"""The claims of `claims.py` as tables of the book. Nothing here needs torch."""

import html
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from heterofl_core.params import RunParams, run_params
from heterofl_core.printing import signed
from heterofl_core.records import METRICS
from heterofl_core.report.claims import (
    IN_SHORT_RUNS,
    OUTCOMES,
    VERDICTS,
    WITH_INTERVAL,
    Claim,
    Comparison,
    all_judgements,
    judged,
    read_claims,
    read_question,
    verdict_on,
)
from heterofl_core.report.evidence import MARKS, Evidence
from heterofl_core.report.exhibits import all_evidence
from heterofl_core.report.noise import noises
from heterofl_core.report.paper import TABLES, paper_gain
from heterofl_core.report.tables import aligned, printed, searchable
from heterofl_core.report.titles import DATASETS, dataset_title, variation

PLURAL = {"holds": "hold", "fails": "fail", "open": "open"}
NUMBERS = ("Margin", "Paper", "Ours", "±", "Pairs", "Freedom")
"""Columns of a comparison that are numbers."""


def verdict_of(evidence: Evidence, claim: Claim, dataset: str) -> str:
    """What the runs on a data set say of a claim, and from how many outcomes; `–` if it makes no claim of it.

    Where a measured comparison is not by the paper's schedule, it says so, in weaker words; where all are,
    but the scatter behind an interval is not, it says that.
    """
    judgements = [judged(evidence, one) for one in claim.of(dataset)]
    if not judgements:
        return "–"
    said = verdict_on(judgements)
    counts = Counter(one.outcome for one in judgements if one.outcome in WITH_INTERVAL)
    if said == "not enough runs":
        run = sum(one.found is not None for one in judgements)
        told = f" run, {counts.total()} with an interval" if run else ""
        return f"{said} ({run} of {len(judgements)}{told})"
    measured = [one.found for one in judgements if one.found and one.outcome in WITH_INTERVAL]
    counted = ", ".join(f"{counts[name]} {PLURAL[name]}" for name in WITH_INTERVAL if counts[name])
    if not all(found.full for found in measured):
        said = f"{IN_SHORT_RUNS.get(said, said)}, in short runs"
    elif any(found.noise.borrowed_rounds for found in measured):
        said = f"{said}, by the scatter of short runs"
    return f"{said} ({counted} of {len(judgements)})"


def overview(page: str = "") -> Styler:
    """All claims with a verdict for each data set, and what came of its comparisons; * marks a note.

    Args:
        page: that has the details, as seen from the page of the table; the same one unless given.
    """
    evidence = all_evidence()
    rows = [
        {
            "": f'<a href="{page}#claim-{claim.number}">{claim.number}</a>',
            "The paper claims": claim.text + (" *" if claim.note else ""),
            **{DATASETS[dataset]: verdict_of(evidence, claim, dataset) for dataset in TABLES},
        }
        for claim in read_claims()
    ]
    return printed(pd.DataFrame(rows))


def in_short() -> str:
    """How many of the claims, on how many of the data sets, came out in which way: a sentence."""
    said = Counter(map(verdict_on, all_judgements(all_evidence())))
    return (
        f"Pairs of a claim and a data set: {said.total()}. Of these {said['reproduced']} reproduced or, in "
        f"short runs, supported; {said['not reproduced']} not reproduced or, in short runs, not borne out; "
        f"{said['partly']} in part; {said['undecided']} undecided; {said['not enough runs']} with too few "
        "runs."
    )


def details() -> str:
    """Each claim with its comparisons, as HTML."""
    evidence = all_evidence()
    sections = []
    for claim in read_claims():
        notes = "".join(f"<p>{html.escape(text)}</p>" for text in (claim.source, claim.note) if text)
        table = shown(lines(evidence, claim.comparisons)).to_html()
        sections.append(
            f'<details class="plain claim" id="claim-{claim.number}">'
            f"<summary>{claim.number}. {html.escape(claim.text)}</summary>{notes}"
            f'<div class="pst-scrollable-table-container">{table}</div></details>'
        )
    return "\n".join(sections)


def question(name: str, which: str = "best") -> Styler:
    """The comparisons of a question of ours, none of which has to come out in one way.

    Args:
        name: see `claims.read_question`.
        which: see `Answer.values`.
    """
    rows = lines(all_evidence(), read_question(name), which).drop(columns="Outcome")
    return searchable(shown(rows.rename(columns={"Expected better": "First", "Than": "Second"})))


def lines(evidence: Evidence, comparisons: Sequence[Comparison], which: str = "best") -> pd.DataFrame:
    """A line for each comparison, without columns that say nothing of any.

    Args:
        which: see `Answer.values`.
    """
    rows = pd.DataFrame([row(evidence, one, which) for one in comparisons])
    empty = [name for name, nothing in (("Margin", "0"), ("Paper", "–")) if (rows[name] == nothing).all()]
    return rows.drop(columns=empty)


def shown(rows: pd.DataFrame) -> Styler:
    """What `lines` gives, for a page."""
    return aligned(rows, [name for name in rows.columns if name not in NUMBERS])


def row(evidence: Evidence, comparison: Comparison, which: str = "best") -> dict[str, Any]:
    """A line of a table; differences are positive if the first setting is the better one."""
    found, came, _ = judged(evidence, comparison, which)
    better, worse = comparison.better, comparison.worse
    paper = paper_gain(better, worse, comparison.metric)
    metric = METRICS[comparison.metric]
    return {
        "Data": f"{dataset_title(better.dataset)}, {better.partition}",
        "Expected better": short(better, worse),
        "Than": short(worse, better),
        "Metric": metric.title + (", logarithm" if metric.is_logarithmic else ""),
        "Margin": signed(comparison.margin) if comparison.margin else "0",
        "Paper": "–" if paper is None else signed(paper),
        "Ours": signed(found.value) + MARKS[found.state] if found else "–",
        "±": "–" if found is None or math.isnan(found.half_width) else f"{found.half_width:.2f}",
        "Pairs": str(found.pairs) if found else "–",
        "Freedom": (found and found.noise.basis) or "–",
        "Outcome": came,
        "Schedule": found.schedule if found else "",
    }


def short(run: RunParams, other: RunParams) -> str:
    """What tells a run from the one that it is compared with, and from others, behind its levels."""
    changed = variation(run.model_dump(mode="json"))
    usual = run_params(dataset=run.dataset, levels=run.levels).assignment
    told = run.assignment != usual or (run.levels == other.levels and run.assignment != other.assignment)
    return ", ".join([run.levels, *([run.assignment] if told else []), *([changed] if changed else [])])


def rules() -> Styler:
    """What outcomes and verdicts mean."""
    rows = [("a comparison", name, text) for name, text in OUTCOMES.items()]
    rows += [("a claim", " or ".join(words(name)), text) for name, text in VERDICTS.items()]
    return printed(pd.DataFrame(rows, columns=["of", "is said", "if"]))


def words(verdict: str) -> list[str]:
    """A verdict, and what is said instead of it in short runs, if that is another word."""
    return [verdict, *filter(None, [IN_SHORT_RUNS.get(verdict)])]


def scatter() -> Styler:
    """How much runs of a kind scatter beside what setting and seed explain, where its own settings tell; an
    interval rests on that, or on a fit of both of its kinds together, or on shorter runs. Behind the levels
    of each setting how much its own runs scatter.
    """
    rows = [
        {
            "Data": f"{dataset_title(noise.dataset)}, {noise.partition}",
            "Kind": ", ".join(noise.kind),
            "Rounds": str(noise.rounds),
            "Metric": METRICS[noise.metric].title,
            "Standard deviation": f"{noise.deviation:.2f}",
            "Degrees of freedom": f"{noise.freedom:.1f}",
            "Levels": ", ".join(f"{levels} ({deviation:.2f})" for levels, deviation in noise.settings),
        }
        for noise in noises(all_evidence())
    ]
    text = ["Data", "Kind", "Metric", "Levels"]
    columns = [*text[:2], "Rounds", "Metric", "Standard deviation", "Degrees of freedom", "Levels"]
    return aligned(pd.DataFrame(rows, columns=columns), text)
