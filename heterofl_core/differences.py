"""How much better one setting is than another, from pairs of runs with one seed. Nothing here needs torch.

A seed decides the partition, the first weights and who takes part when, so two runs of one seed share much of
what makes a run lucky. Their difference scatters less than the runs themselves, on label-skewed data by far.
"""

import math
from dataclasses import dataclass
from typing import Any

from scipy import special

from heterofl_core.evidence import Answer, Evidence, how_long, quantile, rank
from heterofl_core.noise import half_width, kind, pair_noise, repeated
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS


@dataclass(frozen=True)
class Difference:
    """How much better one setting is than another.

    Attributes:
        value: the mean over pairs of one seed, in points of accuracy or as the logarithm of a ratio of
            perplexities, positive if better; NaN where a run diverged.
        half_width: of its 95 % interval, from the noise of pairs; NaN where that is not known, or a run
            diverged.
        freedom: degrees of freedom of that noise; 0 where it is not known.
        pairs: how many there are.
        schedule: of both, see `Answer.schedule`.
        full: whether that is the paper's.
        state: of the code that made them, the worse one; see `evidence.state`.
    """

    value: float
    half_width: float
    freedom: float
    pairs: int
    schedule: str
    full: bool
    state: str

    def p_value(self, margin: float) -> float:
        """How often chance alone takes the mean so far from a margin, by Student's distribution; NaN where
        there is no interval.
        """
        if math.isnan(self.half_width):
            return math.nan
        if not self.half_width:
            return float(self.value == margin)
        errors = abs(self.value - margin) / self.half_width * quantile(self.freedom)
        return 2 * float(special.stdtr(self.freedom, -errors))


def difference(
    evidence: Evidence, better: RunParams, worse: RunParams, metric: str, which: str = "best"
) -> Difference | None:
    """How much better a setting is by a metric; None unless both ran with one seed, by one schedule and were
    evaluated equally often.

    A setting's own two or three pairs say little of their spread, so settings of one kind lend each other
    theirs: see `pair_noise`. This assumes that a seed moves these settings alike, up to a noise that is the
    same for all of a kind.

    Args:
        metric, which: see `Answer.values`.
    """
    answers = compared(evidence, better, worse)
    if answers is None:
        return None
    first, second = (answer.by_seed(metric, which) for answer in answers)
    gains = [METRICS[metric].gain(first[seed], second[seed]) for seed in first.keys() & second.keys()]
    pool = repeated(evidence, better, metric, which)
    noise, freedom = pair_noise(pool, (kind(better), kind(worse)), answers[0].rounds)
    diverged = not all(map(math.isfinite, gains))
    both = Answer((*answers[0].records, *answers[1].records))
    return Difference(
        value=math.nan if diverged else math.fsum(gains) / len(gains),
        half_width=math.nan if diverged else half_width(noise, freedom, len(gains)),
        freedom=freedom,
        pairs=len(gains),
        schedule=both.schedule,
        full=both.full,
        state=both.state,
    )


def compared(evidence: Evidence, one: RunParams, other: RunParams) -> tuple[Answer, Answer] | None:
    """Answers to two questions that share seeds, a schedule and the rounds between evaluations, rather the
    asked schedule, or a long one.
    """
    pairs = [
        (first, second)
        for first in evidence.answers_to(one)
        for second in evidence.answers_to(other)
        if how_long(first.params) == how_long(second.params)
        and first.params.eval_every == second.params.eval_every
        and shared_seeds(first, second)
    ]

    def better(pair: tuple[Answer, Answer]) -> Any:
        return min(rank(pair[0], one), rank(pair[1], other)), shared_seeds(*pair)

    return max(pairs, key=better, default=None)


def shared_seeds(one: Answer, other: Answer) -> int:
    """How many seeds both were run with."""
    return len(set(one.seeds) & set(other.seeds))
