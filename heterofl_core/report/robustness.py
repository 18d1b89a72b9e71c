"""How much of the ledger hangs on the number of its comparisons, and on the best round. No torch."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from heterofl_core.report.claims import WITH_INTERVAL, Comparison, judged, read_claims, verdict
from heterofl_core.report.differences import holm
from heterofl_core.report.evidence import Evidence
from heterofl_core.report.exhibits import all_evidence
from heterofl_core.report.paper import TABLES

DECIDED = ("reproduced", "partly", "not reproduced")
"""The verdicts that say yes or no."""

Chance = tuple[str, float]
"""What came of a comparison, and how often chance alone would do so; see `chances`."""


def robustness() -> str:
    """How much hangs on the number of comparisons, and on the best round: Markdown."""
    evidence = all_evidence()
    asked = [some for claim in read_claims() for dataset in TABLES if (some := claim.of(dataset))]
    best, final = ([chances(evidence, some, which) for some in asked] for which in ("best", "final"))
    return f"{corrected(best)} {by_the_last_round(best, final)}"


def corrected(claims: Sequence[Sequence[Chance]]) -> str:
    """What Holm's correction leaves of the outcomes and of the verdicts, in words.

    Args:
        claims: for each verdict, the `chances` of its comparisons.
    """
    together = told(chain(*claims))
    counts, left = (Counter(outcomes(chain(*claims), limit)) for limit in (1.0, together))
    decided = [some for some in claims if verdict(outcomes(some)) in DECIDED]
    by_themselves, by_all = (
        sum(verdict(outcomes(some)) == verdict(outcomes(some, limit_of(some))) for some in decided)
        for limit_of in (told, lambda _: together)
    )
    return (
        f"Of {sum(counts[came] for came in WITH_INTERVAL)} comparisons with an interval, {counts['holds']} "
        f"hold and {counts['fails']} fail. Holm's correction for all of them leaves {left['holds']} and "
        f"{left['fails']}. Of {len(decided)} verdicts that decide something ({', '.join(DECIDED)}, or their "
        f"weaker words), {by_themselves} stay if each corrects for its own comparisons, and {by_all} if each "
        "corrects for all."
    )


def by_the_last_round(best: Sequence[Sequence[Chance]], final: Sequence[Sequence[Chance]]) -> str:
    """How much would be another if the last round were judged and not the best, in words; see `corrected`."""
    measured = [
        (one, other)
        for (one, _), (other, _) in zip(chain(*best), chain(*final), strict=True)
        if one in WITH_INTERVAL
    ]
    verdicts = [[verdict(outcomes(some)) for some in both] for both in zip(best, final, strict=True)]
    enough = [(one, other) for one, other in verdicts if one != "not enough runs"]
    moved, turned = (sum(one != other for one, other in pairs) for pairs in (measured, enough))
    return (
        f"Judged by the last round and not by the best, {moved} of the {len(measured)} outcomes and {turned} "
        f"of the {len(enough)} verdicts with enough runs would be others."
    )


def chances(evidence: Evidence, comparisons: Sequence[Comparison], which: str) -> list[Chance]:
    """The outcome of each comparison, and its p-value at the margin, NaN where there is no interval; for
    `which` see `Answer.values`.
    """
    found = [(one, *judged(evidence, one, which)) for one in comparisons]
    return [
        (came, measured.p_value(one.margin) if measured and came in WITH_INTERVAL else math.nan)
        for one, measured, came in found
    ]


def told(comparisons: Iterable[Chance]) -> float:
    """The largest p-value that Holm's correction for some comparisons tells from chance."""
    return holm([chance for came, chance in comparisons if came in WITH_INTERVAL])


def outcomes(comparisons: Iterable[Chance], limit: float = 1.0) -> list[str]:
    """What came of some comparisons, if those with a larger p-value than a limit are open."""
    return ["open" if chance > limit else came for came, chance in comparisons]
