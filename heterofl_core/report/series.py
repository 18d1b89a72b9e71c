"""What the paper's figures show, as tables: interpolation between two levels, and learning curves."""

import itertools
import math
from statistics import fmean
from typing import Any

import pandas as pd

from heterofl_core.levels import LEVELS
from heterofl_core.params import RunParams, run_params
from heterofl_core.records import METRICS, machine_of_record, read_rounds
from heterofl_core.report.evidence import Answer, Evidence, estimate, how_long
from heterofl_core.report.noise import PairNoise, kind, pair_noise, repeated_slices, slice_kind
from heterofl_core.report.paper import paper_value

PAIRS = tuple(itertools.combinations(LEVELS, 2))
"""A larger and a smaller level, as each line of Figures 2 to 11 has them; which pairs
Figures 9 to 11 show, the paper does not say.
"""

BESIDE = ("sliced", "alone", "gain", "half_width", "chance", "basis", "seeds")
"""What is told of a slice beside its level alone; see `sub_models`."""


def mixed(dataset: str, partition: str, pair: tuple[str, str], tenths: int) -> RunParams:
    """The run in which so many tenths of the clients have the larger level, the others the smaller one."""
    large, small = pair
    levels = {0: small, 10: large}.get(tenths, f"{large}{tenths}-{small}{10 - tenths}")
    return run_params(dataset=dataset, partition=partition, levels=levels, assignment="fix")


def interpolation(evidence: Evidence, dataset: str, partition: str, metric: str) -> pd.DataFrame:
    """The points of Figures 2 to 8, from no client at the larger level to all.

    All points of ours have one schedule: that of most mixes, or of most of the ends where no mix was run.

    Returns:
        Columns `large`, `small`, `share` (percent of the clients at the larger level), `value`, `half_width`
        (of the 95 % interval, NaN for fewer than three seeds), `whose` (`ours` or `paper`; the paper prints
        the ends alone) and `schedule`.
    """
    asked = {
        (pair, tenths): mixed(dataset, partition, pair, tenths) for pair in PAIRS for tenths in range(11)
    }
    mixes, ends = (
        [run for (_, tenths), run in asked.items() if (0 < tenths < 10) == inner] for inner in (True, False)
    )
    schedule = evidence.usual_schedule(mixes) or evidence.usual_schedule(ends)
    rows = []
    for ((large, small), tenths), run in asked.items():
        place = {"large": large, "small": small, "share": 10 * tenths}
        if (paper := paper_value(run, metric)) is not None:
            rows.append(place | {"value": paper, "whose": "paper"})
        if schedule and (answer := evidence.answer(run, schedule)):
            found = estimate(answer.values(metric))
            ours = {"value": found.mean, "half_width": found.half_width, "schedule": answer.schedule}
            rows.append(place | ours | {"whose": "ours"})
    return pd.DataFrame(rows, columns=["large", "small", "share", "value", "half_width", "whose", "schedule"])


def half_and_half(dataset: str, partition: str, pair: tuple[str, str]) -> dict[str, RunParams]:
    """The two runs of Figures 9 to 11 with a pair of levels, by assignment."""
    return {
        assignment: run_params(
            dataset=dataset, partition=partition, levels="-".join(pair), assignment=assignment
        )
        for assignment in ("fix", "dynamic")
    }


def pair_curves(evidence: Evidence, dataset: str, partition: str) -> pd.DataFrame:
    """The evaluated rounds of all runs of Figures 9 to 11 that there are, seed 0 or the first one; the two of
    a pair by one schedule, if there are such.

    Returns:
        The columns of `rounds.csv`, and `large`, `small`, `assignment` and `schedule`.
    """
    found = []
    for large, small in PAIRS:
        asked = half_and_half(dataset, partition, (large, small))
        for assignment, answer in zip(asked, evidence.comparable(list(asked.values())), strict=True):
            if answer:
                named = {"large": large, "small": small, "assignment": assignment}
                found.append(curve_of(answer).assign(**named, schedule=answer.schedule))
    columns = ["round", "large", "small", "assignment", "schedule"]
    return pd.concat(found or [pd.DataFrame(columns=columns)])


def curve_of(answer: Answer) -> pd.DataFrame:
    """The curve of the first of the runs."""
    return read_rounds(str(answer.records[0]["run_id"]))


def sub_models(evidence: Evidence, metric: str) -> pd.DataFrame:
    """What a client of each level would use, beside a federation of that level alone.

    Slice and level alone are of the same seeds, in the same precision and by the same schedule. With IID data
    Local accuracy is Global accuracy, and is left out.

    Returns:
        A row for each setting and schedule of a mix and each of its smaller levels: `answer` (the runs of the
        mix), `level_alone` (those in which all clients have the level; None if it was not run with any of the
        mix's seeds, and what depends on it is NaN), `level`, `sliced` (its slice of the mix's final global
        model, the mean over `seeds`), `alone` (the level's own final model), `gain` (how much the slice is
        better, negative where it is worse; see `records.Metric.gain`), `half_width` (of the gain's 95 %
        interval, from the noise of such pairs), `chance` (its p-value), `basis` (what both rest on, see
        `PairNoise.basis`) and `seeds` (how many). Runs without a norm are left out: see the page.
    """
    rows = [
        {"answer": mix, "level": level} | beside_alone(evidence, mix, level, metric)
        for mix in evidence.distinct
        if mix.params.norm != "none" and (metric, mix.params.partition) != ("local_accuracy", "iid")
        for level in mix.sliced_levels
        if mix.slices(level, metric)
    ]
    return pd.DataFrame(rows, columns=["answer", "level_alone", "level", *BESIDE])


def beside_alone(evidence: Evidence, mix: Answer, level: str, metric: str) -> dict[str, Any]:
    """What is told of a level's slice of a mix; see `sub_models`."""
    settings = mix.params.model_dump(exclude={"levels", "assignment", "trace"}, exclude_none=True)
    run = run_params(**settings, levels=level)
    found = evidence.answer(run, how_long(mix.params))
    answer = found and found.beside(mix)
    sliced, alone = mix.slices(level, metric), answer.by_seed(metric, "final") if answer else {}
    kinds = slice_kind(mix.params), kind(run)
    noise = pair_noise(repeated_slices(evidence, run, metric), kinds, mix.params)
    level_alone = answer if sliced.keys() & alone.keys() else None
    return {"level_alone": level_alone} | slice_beside_alone(sliced, alone, metric, noise)


def slice_beside_alone(
    sliced: dict[int, float], alone: dict[int, float], metric: str, noise: PairNoise
) -> dict[str, Any]:
    """Slices beside the level alone, both by seed: means over the seeds that both have; see `sub_models`.

    Args:
        noise: of a pair.
    """
    both = sorted(sliced.keys() & alone.keys())
    if not both:
        nothing: dict[str, Any] = dict.fromkeys(BESIDE, math.nan)
        return nothing | {"sliced": fmean(sliced.values()), "basis": "", "seeds": len(sliced)}
    gain = fmean(METRICS[metric].gain(sliced[seed], alone[seed]) for seed in both)
    return {
        "sliced": fmean(sliced[seed] for seed in both),
        "alone": fmean(alone[seed] for seed in both),
        "gain": gain,
        "half_width": noise.half_width(len(both)) if math.isfinite(gain) else math.nan,
        "chance": noise.p_value(gain, len(both)),
        "basis": noise.basis,
        "seeds": len(both),
    }


def slices_by_share(evidence: Evidence, dataset: str, partition: str, metric: str) -> pd.DataFrame:
    """What the smaller of two levels can use, as more clients have the larger one for good.

    Where nobody has it, that is the final model of the level alone, with the mixes' seeds; from there on the
    level's slice of the final global model. All points have one schedule: that of most mixes.

    Returns:
        Columns `large`, `small`, `share` (percent of the clients at the larger level), `value`, `half_width`
        (of the 95 % interval, NaN for fewer than three seeds) and `schedule`; only pairs of which a mix was
        run.
    """
    runs = {pair: [mixed(dataset, partition, pair, tenths) for tenths in range(1, 10)] for pair in PAIRS}
    schedule = evidence.usual_schedule(itertools.chain(*runs.values()))
    rows: list[tuple[str, str, int, list[float], str]] = []
    for (large, small), mixes in runs.items() if schedule else ():
        answers = {10 * tenths: evidence.answer(run, schedule) for tenths, run in enumerate(mixes, 1)}
        found = {
            share: answer for share, answer in answers.items() if answer and answer.slices(small, metric)
        }
        seeds = {seed for answer in found.values() for seed in answer.seeds}
        if found and (alone := evidence.answer(mixed(dataset, partition, (large, small), 0), schedule)):
            own = [value for seed, value in alone.by_seed(metric, "final").items() if seed in seeds]
            rows += [(large, small, 0, own, alone.schedule)] if own else []
        rows += [
            (large, small, share, list(answer.slices(small, metric).values()), answer.schedule)
            for share, answer in found.items()
        ]
    points = pd.DataFrame(rows, columns=["large", "small", "share", "values", "schedule"])
    estimates = [estimate(values) for values in points["values"]]
    return points.drop(columns="values").assign(
        value=[one.mean for one in estimates], half_width=[one.half_width for one in estimates]
    )


def spendings(evidence: Evidence, dataset: str, partition: str) -> pd.DataFrame:
    """The evaluated rounds of single levels, and of each mixed with level e, beside what they cost so far;
    by one schedule, as far as there are such runs.

    Returns:
        The columns of `rounds.csv`, and `levels`, `schedule`, `sent_mb` (to the clients and back) and
        `seconds` (of training, by the median of a round: a machine that is paused or shared does not count;
        NaN on all machines but the one that most of the runs were made on).
    """
    mixes = [*LEVELS, *(f"{level}-{LEVELS[-1]}" for level in LEVELS[:-1])]
    asked = [run_params(dataset=dataset, partition=partition, levels=levels) for levels in mixes]
    found = {
        levels: answer for levels, answer in zip(mixes, evidence.comparable(asked), strict=True) if answer
    }
    machines = {levels: machine_of_record(answer.records[0]) for levels, answer in found.items()}
    usual = max(machines.values(), key=list(machines.values()).count, default="")
    curves = []
    for levels, answer in found.items():
        curve = with_costs(curve_of(answer)).assign(levels=levels, schedule=answer.schedule)
        curves.append(curve if machines[levels] == usual else curve.assign(seconds=math.nan))
    return pd.concat(curves or [pd.DataFrame(columns=["levels", "schedule", "sent_mb", "seconds"])])


def with_costs(rounds: pd.DataFrame) -> pd.DataFrame:
    """A curve with what was sent so far, and the median seconds of a round times the rounds so far.

    Args:
        rounds: as in `rounds.csv`, where megabytes and seconds are sums from the first round on.
    """
    so_far = rounds[["round", "training_seconds"]]
    since_last = so_far.diff().fillna(so_far)
    a_round = since_last["training_seconds"] / since_last["round"]
    return rounds.assign(
        sent_mb=rounds["down_mb"] + rounds["up_mb"], seconds=a_round.median() * rounds["round"]
    )
