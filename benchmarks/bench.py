"""How long a round takes: common practice (`reference.py`) and ours, side by side in one run.

    python -m benchmarks.bench [--quick] [--datasets mnist cifar10] [--levels e a-b-c-d-e]

For each data set and mix both ways take turns on the same clients: reference, ours, reference, ours. Training
is a round of ten clients; evaluation is the sBN statistics and the test. So that large models end within
minutes, each client takes few steps, and a part of the data is evaluated; both ways do the same part. The
training of a whole round is extrapolated along the straight line through rounds of one step and of `STEPS`
steps a client, whose offset is what models cost to build, send and average. A whole evaluation is in
proportion to the examples. A whole round is its training with its share of evaluation: the reference
evaluates after each, ours after every `eval_every`; milestones are ignored.

Prints medians and ratios, and writes all repeats' medians, fastest and slowest to `outputs/bench/rounds.csv`,
and the machine to `outputs/bench/machine.json`. Leave the machine alone meanwhile: beside other work torch's
threads wait for each other, which slows the reference more than ours.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import joblib
import pandas as pd

from benchmarks.bounded import ROUND, bounded_federation, bounded_share, evaluated_share, with_equal_levels
from benchmarks.reference import Reference
from benchmarks.results import has_bf16, write_machine, write_table
from heterofl_core.compiled import compiler
from heterofl_core.engines import Engine
from heterofl_core.estimate import work_of
from heterofl_core.federation import Federation, Weights
from heterofl_core.folders import bench_folder
from heterofl_core.own import digests
from heterofl_core.params import RunParams, run_params
from heterofl_core.provenance import provenance

DATASETS = ("mnist", "cifar10", "wikitext2")
MIXES = ("a", "b", "c", "d", "e", "a-b-c-d-e")
STEPS = {"a": 10, "b": 20, "c": 40, "d": 50, "e": 50, "a-b-c-d-e": 20}
"""Local steps of a client in a timed round; all of them are 250 to 327."""
QUICK_STEPS = {"a": 4, "b": 8, "c": 20, "d": 40, "e": 40, "a-b-c-d-e": 8}
REFERENCE = "reference"


@dataclass(frozen=True)
class Ours:
    """A way in which our code can execute a round.

    Attributes:
        engine: `plain` or `compiled`.
        precision: `fp32` or `bf16`.
    """

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class Spread:
    """Seconds of repeated measurements.

    Attributes:
        median, fastest, slowest: in seconds.
    """

    median: float
    fastest: float
    slowest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Of each repeat's seconds; those that are not a number are left out."""
        valid = [one for one in seconds if not math.isnan(one)] or [math.nan]
        return cls(statistics.median(valid), min(valid), max(valid))


# ---- How our code is asked to execute.


def run_round(federation: Federation, weights: Weights, way: Ours) -> None:
    """A round of ours on all cores."""
    federation.run_round(weights, ROUND, workers=joblib.cpu_count(), engine=Engine(way.engine, "cpu"))


def evaluate(federation: Federation, weights: Weights) -> None:
    """An evaluation of ours on all cores."""
    federation.evaluate(weights, workers=joblib.cpu_count())


def params_of(dataset: str, levels: str, precision: str = "fp32") -> RunParams:
    """The paper's schedule, but for one local epoch in a round, of which a few steps are timed."""
    return run_params(dataset=dataset, levels=levels, local_epochs=1, precision=precision)


def ways(levels: str) -> list[Ours]:
    """The ways of ours that this machine can go: compiled ones with a C++ compiler only, bfloat16
    where a client has the largest model, since narrower ones gain nothing.
    """
    precisions = ("fp32", "bf16") if has_bf16() and levels[0] == "a" else ("fp32",)
    compiled = [Ours("compiled", precision) for precision in precisions] if compiler() else []
    return [Ours("plain", "fp32"), *compiled]


# ---- Timing.


def seconds_of(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def whole_round(one_step: float, some_steps: float, steps: int, all_steps: int) -> float:
    """Seconds of a round in which each client takes `all_steps`.

    Args:
        one_step, some_steps: seconds of a round in which each takes 1, and `steps`.

    Returns:
        NaN if more steps took less time: the machine was busy with something else.
    """
    if some_steps <= one_step:
        return math.nan
    return one_step + (some_steps - one_step) / (steps - 1) * (all_steps - 1)


def take_turns(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Results of each call by its name: all of them once, then all again. The first turn is not counted:
    it starts workers and builds programs.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            result = call()
            if turn > 0:
                found[name].append(result)
    return found


def steps_of_a_client(dataset: str, levels: str) -> int:
    """Local steps of a client in a whole round of the paper's schedule."""
    params = run_params(dataset=dataset, levels=levels)
    return round(work_of(params).steps / params.rounds / params.num_active)


def training_seconds(dataset: str, levels: str, steps: int, repeats: int) -> dict[str, Spread]:
    """Seconds of a whole round's training, by each way's name.

    Args:
        steps: of a client in the timed rounds, at least 2.
        repeats: that count.
    """
    all_steps = steps_of_a_client(dataset, levels)

    def line(round_of: Callable[[int], Callable[[], object]]) -> Callable[[], float]:
        return lambda: whole_round(seconds_of(round_of(1)), seconds_of(round_of(steps)), steps, all_steps)

    calls = {REFERENCE: line(reference_rounds(dataset, levels))}
    calls |= {str(way): line(our_rounds(dataset, levels, way)) for way in ways(levels)}
    return {name: Spread.of(seconds) for name, seconds in take_turns(calls, repeats).items()}


def reference_rounds(dataset: str, levels: str) -> Callable[[int], Callable[[], object]]:
    """A round of the reference for a number of steps a client."""
    federation = with_equal_levels(Federation(params_of(dataset, levels)))
    reference, weights = Reference(federation), federation.initial_weights().shared

    def round_of(steps: int) -> Callable[[], object]:
        reference.steps = steps
        return lambda: reference.run_round(weights, ROUND)

    return round_of


def our_rounds(dataset: str, levels: str, way: Ours) -> Callable[[int], Callable[[], object]]:
    """A round of ours for a number of steps a client."""
    federation = with_equal_levels(Federation(params_of(dataset, levels, way.precision)))
    weights = federation.initial_weights()

    def round_of(steps: int) -> Callable[[], object]:
        share = bounded_share(federation, steps)

        def bounded_round() -> None:
            with mock.patch.object(federation.task, "share", share):
                run_round(federation, weights, way)

        return bounded_round

    return round_of


def evaluation_seconds(dataset: str, levels: str, repeats: int) -> dict[str, Spread]:
    """Seconds of a whole evaluation, by each way's name; all of ours evaluate alike."""
    share = evaluated_share(dataset)
    federation = bounded_federation(params_of(dataset, levels))
    reference, weights = Reference(federation), federation.initial_weights()
    calls = {
        REFERENCE: lambda: seconds_of(lambda: reference.evaluate(weights.shared)) / share,
        "ours": lambda: seconds_of(lambda: evaluate(federation, weights)) / share,
    }
    found = {name: Spread.of(seconds) for name, seconds in take_turns(calls, repeats).items()}
    return {REFERENCE: found[REFERENCE]} | {str(way): found["ours"] for way in ways(levels)}


# ---- The table.


def rows_of(
    dataset: str,
    levels: str,
    training: dict[str, Spread],
    evaluation: dict[str, Spread],
    eval_every: int,
) -> list[dict[str, Any]]:
    """Rows of the table for one data set and mix: training, evaluation, and a whole round, each way.

    Args:
        training, evaluation: seconds of each way.
        eval_every: rounds between two evaluations of ours; the reference evaluates after each.

    Returns:
        `ratio` is how many times as long as this way the reference takes, by the medians.
    """
    rounds = {
        name: with_evaluation(training[name], evaluation[name], 1 if name == REFERENCE else eval_every)
        for name in training
    }
    return [
        {
            "dataset": dataset,
            "levels": levels,
            "phase": phase,
            "execution": name,
            "seconds": spread.median,
            "fastest": spread.fastest,
            "slowest": spread.slowest,
            "ratio": found[REFERENCE].median / spread.median,
        }
        for phase, found in (("training", training), ("evaluation", evaluation), ("round", rounds))
        for name, spread in found.items()
    ]


def with_evaluation(training: Spread, evaluation: Spread, eval_every: int) -> Spread:
    """A round with its share of evaluation."""
    return Spread(
        training.median + evaluation.median / eval_every,
        training.fastest + evaluation.fastest / eval_every,
        training.slowest + evaluation.slowest / eval_every,
    )


def wide(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table as it is printed: seconds (fastest to slowest) of each way, and its ratio, side by side."""
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault((row["dataset"], row["levels"], row["phase"]), {})
        text = f"{row['seconds']:.3g} s ({row['fastest']:.3g}–{row['slowest']:.3g})"
        line[row["execution"]] = text if row["execution"] == REFERENCE else f"{text} ×{row['ratio']:.1f}"
    index = pd.MultiIndex.from_tuples(lines, names=["dataset", "levels", "phase"])
    return pd.DataFrame(list(lines.values()), index=index)


def measure(dataset: str, levels: str, quick: bool) -> list[dict[str, Any]]:
    """Rows of one data set and mix."""
    steps, repeats = (QUICK_STEPS, 2) if quick else (STEPS, 3)
    training = training_seconds(dataset, levels, steps[levels], repeats)
    evaluation = evaluation_seconds(dataset, levels, 1 if quick else 2)
    return rows_of(
        dataset, levels, training, evaluation, run_params(dataset=dataset, levels=levels).eval_every
    )


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="Times rounds: the reference's and ours.")
    parser.add_argument("--quick", action="store_true", help="fewer steps and repeats")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--levels", nargs="+", choices=MIXES, default=MIXES)
    return parser.parse_args()


def kept(datasets: Sequence[str], mixes: Sequence[str], quick: bool) -> list[dict[str, Any]]:
    """Rows of the cases that are not measured now, if the same code measured them on the same machine in the
    same way.
    """
    now = provenance() | {"quick": quick, "measured_by": measured_by()}
    try:
        before = json.loads((bench_folder() / "machine.json").read_text(encoding="utf-8"))["rounds"]
        rows: list[dict[str, Any]] = pd.read_csv(bench_folder() / "rounds.csv").to_dict("records")  # type: ignore[assignment]
    except (OSError, KeyError):
        return []
    alike = ("code_hash", "device", "versions", "quick", "measured_by")
    if any(before.get(name) != now[name] for name in alike):
        return []
    return [row for row in rows if row["dataset"] not in datasets or row["levels"] not in mixes]


def measured_by() -> dict[str, str]:
    """The digests of the code that measures, the reference included, by file."""
    folder = Path(__file__).parent
    return digests((folder / f"{name}.py" for name in ("bench", "bounded", "reference")), folder)


def main() -> None:
    """Measures all cases, prints each as it is there, and writes the table after each."""
    asked = options()
    rows = kept(asked.datasets, asked.levels, asked.quick)
    if (load := os.getloadavg()[0]) > joblib.cpu_count() / 2:
        print(f"the machine is busy (load {load:.1f}); what follows is of little worth", file=sys.stderr)
    for dataset in asked.datasets:
        for levels in asked.levels:
            found = measure(dataset, levels, asked.quick)
            rows += found
            write_table("rounds", rows)
            write_machine("rounds", quick=asked.quick, measured_by=measured_by())
            print(f"{wide(found).to_string()}\n", flush=True)
    print(f"written to {bench_folder()}")


if __name__ == "__main__":
    main()
