"""What the paper's figures show, as tables: interpolation between two levels, and learning curves."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from heterofl_core.evidence import Answer, Evidence, estimate
from heterofl_core.levels import LEVELS
from heterofl_core.paper import paper_value
from heterofl_core.params import RunParams, run_params
from heterofl_core.records import read_rounds

PAIRS = tuple(itertools.combinations(LEVELS, 2))
"""A larger and a smaller level, as each line of Figures 2 to 11 has them."""


def mixed(dataset: str, partition: str, pair: tuple[str, str], tenths: int) -> RunParams:
    """The run in which so many tenths of the clients have the larger level, the others the smaller one."""
    large, small = pair
    levels = {0: small, 10: large}.get(tenths, f"{large}{tenths}-{small}{10 - tenths}")
    return run_params(dataset=dataset, partition=partition, levels=levels, assignment="fix")


def interpolation(evidence: Evidence, dataset: str, partition: str, metric: str) -> pd.DataFrame:
    """The points of Figures 2 to 8, from no client at the larger level to all.

    All points of ours have equally many rounds: as many as most mixes were run for.

    Returns:
        Columns `large`, `small`, `share` (percent of the clients at the larger level), `value`, `half_width`
        (of the 95 % interval, NaN for one seed), `whose` (`ours` or `paper`; the paper prints the ends alone)
        and `schedule`.
    """
    asked = {
        (pair, tenths): mixed(dataset, partition, pair, tenths) for pair in PAIRS for tenths in range(11)
    }
    inner = [evidence.answer(run) for (_, tenths), run in asked.items() if 0 < tenths < 10]
    counts = Counter(answer.rounds for answer in inner if answer)
    rounds = counts.most_common(1)[0][0] if counts else None
    rows = []
    for ((large, small), tenths), run in asked.items():
        place = {"large": large, "small": small, "share": 10 * tenths}
        if (paper := paper_value(run, metric)) is not None:
            rows.append(place | {"value": paper, "whose": "paper"})
        if rounds and (answer := evidence.answer(run, rounds)):
            found = estimate(answer.values(metric))
            ours = {"value": found.mean, "half_width": found.half_width, "schedule": answer.schedule}
            rows.append(place | ours | {"whose": "ours"})
    return pd.DataFrame(rows, columns=["large", "small", "share", "value", "half_width", "whose", "schedule"])


def half_and_half(dataset: str, partition: str) -> Iterator[tuple[tuple[str, str], str, RunParams]]:
    """The runs of Figures 9 to 11: pair, assignment, run."""
    for pair in PAIRS:
        for assignment in ("fix", "dynamic"):
            yield (
                pair,
                assignment,
                run_params(
                    dataset=dataset, partition=partition, levels="-".join(pair), assignment=assignment
                ),
            )


def learning_curves(evidence: Evidence, dataset: str, partition: str) -> pd.DataFrame:
    """The evaluated rounds of all runs of Figures 9 to 11 that there are, seed 0 or the first one.

    Returns:
        The columns of `rounds.csv`, and `large`, `small`, `assignment`.
    """
    found = [
        curve_of(answer).assign(large=large, small=small, assignment=assignment)
        for (large, small), assignment, run in half_and_half(dataset, partition)
        if (answer := evidence.answer(run))
    ]
    return pd.concat(found or [pd.DataFrame(columns=["round", "large", "small", "assignment"])])


def curve_of(answer: Answer) -> pd.DataFrame:
    """The curve of the first of the runs."""
    return read_rounds(str(answer.records[0]["run_id"]))


def sub_models(evidence: Evidence, records: Iterable[dict[str, Any]], metric: str) -> pd.DataFrame:
    """What a client of each level would use, beside a federation of that level alone.

    Returns:
        A row for each run of a mix and each of its levels: `dataset`, `partition`, `mix`, `assignment`,
        `level`, `sliced` (its slice of the final global model), `alone` (the final model where all clients
        have that level, after equally many rounds; None if it was not run) and `schedule`.
    """
    rows = []
    for record in records:
        params = RunParams.model_validate(record["params"])
        for level, found in record.get("sub_models", {}).items():
            if metric not in found:
                continue
            changes = {"levels": level, "assignment": "fix"}
            alone = evidence.answer(params.model_copy(update=changes), params.rounds)
            rows.append(
                {
                    "dataset": params.dataset,
                    "partition": params.partition,
                    "mix": params.levels,
                    "assignment": params.assignment,
                    "level": level,
                    "sliced": found[metric],
                    "alone": estimate(alone.values(metric, "final")).mean if alone else None,
                    "schedule": Answer((record,)).schedule,
                }
            )
    return pd.DataFrame(
        rows,
        columns=["dataset", "partition", "mix", "assignment", "level", "sliced", "alone", "schedule"],
    )


def spendings(evidence: Evidence, dataset: str, partition: str) -> pd.DataFrame:
    """The evaluated rounds of single levels, and of each mixed with level e, beside what they cost so far.

    Returns:
        The columns of `rounds.csv`, and `levels`, `sent_mb` (to the clients and back) and `seconds`.
    """
    mixes = [*LEVELS, *(f"{level}-{LEVELS[-1]}" for level in LEVELS[:-1])]
    found = [
        curve_of(answer).assign(levels=levels)
        for levels in mixes
        if (answer := evidence.answer(run_params(dataset=dataset, partition=partition, levels=levels)))
    ]
    if not found:
        return pd.DataFrame(columns=["levels", "sent_mb", "seconds"])
    table = pd.concat(found)
    return table.assign(
        sent_mb=table["down_mb"] + table["up_mb"],
        seconds=table["training_seconds"],
    )
