"""How much runs scatter beside what their settings and their seeds explain. Nothing here needs torch."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from heterofl_core.evidence import Answer, Evidence, quantile
from heterofl_core.levels import Mix
from heterofl_core.paper import CELLS
from heterofl_core.params import RunParams
from heterofl_core.records import METRICS

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
    """That of the slices of a global model, which scatter more than the model itself."""
    return *kind(params), "slice"


@dataclass(frozen=True)
class Repeated:
    """What was measured of one setting with several seeds.

    Attributes:
        kind: of the setting.
        rounds: for which it ran.
        by_seed: values of one metric, on the scale on which gains are differences (`records.Metric.scale`).
    """

    kind: Kind
    rounds: int
    by_seed: Mapping[int, float]


def repeated(evidence: Evidence, params: RunParams, metric: str, which: str) -> list[Repeated]:
    """All settings on the data and the partition of a run that were run with several seeds.

    Args:
        metric, which: see `Answer.values`.
    """
    return [measured(answer, metric, which) for answer in alike(evidence, params)]


def measured(answer: Answer, metric: str, which: str) -> Repeated:
    """The global model, or the clients' own, of one setting."""
    return Repeated(kind(answer.params), answer.rounds, scaled(metric, answer.by_seed(metric, which)))


def repeated_slices(evidence: Evidence, params: RunParams, metric: str) -> list[Repeated]:
    """The same for the slices of the global model that were judged in the end."""
    found = [
        Repeated(slice_kind(answer.params), answer.rounds, scaled(metric, answer.slices(level, metric)))
        for answer in alike(evidence, params)
        for level in answer.sliced_levels
    ]
    return [one for one in found if len(one.by_seed) > 1]


def alike(evidence: Evidence, params: RunParams) -> list[Answer]:
    """The runs on one data set and partition with several seeds."""
    return [
        answer
        for answer in evidence.all_answers()
        if (answer.params.dataset, answer.params.partition) == (params.dataset, params.partition)
        and len(answer.records) > 1
    ]


def scaled(metric: str, values: Mapping[int, float]) -> dict[int, float]:
    """Values by seed as `Repeated` has them."""
    return {seed: METRICS[metric].scale(value) for seed, value in values.items()}


def pair_noise(pool: Sequence[Repeated], both: tuple[Kind, Kind], rounds: int) -> tuple[float, float]:
    """How much the difference of two runs with one seed scatters beside what their settings explain.

    It rests on settings of the same two kinds on the same data, which were repeated with several seeds for so
    many rounds or, if none were, for fewer. No third kind lends its noise: a method that swings from round to
    round says nothing of one that does not.

    Args:
        pool: all that was repeated on the same data and partition.
        both: the kinds of the two runs.
        rounds: for which they ran.

    Returns:
        A standard deviation and its degrees of freedom, which Welch and Satterthwaite's formula makes from
        those of the two kinds; NaN and 0 where one of the kinds was not repeated.
    """
    kinds = Counter(both)
    shorter = [one for one in pool if one.kind in kinds and one.rounds <= rounds]
    as_long = [one for one in shorter if one.rounds == rounds]
    for some in (as_long, shorter):
        variances = kind_variances(some)
        if variances.keys() == kinds.keys():
            parts = [(count * variances[name][0], variances[name][1]) for name, count in kinds.items()]
            variance = math.fsum(part for part, _ in parts)
            if not variance:
                return 0.0, math.fsum(freedom for _, freedom in parts)
            return math.sqrt(variance), variance**2 / math.fsum(part**2 / freedom for part, freedom in parts)
    return math.nan, 0


def half_width(noise: float, freedom: float, pairs: int) -> float:
    """Half of the 95 % interval of a mean over pairs; NaN where the noise is not known.

    Args:
        noise, freedom: see `pair_noise`.
    """
    return quantile(freedom) * noise / math.sqrt(pairs) if freedom else math.nan


def kind_variances(pool: Sequence[Repeated]) -> dict[Kind, tuple[float, float]]:
    """For each kind the variance of a run beside what its setting and its seed explain, and its degrees of
    freedom; none for a kind of which nothing is left to tell it from, or of which a run diverged.

    Least squares on value = setting + seed of that length + noise (blocks, in the language of experiments).
    A kind's degrees of freedom are the sum of 1 - h over its runs, where h is a run's leverage: how much of a
    change in its value the fit would follow. All kinds share the blocks, so the steadier one of two seems
    less steady than it is, and the wilder one a little steadier.
    """
    runs = pd.DataFrame(
        [
            (one.kind, str(setting), f"{one.rounds} {seed}", value)
            for setting, one in enumerate(pool)
            for seed, value in one.by_seed.items()
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
        for variance, freedom in kind_variances([measured(one, metric, "best") for one in answers]).values()
    ]
