"""How much better one setting is than another, from pairs of runs with one seed. Nothing here needs torch.

A seed decides the partition, the first weights and who takes part when, so two runs of one seed share much of
what makes a run lucky. Their difference scatters less than the runs themselves, on label-skewed data by far.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from heterofl_core.evidence import Answer, Evidence, how_long, quantile, rank
from heterofl_core.paper import CELLS
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS


@dataclass(frozen=True)
class Difference:
    """How much better one setting is than another.

    Attributes:
        value: the mean over pairs of one seed, in units of the metric, positive if better.
        half_width: of its 95 % interval, from the noise of pairs; NaN where that is not known.
        freedom: degrees of freedom of that noise; 0 where it is not known.
        pairs: how many there are.
        schedule: of both, see `Answer.schedule`.
        full: whether that is the paper's.
        state: of the code that made them, the worse one; see `evidence.state`.
    """

    value: float
    half_width: float
    freedom: int
    pairs: int
    schedule: str
    full: bool
    state: str


def difference(evidence: Evidence, better: RunParams, worse: RunParams, metric: str) -> Difference | None:
    """How much better a setting is by a metric; None unless both ran with one seed and by one schedule.

    A setting's own two or three pairs say little of their spread, so settings lend each other theirs: see
    `seed_noise`. This assumes that a seed moves these settings alike, up to a noise that is the same for all.
    """
    answers = compared(evidence, better, worse)
    if answers is None:
        return None
    first, second = (answer.by_seed(metric) for answer in answers)
    gains = [first[seed] - second[seed] for seed in first.keys() & second.keys()]
    noise, freedom = seed_noise(evidence, better, worse, metric, answers[0].rounds)
    both = Answer((*answers[0].records, *answers[1].records))
    return Difference(
        value=METRICS[metric].sign * math.fsum(gains) / len(gains),
        half_width=quantile(freedom) * noise * math.sqrt(2 / len(gains)) if freedom else math.nan,
        freedom=freedom,
        pairs=len(gains),
        schedule=both.schedule,
        full=both.params.protocol == "paper",
        state=both.state,
    )


def compared(evidence: Evidence, one: RunParams, other: RunParams) -> tuple[Answer, Answer] | None:
    """Answers to two questions that share seeds and a schedule, rather the asked one, or a long one."""
    pairs = [
        (first, second)
        for first in evidence.answers_to(one)
        for second in evidence.answers_to(other)
        if how_long(first.params) == how_long(second.params) and shared_seeds(first, second)
    ]

    def better(pair: tuple[Answer, Answer]) -> Any:
        return min(rank(pair[0], one), rank(pair[1], other)), shared_seeds(*pair)

    return max(pairs, key=better, default=None)


def shared_seeds(one: Answer, other: Answer) -> int:
    """How many seeds both were run with."""
    return len(set(one.seeds) & set(other.seeds))


def kind(params: RunParams) -> tuple[str, str, str]:
    """What decides how steadily a federation learns: settings of one kind are taken to scatter alike."""
    return params.method, params.arch, params.norm


def seed_noise(
    evidence: Evidence, one: RunParams, other: RunParams, metric: str, rounds: int
) -> tuple[float, int]:
    """How much a run scatters beside what its setting and its seed explain.

    It is that of settings of the two kinds, if both were repeated with several seeds for so many rounds; else
    of all settings; and if none were, of shorter ones, too: they scatter more, as a rule, so that errs to the
    wide side.

    Args:
        one, other: two settings on one data set and partition.
        rounds: for which they ran.

    Returns:
        A standard deviation and its degrees of freedom; NaN and 0 where no two settings share two seeds.
    """
    repeated = [
        answer
        for answer in evidence.all_answers()
        if (answer.params.dataset, answer.params.partition) == (one.dataset, one.partition)
        and answer.rounds <= rounds
        and len(answer.records) > 1
    ]
    as_long = [answer for answer in repeated if answer.rounds == rounds]
    kinds = {kind(one), kind(other)}
    own = [answer for answer in as_long if kind(answer.params) in kinds]
    pools = [as_long, repeated]
    if {kind(answer.params) for answer in own} == kinds:
        pools = [own, *pools]
    found = (residual(pool, metric) for pool in pools)
    return next(((noise, freedom) for noise, freedom in found if freedom), (math.nan, 0))


@dataclass(frozen=True)
class Noise:
    """How much runs of one data set, partition and length scatter in a metric.

    Attributes:
        deviation, freedom: see `residual`.
        settings: with more than one seed; the others add nothing.
    """

    dataset: str
    partition: str
    rounds: int
    metric: str
    deviation: float
    freedom: int
    settings: int


def noises(evidence: Evidence) -> list[Noise]:
    """The noise in each result of the paper, as far as the records give it."""
    groups: dict[tuple[str, str, int], list[Answer]] = defaultdict(list)
    for answer in evidence.all_answers():
        if len(answer.records) > 1:
            groups[answer.params.dataset, answer.params.partition, answer.rounds].append(answer)
    found = (
        Noise(*group, metric, *residual(answers, metric), len(answers))
        for group, answers in sorted(groups.items())
        for metric in METRICS
        if (group[1], metric) in CELLS and f"best_{metric}" in answers[0].records[0]["metrics"]
    )
    return [noise for noise in found if noise.freedom]


def residual(answers: Iterable[Answer], metric: str) -> tuple[float, int]:
    """What is left of runs when a constant for each setting and one for each seed are taken away.

    Least squares on value = setting + seed of that length + noise (blocks, in the language of experiments).

    Returns:
        The standard deviation of the noise and its degrees of freedom, NaN and 0 where nothing is left.
    """
    runs = pd.DataFrame(
        [
            (str(setting), f"{answer.rounds} {seed}", value)
            for setting, answer in enumerate(answers)
            for seed, value in answer.by_seed(metric).items()
        ],
        columns=["setting", "block", "value"],
    )
    if runs.empty:
        return math.nan, 0
    design = pd.get_dummies(runs[["setting", "block"]], dtype=float).to_numpy()  # (runs, settings + blocks)
    fitted, _, explained, _ = np.linalg.lstsq(design, runs["value"].to_numpy())
    freedom = len(runs) - int(explained)
    if not freedom:
        return math.nan, 0
    left = runs["value"].to_numpy() - design @ fitted
    return math.sqrt(float(left @ left) / freedom), freedom
