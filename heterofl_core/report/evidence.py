"""What the records say about a setting: the runs of one schedule over their seeds, a mean, its uncertainty.

Nothing here needs torch.
"""

import functools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from heterofl_core.equivalence import is_current
from heterofl_core.params import SCHEDULE, RunParams, usual_eval_every
from heterofl_core.records import Record

CONFIDENCE = 0.95
CROWD = ("num_clients", "participation")
"""The parts of a schedule that belong to the question: with fewer clients it would be another one."""
HOW_LONG = tuple(name for name in SCHEDULE if name not in CROWD)
HOW = (*HOW_LONG, "protocol", "schedule_factor", "eval_every", "precision", "seed")
"""What may differ between runs that answer the same question."""


MARKS = {"current": "", "uncommitted": "†", "stale": "‡"}
"""Behind a number whose code was not committed, and behind one that other code has made."""
CODES = {"current": [], "uncommitted": ["uncommitted code"], "stale": ["other code"]}
"""The same in words, as figures have them."""


def how_long(params: RunParams) -> str:
    """For how long a run trains, and how: what must be equal if two runs are compared."""
    settings = params.model_dump(mode="json", include=set(HOW_LONG))
    return json.dumps(settings, sort_keys=True)


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
    """Runs that differ in their seeds alone, and in their precision.

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
    def full(self) -> bool:
        """Whether the schedule is the paper's."""
        return self.params.protocol == "paper"

    @property
    def schedule(self) -> str:
        """For people: `paper`, or another protocol with its number of rounds; the precision, if it is another
        than float32; and the code, if it is not today's.
        """
        length = [] if self.full else [f"{self.rounds} rounds"]
        return ", ".join([self.params.protocol, *length, *self.precision, *CODES[self.state]])

    @property
    def precision(self) -> list[str]:
        """For people: what is to be said of it, such as `bf16`, or `bf16 and fp32` of other seeds; nothing of
        float32 alone.
        """
        found = sorted({precision for _, precision in self.draws})
        return [] if found == ["fp32"] else [" and ".join(found)]

    @functools.cached_property
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

    @property
    def draws(self) -> list[tuple[int, str]]:
        """Seed and precision of each run: what two runs must share to have the same luck."""
        return [
            (seed, record["params"].get("precision", "fp32"))
            for seed, record in zip(self.seeds, self.records, strict=True)
        ]

    def beside(self, other: "Answer") -> "Answer | None":
        """Those of the runs that another answer has with the same seed, in the same precision."""
        pairs = zip(self.draws, self.records, strict=True)
        found = tuple(record for draw, record in pairs if draw in other.draws)
        return Answer(found) if found else None

    def values(self, metric: str, which: str = "best") -> list[float]:
        """The metric of each run: the `best` over its evaluated rounds, or the `final` one."""
        return [float(record["metrics"][f"{which}_{metric}"]) for record in self.records]

    def by_seed(self, metric: str, which: str = "best") -> dict[int, float]:
        """The metric of each run by its seed; see `values`."""
        return dict(zip(self.seeds, self.values(metric, which), strict=True))

    @property
    def sliced_levels(self) -> list[str]:
        """The levels whose slices of the global model were judged."""
        return sorted({level for record in self.records for level in record.get("sub_models", {})})

    def slices(self, level: str, metric: str) -> dict[int, float]:
        """The metric of a level's slice of the final global model, by seed."""
        found = [record.get("sub_models", {}).get(level, {}).get(metric) for record in self.records]
        return {seed: value for seed, value in zip(self.seeds, found, strict=True) if value is not None}


class Evidence:
    """All records, by what they answer.

    Args:
        records: see `records.all_records`.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        found: dict[str, dict[tuple[str, int], list[Record]]] = defaultdict(lambda: defaultdict(list))
        for record in records:
            params = RunParams.model_validate(record["params"])
            # Who looks more often finds a better best.
            found[question(params)][how_long(params), params.eval_every].append(record)
        self.answers = {asked: [answer_of(some) for some in runs.values()] for asked, runs in found.items()}

    def all_answers(self) -> Iterator[Answer]:
        """Every answer to every question."""
        for answers in self.answers.values():
            yield from answers

    @functools.cached_property
    def distinct(self) -> list[Answer]:
        """One answer to each question and schedule: a run that was evaluated more often is no other run."""
        return [one for one in self.all_answers() if one is self.answer(one.params, how_long(one.params))]

    @functools.cached_property
    def repeated(self) -> list[Answer]:
        """Those of several seeds, of today's code: other code may have scattered otherwise."""
        return [one for one in self.distinct if len(one.records) > 1 and one.state != "stale"]

    def answers_to(self, params: RunParams) -> list[Answer]:
        """Everything that answers what a run asks: an answer for each schedule, and for each number of rounds
        between evaluations.
        """
        return self.answers.get(question(params), [])

    def answer(self, params: RunParams, schedule: str | None = None) -> Answer | None:
        """The best answer to what a run asks: of today's code rather than of older one, by the run's own
        schedule rather than by another, of many rounds and of many seeds rather than of few, evaluated as
        often as usual. None if there is none, or none by a certain `schedule` (see `how_long`).
        """
        answers = (one for one in self.answers_to(params) if schedule in (None, how_long(one.params)))
        return max(answers, key=lambda one: rank(one, params), default=None)

    def usual_schedule(self, asked: Iterable[RunParams]) -> str | None:
        """By which schedule most of some runs were run, whatever others they were run by; the longest of
        equally frequent ones, and None if no one was run. See `how_long`.
        """
        found = [{how_long(one.params): one.rounds for one in self.answers_to(run)} for run in asked]
        counts = Counter(schedule for schedules in found for schedule in schedules)
        rounds = {schedule: length for schedules in found for schedule, length in schedules.items()}
        return max(counts, key=lambda schedule: (counts[schedule], rounds[schedule]), default=None)

    def comparable(self, asked: Sequence[RunParams]) -> list[Answer | None]:
        """An answer to each of some runs that are to be compared with one another: by one schedule, that of
        most of them, where there is one; else the best one.
        """
        schedule = self.usual_schedule(asked)
        return [self.answer(run, schedule) or self.answer(run) for run in asked]


def answer_of(records: Iterable[Record]) -> Answer:
    """Runs of one schedule, one for each seed, though a seed may have been run in several precisions."""
    by_seed: dict[int, Record] = {}
    for record in sorted(records, key=how_unusual):
        by_seed.setdefault(int(record["params"]["seed"]), record)
    current = {seed: record for seed, record in by_seed.items() if state(record) != "stale"}
    return Answer(tuple(record for _, record in sorted((current or by_seed).items())))


def how_unusual(record: Record) -> tuple[bool, bool, str]:
    """The more usual run is the smaller one: of today's code, in float32."""
    params = RunParams.model_validate(record["params"])  # fills in what older records lack
    return (state(record) == "stale", params.precision != "fp32", str(record["run_id"]))


def rank(answer: Answer, asked: RunParams) -> tuple[bool, bool, int, int, bool]:
    """The better answer to what was asked is the larger one."""
    as_asked = how_long(answer.params) == how_long(asked)
    usual_looks = answer.params.eval_every == usual_eval_every(answer.rounds)
    return (answer.state != "stale", as_asked, answer.rounds, len(answer.records), usual_looks)
