"""The paper's claims, and what this study's runs say of each, by a rule that is the same for all.

`params/claims.yaml` breaks each claim down to comparisons: one setting should be better than another, by a
margin. `params/questions.yaml` has comparisons of our own, on which no verdict is given.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from heterofl_core.folders import PARAMS
from heterofl_core.params import RunParams, run_params
from heterofl_core.report.differences import Difference, difference, holm
from heterofl_core.report.evidence import Evidence, how_long
from heterofl_core.report.paper import TABLES
from heterofl_core.strict_yaml import parse_yaml
from heterofl_core.studies import combinations

ENOUGH = 1 / 4
"""The share of a claim's comparisons that must be measured before anything is said of it."""

WITH_INTERVAL = ("holds", "fails", "open")
"""The outcomes of comparisons that were measured."""

OUTCOMES = {
    "holds": "the whole interval lies above the margin",
    "fails": "the whole interval lies below the margin",
    "open": "the interval includes the margin",
    "no interval": "both sides were run, but today's code has repeated one of their kinds too rarely to tell "
    "noise from seed, or a run diverged",
    "too short": "both sides were run, but not for as long as the paper's, which the claim needs",
    "not run": "one side or both were not run, or not with one seed, in one precision, by one schedule and "
    "evaluated equally often",
}
"""What can come of a comparison."""

VERDICTS = {
    "reproduced": "no comparison fails, and at least half of all hold",
    "partly": "some comparisons hold, and others fail",
    "not reproduced": "some comparisons fail, and none holds",
    "undecided": "no comparison fails, and fewer than half of all hold",
    "not enough runs": "fewer than a quarter of the comparisons have an interval",
}
"""What can be said of a claim whose comparisons with an interval are all by the paper's schedule; here one
holds or fails only if it does so beside all others of the claim, see `verdict_on`.
"""

IN_SHORT_RUNS = {"reproduced": "supported", "not reproduced": "not borne out"}
"""The weaker words for a claim of which a measured comparison is by a shorter schedule."""


@dataclass(frozen=True)
class Comparison:
    """One setting that should be better than another.

    Attributes:
        better, worse: the settings, with the paper's schedule.
        metric: in the names of `records.METRICS`.
        margin: by how much at least, see `records.Metric.gain`.
        full: whether it counts by the paper's schedule only.
    """

    better: RunParams
    worse: RunParams
    metric: str
    margin: float = 0.0
    full: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        number: from 1, in the order of the file.
        text: in our words.
        source: where the paper makes it.
        comparisons: it holds if they do.
        note: what one should know before the numbers; empty if nothing.
    """

    number: int
    text: str
    source: str
    comparisons: tuple[Comparison, ...]
    note: str = ""

    def of(self, dataset: str) -> tuple[Comparison, ...]:
        """The comparisons on one data set."""
        return tuple(one for one in self.comparisons if one.better.dataset == dataset)


def read_claims() -> list[Claim]:
    """All claims of `params/claims.yaml`."""
    entries = parse_yaml((PARAMS / "claims.yaml").read_text(encoding="utf-8"))
    return [
        Claim(
            number,
            entry["claim"],
            entry["source"],
            tuple(of_grids(entry["comparisons"])),
            entry.get("note", ""),
        )
        for number, entry in enumerate(entries, 1)
    ]


def read_question(name: str) -> list[Comparison]:
    """The comparisons of a question of `params/questions.yaml`."""
    questions = parse_yaml((PARAMS / "questions.yaml").read_text(encoding="utf-8"))
    return list(of_grids(questions[name]))


def of_grids(grids: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """The comparisons of some grids, one after the other; see `comparisons`."""
    for grid in grids:
        yield from comparisons(**grid)


def comparisons(
    where: Mapping[str, Any],
    better: Mapping[str, Any],
    worse: Mapping[str, Any],
    metric: str | Sequence[str],
    **rest: Any,
) -> Iterator[Comparison]:
    """Every combination of a grid. What `worse` does not say is as in `better`; the rest is for each."""
    for shared in combinations(dict(where)):
        for first in combinations(dict(better)):
            for second in combinations(dict(worse)):
                for name in [metric] if isinstance(metric, str) else metric:
                    yield Comparison(
                        run_params(**shared | first), run_params(**shared | first | second), name, **rest
                    )


def outcome(found: Difference | None, margin: float = 0.0, full: bool = False) -> str:
    """What came of a comparison: one of `OUTCOMES`; for its arguments see `Comparison`."""
    if found is None:
        return "not run"
    if full and not found.full:
        return "too short"
    if math.isnan(found.half_width):
        return "no interval"
    if found.value - found.half_width > margin:
        return "holds"
    return "fails" if found.value + found.half_width < margin else "open"


def verdict(outcomes: Sequence[str]) -> str:
    """What the outcomes of a claim's comparisons say of it: one of `VERDICTS`."""
    counts = Counter(outcomes)
    measured = sum(counts[outcome] for outcome in WITH_INTERVAL)
    if not measured or measured < ENOUGH * len(outcomes):
        return "not enough runs"
    if counts["fails"]:
        return "partly" if counts["holds"] else "not reproduced"
    return "reproduced" if 2 * counts["holds"] >= len(outcomes) else "undecided"


class Judgement(NamedTuple):
    """What came of a comparison.

    Attributes:
        found: the measured difference; None where there is none.
        outcome: one of `OUTCOMES`.
        chance: how often chance alone would take the difference so far from the margin, a p-value; NaN where
            there is no interval, or where it does not count.
    """

    found: Difference | None
    outcome: str
    chance: float


def told(judgements: Iterable[Judgement]) -> float:
    """The largest p-value that Holm's correction for some comparisons tells from chance."""
    return holm([one.chance for one in judgements if one.outcome in WITH_INTERVAL])


def outcomes(judgements: Iterable[Judgement], limit: float) -> list[str]:
    """What came of some comparisons, if those with a larger p-value than a limit are open."""
    return ["open" if one.chance > limit else one.outcome for one in judgements]


def verdict_on(judgements: Sequence[Judgement]) -> str:
    """The verdict on a claim from all of its comparisons, asked at once: the more there are, the more often
    chance alone makes one of them hold or fail.
    """
    return verdict(outcomes(judgements, told(judgements)))


def judged(evidence: Evidence, comparison: Comparison, which: str = "best") -> Judgement:
    """What came of a comparison; for `which` see `Answer.values`.

    Where only the paper's schedule counts, another one is of interest only if there are no runs by it.
    """
    asked = (evidence, comparison.better, comparison.worse, comparison.metric, which)
    by_the_paper = difference(*asked, how_long(comparison.better)) if comparison.full else None
    found = by_the_paper or difference(*asked)
    came = outcome(found, comparison.margin, comparison.full)
    chance = found.p_value(comparison.margin) if found and came in WITH_INTERVAL else math.nan
    return Judgement(found, came, chance)


def all_judgements(evidence: Evidence, which: str = "best") -> list[list[Judgement]]:
    """For each claim, and each data set of which it says something, what came of its comparisons."""
    asked = [some for claim in read_claims() for dataset in TABLES if (some := claim.of(dataset))]
    return [[judged(evidence, one, which) for one in some] for some in asked]
