"""How much of the ledger hangs on the number of its comparisons, and on the best round. No torch."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from heterofl_core.report.claims import (
    WITH_INTERVAL,
    Judgement,
    all_judgements,
    outcomes,
    told,
    verdict,
    verdict_on,
)
from heterofl_core.report.exhibits import all_evidence

DECIDED = ("reproduced", "partly", "not reproduced")
"""The verdicts that say yes or no."""


def robustness() -> str:
    """How much hangs on the number of comparisons, and on the best round: Markdown."""
    best, final = (all_judgements(all_evidence(), which) for which in ("best", "final"))
    return f"{corrected(best)} {by_the_last_round(best, final)}"


def corrected(claims: Sequence[Sequence[Judgement]]) -> str:
    """What Holm's correction leaves of the outcomes and of the verdicts, in words.

    Args:
        claims: for each verdict, what came of its comparisons.
    """
    every = list(chain(*claims))
    by_all = told(every)
    counts, left = (Counter(outcomes(every, limit)) for limit in (1.0, by_all))
    decided = [some for some in claims if verdict_on(some) in DECIDED]
    stay = sum(verdict_on(some) == verdict(outcomes(some, by_all)) for some in decided)
    uncorrected = sum(verdict(outcomes(some, 1.0)) in DECIDED for some in claims)
    return (
        f"Of {sum(counts[came] for came in WITH_INTERVAL)} comparisons with an interval, {counts['holds']} "
        f"hold and {counts['fails']} fail. Holm's correction for all of them leaves {left['holds']} and "
        f"{left['fails']}. Of {len(decided)} verdicts that decide something ({', '.join(DECIDED)}, or their "
        f"weaker words), {stay} stay if each corrects for all comparisons and not for its claim's alone; "
        f"without any correction, {uncorrected} would decide something."
    )


def by_the_last_round(best: Sequence[Sequence[Judgement]], final: Sequence[Sequence[Judgement]]) -> str:
    """How much would be another if the last round were judged and not the best, in words; see `corrected`."""
    measured = [
        (one.outcome, other.outcome)
        for one, other in zip(chain(*best), chain(*final), strict=True)
        if one.outcome in WITH_INTERVAL
    ]
    verdicts = [(verdict_on(one), verdict_on(other)) for one, other in zip(best, final, strict=True)]
    enough = [(one, other) for one, other in verdicts if one != "not enough runs"]
    moved, turned = (sum(one != other for one, other in pairs) for pairs in (measured, enough))
    return (
        f"Judged by the last round and not by the best, {moved} of the {len(measured)} outcomes and {turned} "
        f"of the {len(enough)} verdicts with enough runs would be others."
    )
