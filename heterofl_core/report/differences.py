"""How much better one setting is than another, from pairs of runs with one seed and in one precision. Nothing
here needs torch.

A seed decides the partition, the first weights and who takes part when, so two runs of one seed share much of
what makes a run lucky. Their difference scatters less than the runs themselves, on label-skewed data by far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from heterofl_core.params import RunParams
from heterofl_core.records import METRICS
from heterofl_core.report.evidence import CONFIDENCE, Answer, Evidence, how_long, rank
from heterofl_core.report.noise import PairNoise, kind, pair_noise, repeated


@dataclass(frozen=True)
class Difference:
    """How much better one setting is than another.

    Attributes:
        value: the mean over pairs, in points of accuracy or as the logarithm of a ratio of
            perplexities, positive if better; NaN where a compared value is not finite.
        noise: of a pair.
        pairs: how many there are.
        schedule: of both, see `Answer.schedule`.
        full: whether that is the paper's.
        state: of the code that made them, the worse one; see `evidence.state`.
    """

    value: float
    noise: PairNoise
    pairs: int
    schedule: str
    full: bool
    state: str

    @property
    def half_width(self) -> float:
        """Of the 95 % interval; NaN where there is none."""
        return math.nan if math.isnan(self.value) else self.noise.half_width(self.pairs)

    def p_value(self, margin: float) -> float:
        """How often chance alone takes the mean so far from a margin; NaN where there is no interval."""
        return self.noise.p_value(self.value, self.pairs, margin)


def difference(
    evidence: Evidence,
    better: RunParams,
    worse: RunParams,
    metric: str,
    which: str = "best",
    schedule: str | None = None,
) -> Difference | None:
    """How much better a setting is by a metric; None unless both ran with one seed in one precision, by one
    schedule and were evaluated equally often.

    A setting's own two or three pairs say little of their spread, so settings of one kind lend each other
    theirs: see `pair_noise`. This assumes that a seed moves these settings alike, up to a noise that is the
    same for all of a kind.

    Args:
        metric, which: see `Answer.values`.
        schedule: by which alone they may be compared (see `evidence.how_long`); any unless given.
    """
    answers = compared(evidence, better, worse, schedule)
    if answers is None:
        return None
    gains = list(map(METRICS[metric].gain, *(answer.values(metric, which) for answer in answers)))
    pool = repeated(evidence, answers[0].params, metric, which)
    both = Answer((*answers[0].records, *answers[1].records))
    return Difference(
        value=math.fsum(gains) / len(gains) if all(map(math.isfinite, gains)) else math.nan,
        noise=pair_noise(pool, (kind(better), kind(worse)), answers[0].params),
        pairs=len(gains),
        schedule=both.schedule,
        full=both.full,
        state=both.state,
    )


def holm(chances: Sequence[float]) -> float:
    """The largest of some p-values that Holm's step-down procedure still tells from chance, at one level for
    all of them; 0 if it tells none.
    """
    limits = ((1 - CONFIDENCE) / left for left in range(len(chances), 0, -1))
    told = takewhile(lambda pair: pair[0] <= pair[1], zip(sorted(chances), limits, strict=True))
    return max((chance for chance, _ in told), default=0.0)


def compared(
    evidence: Evidence, one: RunParams, other: RunParams, schedule: str | None = None
) -> tuple[Answer, Answer] | None:
    """Of the answers to two questions the runs that are pairs, by one schedule and evaluated equally often:
    of today's code rather than of older one, by the asked schedule rather than by another, by a long one
    rather than by a short one. For `schedule` see `difference`.
    """
    pairs = [
        (ours, theirs)
        for first in evidence.answers_to(one)
        for second in evidence.answers_to(other)
        if how_long(first.params) == how_long(second.params)
        and schedule in (None, how_long(first.params))
        and first.params.eval_every == second.params.eval_every
        and (ours := first.beside(second))
        and (theirs := second.beside(first))
    ]

    def better(pair: tuple[Answer, Answer]) -> Any:
        return min(rank(pair[0], one), rank(pair[1], other))

    return max(pairs, key=better, default=None)
