"""How much better one setting is than another, from pairs of runs with one seed. Nothing here needs torch.

A seed decides the partition, the first weights and who takes part when, so two runs of one seed share much of
what makes a run lucky. Their difference scatters less than the runs themselves, on label-skewed data by far.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from heterofl_core.evidence import Answer, Evidence, how_long, quantile, rank
from heterofl_core.paper import CELLS
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS

Kind = tuple[str, ...]


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


def difference(evidence: Evidence, better: RunParams, worse: RunParams, metric: str) -> Difference | None:
    """How much better a setting is by a metric; None unless both ran with one seed, by one schedule and were
    evaluated equally often.

    A setting's own two or three pairs say little of their spread, so settings of one kind lend each other
    theirs: see `pair_noise`. This assumes that a seed moves these settings alike, up to a noise that is the
    same for all of a kind.
    """
    answers = compared(evidence, better, worse)
    if answers is None:
        return None
    first, second = (answer.by_seed(metric) for answer in answers)
    gains = [METRICS[metric].gain(first[seed], second[seed]) for seed in first.keys() & second.keys()]
    noise, freedom = pair_noise(evidence, (better, worse), metric, "best", answers[0].rounds)
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


def half_width(noise: float, freedom: float, pairs: int) -> float:
    """Half of the 95 % interval of a mean over pairs; NaN where the noise is not known.

    Args:
        noise, freedom: see `pair_noise`.
    """
    return quantile(freedom) * noise / math.sqrt(pairs) if freedom else math.nan


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


def kind(params: RunParams) -> Kind:
    """What decides how steadily a federation learns: settings of one kind are taken to scatter alike."""
    goal = () if params.predicted == "all" else (f"predicted {params.predicted}",)
    return params.method, params.arch, params.norm, params.masked_loss, params.selection, *goal


def pair_noise(
    evidence: Evidence, both: tuple[RunParams, RunParams], metric: str, which: str, rounds: int
) -> tuple[float, float]:
    """How much the difference of two runs with one seed scatters beside what their settings explain.

    It rests on settings of the same two kinds on the same data, which were repeated with several seeds for so
    many rounds or, if none were, for fewer. No third kind lends its noise: a method that swings from round to
    round says nothing of one that does not.

    Args:
        both: two settings on one data set and partition.
        metric, which: see `Answer.values`.
        rounds: for which they ran.

    Returns:
        A standard deviation and its degrees of freedom, which Welch and Satterthwaite's formula makes from
        those of the two kinds; NaN and 0 where one of the kinds was not repeated.
    """
    kinds = Counter(map(kind, both))
    repeated = [
        answer
        for answer in evidence.all_answers()
        if (answer.params.dataset, answer.params.partition) == (both[0].dataset, both[0].partition)
        and kind(answer.params) in kinds
        and answer.rounds <= rounds
        and len(answer.records) > 1
    ]
    as_long = [answer for answer in repeated if answer.rounds == rounds]
    for pool in (as_long, repeated):
        variances = kind_variances(pool, metric, which)
        if variances.keys() == kinds.keys():
            parts = [(count * variances[name][0], variances[name][1]) for name, count in kinds.items()]
            variance = math.fsum(part for part, _ in parts)
            if not variance:
                return 0.0, math.fsum(freedom for _, freedom in parts)
            return math.sqrt(variance), variance**2 / math.fsum(part**2 / freedom for part, freedom in parts)
    return math.nan, 0


def kind_variances(answers: Sequence[Answer], metric: str, which: str) -> dict[Kind, tuple[float, float]]:
    """For each kind the variance of a run beside what its setting and its seed explain, and its degrees of
    freedom; none for a kind of which nothing is left to tell it from, or of which a run diverged.

    Least squares on value = setting + seed of that length + noise (blocks, in the language of experiments).
    A kind's degrees of freedom are the sum of 1 - h over its runs, where h is a run's leverage: how much of a
    change in its value the fit would follow. All kinds share the blocks, so the steadier one of two seems
    less steady than it is, and the wilder one a little steadier.
    """
    runs = pd.DataFrame(
        [
            (kind(answer.params), str(setting), f"{answer.rounds} {seed}", METRICS[metric].scale(value))
            for setting, answer in enumerate(answers)
            for seed, value in answer.by_seed(metric, which).items()
        ],
        columns=["kind", "setting", "block", "value"],
    ).astype({"value": float})
    diverged = runs.loc[~np.isfinite(runs["value"]), "kind"]
    runs = runs[~runs["kind"].isin(set(diverged))]
    if runs.empty:
        return {}
    design = pd.get_dummies(runs[["setting", "block"]], dtype=float).to_numpy()  # (runs, settings + blocks)
    left = np.eye(len(runs)) - design @ np.linalg.pinv(design)  # what the fit does not follow
    parts = runs.assign(square=(left @ runs["value"].to_numpy()) ** 2, free=left.diagonal())
    sums = parts.groupby("kind")[["square", "free"]].sum()
    return {
        name: (square / free, free)
        for name, square, free in sums.itertuples()
        if free > 1e-9  # rounding
    }


@dataclass(frozen=True)
class Noise:
    """How much runs of one kind, data set, partition and length scatter in a metric.

    Attributes:
        deviation, freedom: see `kind_variances`.
        settings: with more than one seed; the others add nothing.
    """

    dataset: str
    partition: str
    kind: Kind
    rounds: int
    metric: str
    deviation: float
    freedom: float
    settings: int


def noises(evidence: Evidence) -> list[Noise]:
    """The noise of each kind in each result of the paper, as far as its own settings give it."""
    groups: dict[tuple[str, str, Kind, int], list[Answer]] = defaultdict(list)
    for answer in evidence.all_answers():
        if len(answer.records) > 1:
            params = answer.params
            groups[params.dataset, params.partition, kind(params), answer.rounds].append(answer)
    return [
        Noise(*group, metric, math.sqrt(variance), freedom, len(answers))
        for group, answers in sorted(groups.items())
        for metric in METRICS
        if (group[1], metric) in CELLS and f"best_{metric}" in answers[0].records[0]["metrics"]
        for variance, freedom in kind_variances(answers, metric, "best").values()
    ]
