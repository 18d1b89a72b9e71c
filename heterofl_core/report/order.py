"""Whether mixes come out in the order in which the paper prints them. Nothing here needs torch."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping

from heterofl_core.params import RunParams
from heterofl_core.records import METRICS
from heterofl_core.report.differences import difference
from heterofl_core.report.evidence import Evidence, how_long
from heterofl_core.report.noise import PairNoise
from heterofl_core.report.paper import BASELINES, paper_value, run_of_row, table


def order(evidence: Evidence, dataset: str, partition: str, metric: str) -> str:
    """How far our runs of the paper's schedule come out in the order of Table 5, 6 or 7, in words.

    A pair of mixes contradicts the paper only where ours lie the other way round by more than the 95 %
    interval of such a pair.
    """
    rows = [row for row in table(dataset).index if row not in BASELINES.values()]
    mixes = [run_of_row(dataset, partition, row) for row in rows]
    ran = {mix: answer for mix in mixes if (answer := evidence.answer(mix, how_long(mix)))}
    printed = {mix: value for mix in ran if (value := paper_value(mix, metric)) is not None}
    pairs = list(outcomes(evidence, printed, metric))
    older = sum(ran[mix].state == "stale" for mix in printed)
    marked = f", {older} of them with older code" if older else ""
    were_run = f"{len(printed)} of {len(mixes)} rows were run by the paper's schedule{marked}."
    if not pairs:
        return f"{were_run} Too few to have an order."
    counts = Counter(outcome for _, outcome, _ in pairs)
    against = [pair for pair, outcome, _ in pairs if outcome == "against"]
    named = f" ({', '.join(against)})" if against else ""
    unknown = counts["unknown"]
    borrowed = sum(
        outcome in ("within", "against") and noise.borrowed_rounds > 0 for _, outcome, noise in pairs
    )
    lent = f" Shorter runs lend {borrowed} of these intervals their scatter." if borrowed else ""
    return (
        f"{were_run} Of the {len(pairs)} pairs among them, {counts['as printed']} are in the paper's order, "
        f"{counts['within']} the other way round by no more than the interval of such a pair, {len(against)} "
        f"by more{named}{f', and {unknown} without an interval' if unknown else ''}.{lent}"
    )


def outcomes(
    evidence: Evidence, printed: Mapping[RunParams, float], metric: str
) -> Iterator[tuple[str, str, PairNoise]]:
    """Each pair of mixes that are printed with two different values, the better one first; how ours came out:
    `as printed`, or the other way round `within` their interval, `against` it, or with an `unknown` one; and
    on what that interval rests.

    Args:
        printed: the paper's value for each mix that was run.
    """
    for (one, its), (other, others) in itertools.combinations(printed.items(), 2):
        better, worse = (one, other) if METRICS[metric].gain(its, others) > 0 else (other, one)
        ours = difference(evidence, better, worse, metric, schedule=how_long(better))
        if its == others or ours is None or math.isnan(ours.value):
            continue
        if ours.value > 0:
            outcome = "as printed"
        elif math.isnan(ours.half_width):
            outcome = "unknown"
        else:
            outcome = "within" if ours.value + ours.half_width >= 0 else "against"
        yield f"{better.levels} before {worse.levels}", outcome, ours.noise
