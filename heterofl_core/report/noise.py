"""How much runs scatter beside what their settings and their seeds explain. Nothing here needs torch."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import numpy as np
from scipy import special

from heterofl_core.levels import Mix
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS
from heterofl_core.report.evidence import CROWD, Answer, Evidence, how_long, quantile
from heterofl_core.report.paper import CELLS

Kind = tuple[str, ...]


def kind(params: RunParams) -> Kind:
    """What decides how steadily a federation learns: settings of one kind are taken to scatter alike.

    Ordinary batch norm has a kind for a single level: where levels are mixed, its running estimates are of
    layers of different widths, and it breaks.
    """
    more = [] if params.predicted == "all" else [f"predicted {params.predicted}"]
    if params.norm == "bn" and len(Mix.parse(params.levels).levels) == 1:
        more.append("one level")
    return params.method, params.arch, params.norm, params.masked_loss, params.selection, *more


def slice_kind(params: RunParams) -> Kind:
    """That of the slices of a global model, which scatter otherwise than the model itself."""
    return *kind(params), "slice"


@dataclass(frozen=True)
class Repeated:
    """What was measured of one setting with several seeds.

    Attributes:
        kind: of the setting.
        length: for how long it trained, and how; see `evidence.how_long`.
        rounds: of each run.
        by_seed: values of one metric, on the scale on which gains are differences (`records.Metric.scale`).
    """

    kind: Kind
    length: str
    rounds: int
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class PairNoise:
    """How much the difference of two runs with one seed scatters beside what their settings explain.

    Attributes:
        deviation: a standard deviation; NaN where it is not known.
        freedom: its degrees of freedom; 0 where it is not known.
        borrowed_rounds: where it is that of shorter runs, the rounds of the longest of them; else 0.
    """

    deviation: float = math.nan
    freedom: float = 0
    borrowed_rounds: int = 0

    @property
    def basis(self) -> str:
        """The degrees of freedom, and the rounds of shorter runs where they are those of such; empty if there
        are none.
        """
        borrowed = f" ({self.borrowed_rounds} rounds)" if self.borrowed_rounds else ""
        return f"{self.freedom:.1f}{borrowed}" if self.freedom else ""

    def half_width(self, pairs: int) -> float:
        """Half of the 95 % interval of a mean over pairs; NaN where the noise is not known."""
        return quantile(self.freedom) * self.deviation / math.sqrt(pairs) if self.freedom else math.nan

    def p_value(self, gain: float, pairs: int, margin: float = 0.0) -> float:
        """How often chance alone takes a mean over pairs so far from a margin, by Student's distribution; NaN
        where there is no interval.
        """
        if not self.freedom or not math.isfinite(gain):
            return math.nan
        if not self.deviation:
            return float(gain == margin)
        errors = abs(gain - margin) / self.deviation * math.sqrt(pairs)
        return 2 * float(special.stdtr(self.freedom, -errors))


def repeated(evidence: Evidence, params: RunParams, metric: str, which: str) -> list[Repeated]:
    """All settings with the data, the partition and the clients of a run that were run with several seeds.

    Args:
        metric, which: see `Answer.values`.
    """
    return [
        measured(answer, kind(answer.params), metric, answer.by_seed(metric, which))
        for answer in evidence.repeated
        if data_of(answer.params) == data_of(params)
    ]


def repeated_slices(evidence: Evidence, params: RunParams, metric: str) -> list[Repeated]:
    """The same for slices beside the final models of levels alone. Of each mix it is the smallest slice only,
    since a mix's model and its slices are lucky together.
    """
    found = []
    for answer in evidence.repeated:
        if data_of(answer.params) != data_of(params):
            continue
        if levels := answer.sliced_levels:
            slices = answer.slices(levels[-1], metric)
            found.append(measured(answer, slice_kind(answer.params), metric, slices))
        else:
            found.append(measured(answer, kind(answer.params), metric, answer.by_seed(metric, "final")))
    return [one for one in found if len(one.by_seed) > 1]


def measured(answer: Answer, kind: Kind, metric: str, by_seed: Mapping[int, float]) -> Repeated:
    """What some runs found, on the scale of the metric."""
    values = {seed: METRICS[metric].scale(value) for seed, value in by_seed.items()}
    return Repeated(kind, how_long(answer.params), answer.rounds, values)


def data_of(params: RunParams) -> tuple[str | float, ...]:
    """What runs must share to scatter alike: who has which data, and how many take part."""
    return params.dataset, params.partition, *(getattr(params, name) for name in CROWD)


def pair_noise(pool: Sequence[Repeated], both: tuple[Kind, Kind], params: RunParams) -> PairNoise:
    """How much the difference of two runs with one seed scatters beside what their settings explain.

    It rests on settings of the same two kinds on the same data, which were repeated with several seeds for as
    long or, if none were, for fewer rounds. No third kind lends its noise: a method that swings from round to
    round says nothing of one that does not. The degrees of freedom are those of Welch and Satterthwaite's
    formula, from those of the two kinds.

    Args:
        pool: all that was repeated on the same data and partition.
        both: the kinds of the two runs.
        params: of one of them.
    """
    kinds = Counter(both)
    usable = [one for one in pool if one.kind in kinds]
    as_long = [one for one in usable if one.length == how_long(params)]
    shorter = [one for one in usable if one.rounds < params.rounds]
    for some in (as_long, as_long + shorter):
        variances = kind_variances(some)
        if variances.keys() == kinds.keys():
            parts = [(count * variances[name][0], variances[name][1]) for name, count in kinds.items()]
            variance = math.fsum(part for part, _ in parts)
            freedom = (
                variance**2 / math.fsum(part**2 / freedom for part, freedom in parts)
                if variance
                else math.fsum(freedom for _, freedom in parts)
            )
            borrowed = 0 if some is as_long else max(one.rounds for one in shorter)
            return PairNoise(math.sqrt(variance), freedom, borrowed)
    return PairNoise()


def kind_variances(pool: Sequence[Repeated]) -> dict[Kind, tuple[float, float]]:
    """For each kind the variance of a run beside what its setting and its seed explain, and its degrees of
    freedom; none for a kind of which nothing is left to tell it from, or of which a run diverged.

    Least squares on value = setting + seed of that length + noise (blocks, in the language of experiments).
    A kind's degrees of freedom are the sum of 1 - h over its runs, where h is a run's leverage: how much of a
    change in its value the fit would follow. All kinds share the blocks, so the steadier one of two seems
    less steady than it is, and the wilder one steadier: if it is one of four settings, its variance is
    expected to be three quarters its own and a quarter the others'.
    """
    runs = [
        (one.kind, setting, (one.length, seed), value)
        for setting, one in enumerate(pool)
        for seed, value in one.by_seed.items()
    ]
    diverged = {kind for kind, *_, value in runs if not math.isfinite(value)}
    runs = [run for run in runs if run[0] not in diverged]
    if not runs:
        return {}
    kinds, settings, blocks, values = zip(*runs, strict=True)
    design = np.hstack([indicators(settings), indicators(blocks)])
    left = np.eye(len(runs)) - design @ np.linalg.pinv(design)  # what the fit does not follow
    squares = indicators(kinds).T @ (left @ values) ** 2
    freedoms = indicators(kinds).T @ left.diagonal()
    found = zip(dict.fromkeys(kinds), squares, freedoms, strict=True)
    return {kind: (square / free, free) for kind, square, free in found if free > 1e-9}  # rounding


def indicators(values: Sequence[Hashable]) -> np.ndarray:
    """Whether each is the first of the distinct values, the second, ...: ones and zeros, shape (values,
    distinct values).
    """
    return np.array([[float(value == one) for one in dict.fromkeys(values)] for value in values])


@dataclass(frozen=True)
class Noise:
    """How much runs of one kind, data set, partition and length scatter in a metric.

    Attributes:
        deviation, freedom: see `kind_variances`.
        settings: those with more than one seed (the others add nothing): the levels of each, and the standard
            deviation of its own runs, which has in it what the seeds explain.
    """

    dataset: str
    partition: str
    kind: Kind
    rounds: int
    metric: str
    deviation: float
    freedom: float
    settings: tuple[tuple[str, float], ...]


def noises(evidence: Evidence) -> list[Noise]:
    """The noise of each kind in each result of the paper, as far as its own settings give it."""
    groups: dict[tuple[Any, ...], list[Answer]] = defaultdict(list)
    for answer in evidence.repeated:
        params = answer.params
        groups[*data_of(params), kind(params), answer.rounds, how_long(params)].append(answer)
    found = []
    for (dataset, partition, *_, of_kind, rounds, _), answers in sorted(groups.items()):
        for metric in METRICS:
            if (partition, metric) in CELLS and f"best_{metric}" in answers[0].records[0]["metrics"]:
                pool = [measured(one, of_kind, metric, one.by_seed(metric)) for one in answers]
                settings = tuple(
                    (answer.params.levels, stdev(one.by_seed.values()))
                    for answer, one in zip(answers, pool, strict=True)
                )
                found += [
                    Noise(dataset, partition, of_kind, rounds, metric, math.sqrt(variance), freedom, settings)
                    for variance, freedom in kind_variances(pool).values()
                ]
    return found
