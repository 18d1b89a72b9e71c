"""What the records say about a setting: the runs of one schedule over their seeds, a mean, its uncertainty.

Nothing here needs torch.
"""

import functools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from heterofl_core.equivalence import is_current
from heterofl_core.params import SCHEDULE, RunParams, usual_eval_every

Record = Mapping[str, Any]

CONFIDENCE = 0.95
CROWD = ("num_clients", "participation")
"""The parts of a schedule that belong to the question: with fewer clients it would be another one."""
HOW_LONG = tuple(name for name in SCHEDULE if name not in CROWD)
HOW = (*HOW_LONG, "protocol", "schedule_factor", "eval_every", "precision", "seed")
"""What may differ between runs that answer the same question."""


MARKS = {"current": "", "uncommitted": "†", "stale": "‡"}
"""Behind a number whose code was not committed, and behind one that other code has made."""


def how_long(params: RunParams) -> list[Any]:
    """For how long a run trains, and how: what must be equal if two runs are compared."""
    settings = params.model_dump(mode="json", include=set(HOW_LONG))
    return [settings[name] for name in HOW_LONG]


def question(params: RunParams) -> str:
    """What a run asks: all of its settings but schedule, precision and seed."""
    settings = params.model_dump(mode="json", exclude=set(HOW))
    return json.dumps(settings, sort_keys=True)


def state(record: Record) -> str:
    """Whether a record belongs to the code as it is now: `current`, `uncommitted` or `stale`."""
    if not is_current(record):
        return "stale"
    return "current" if record["git_dirty"] is False else "uncommitted"  # None: there was no git to ask


@dataclass(frozen=True)
class Estimate:
    """A number that was measured several times.

    Attributes:
        mean: of the measurements.
        half_width: of the 95 % confidence interval of the mean; NaN for fewer than three measurements, whose
            interval would be wider than anything it could tell.
        count: of the measurements.
    """

    mean: float
    half_width: float
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of some measurements with Student's interval."""
    count, mean = len(values), math.fsum(values) / len(values)
    if count < 3:
        return Estimate(mean, math.nan, count)
    spread = float(np.std(values, ddof=1))
    return Estimate(mean, quantile(count - 1) * spread / math.sqrt(count), count)


def quantile(freedom: float) -> float:
    """How many standard errors a 95 % interval reaches to each side."""
    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class Answer:
    """Runs that differ in their seeds alone.

    Attributes:
        records: by seed.
    """

    records: tuple[Record, ...]

    @functools.cached_property
    def params(self) -> RunParams:
        """Of the first run."""
        return RunParams.model_validate(self.records[0]["params"])

    @property
    def rounds(self) -> int:
        """Of each run."""
        return int(self.records[0]["params"]["rounds"])

    @property
    def schedule(self) -> str:
        """For people: `paper`, or another protocol with its number of rounds; and the precision, if it is
        another than float32.
        """
        protocol = self.params.protocol
        precisions = {record["params"].get("precision", "fp32") for record in self.records} - {"fp32"}
        length = [] if protocol == "paper" else [f"{self.rounds} rounds"]
        return ", ".join([protocol, *length, *sorted(precisions)])

    @property
    def state(self) -> str:
        """The worst of its records."""
        return next(
            kind
            for kind in ("stale", "uncommitted", "current")
            if kind in {state(record) for record in self.records}
        )

    @property
    def seeds(self) -> list[int]:
        """Of the runs, in their order."""
        return [int(record["params"]["seed"]) for record in self.records]

    def values(self, metric: str, which: str = "best") -> list[float]:
        """The metric of each run: the `best` over its evaluated rounds, or the `final` one."""
        return [float(record["metrics"][f"{which}_{metric}"]) for record in self.records]

    def by_seed(self, metric: str, which: str = "best") -> dict[int, float]:
        """The metric of each run by its seed; see `values`."""
        return dict(zip(self.seeds, self.values(metric, which), strict=True))


class Evidence:
    """All records, by what they answer.

    Args:
        records: see `records.all_records`.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        found: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
        for record in records:
            params = RunParams.model_validate(record["params"])
            found[question(params)][json.dumps(how_long(params))].append(record)
        self.answers = {
            asked: {schedule: answer_of(some) for schedule, some in by_schedule.items()}
            for asked, by_schedule in found.items()
        }

    def all_answers(self) -> Iterator[Answer]:
        """Every answer to every question."""
        for by_schedule in self.answers.values():
            yield from by_schedule.values()

    def answers_to(self, params: RunParams) -> list[Answer]:
        """Everything that answers what a run asks: an answer for each schedule."""
        return list(self.answers.get(question(params), {}).values())

    def answer(self, params: RunParams, rounds: int | None = None) -> Answer | None:
        """The best answer to what a run asks: of today's code rather than of older one, by the run's own
        schedule rather than by another, of many rounds rather than of few. None if there is none, or none of
        so many `rounds`.
        """
        answers = (one for one in self.answers_to(params) if rounds in (None, one.rounds))
        return max(answers, key=lambda one: rank(one, params), default=None)

    def usual_rounds(self, asked: Iterable[RunParams]) -> int | None:
        """For how many rounds most of some runs were run, whatever else they were run for; the larger number
        of equally frequent ones, and None if no one was.
        """
        counts = Counter(rounds for run in asked for rounds in {one.rounds for one in self.answers_to(run)})
        return max(counts, key=lambda rounds: (counts[rounds], rounds), default=None)

    def comparable(self, asked: Sequence[RunParams]) -> list[Answer | None]:
        """An answer to each of some runs that are to be compared with one another: for equally many rounds,
        as many as most of them, where there is one; else the best one.
        """
        rounds = self.usual_rounds(asked)
        return [self.answer(run, rounds) or self.answer(run) for run in asked]


def answer_of(records: Iterable[Record]) -> Answer:
    """Runs of one schedule, one for each seed, though a seed may have been run in several ways."""
    by_seed: dict[int, Record] = {}
    for record in sorted(records, key=how_unusual):
        by_seed.setdefault(int(record["params"]["seed"]), record)
    current = {seed: record for seed, record in by_seed.items() if state(record) != "stale"}
    return Answer(tuple(record for _, record in sorted((current or by_seed).items())))


def how_unusual(record: Record) -> tuple[bool, bool, bool, str]:
    """The more usual run is the smaller one: of today's code, evaluated as often as others, in float32.

    Who looks more often finds a better best, so the answers are those that looked as often as others do.
    """
    params = RunParams.model_validate(record["params"])  # fills in what older records lack
    looks = params.eval_every != usual_eval_every(params.rounds)
    return (state(record) == "stale", looks, params.precision != "fp32", str(record["run_id"]))


def rank(answer: Answer, asked: RunParams) -> tuple[bool, bool, int, int]:
    """The better answer to what was asked is the larger one."""
    as_asked = how_long(answer.params) == how_long(asked)
    return (answer.state != "stale", as_asked, answer.rounds, len(answer.records))
