"""How far the study is: its runs by exhibit of the paper, machine hours, and the origin of its records.

Nothing here needs torch.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from heterofl_core.params import RunParams
from heterofl_core.records import Record, all_records, machine_of_record
from heterofl_core.report.evidence import Evidence, how_long, state
from heterofl_core.report.paper import EXCERPT, TABLES
from heterofl_core.report.tables import aligned, printed, run_link
from heterofl_core.report.titles import DATASETS
from heterofl_core.studies import all_runs, read_study, study_names

COVERAGE = {
    "done": "was run with the schedule that the study asks for",
    "other schedule": "was run by today's code with another schedule only, a shorter one in nearly all cases",
    "stale": "was run by other code only",
    "missing": "was not run",
}
"""What can be said of a run of a study; a record of any seed and precision counts."""

KINDS = ("Table", "Figure", "Slides' Table", "Slides' Figure")
"""Exhibits in the order of the report; all others come behind them."""

EXCERPTS = ("Table 1", "Table 2", "Table 3", "Slides' Table 1")
"""Exhibits that show some rows only of their study: those of `paper.EXCERPT`."""

DATASET_OF = {
    "Table 1": "mnist",
    "Table 2": "cifar10",
    "Table 5": "mnist",
    "Table 6": "cifar10",
    "Slides' Table 1": "cifar10",
}
"""Exhibits that show one data set only of the study of the baselines."""

PRINTED = (*(f"Table {number}" for number in range(5, 8)), *(f"Figure {number}" for number in range(2, 9)))
"""The exhibits for which the paper's mixes were trained; others show the same runs, or other ones."""

NONE = pd.DataFrame({"Records": ["none"]})


def study_records() -> list[Record]:
    """The records on the paper's data sets; runs on digits show that all works, and are no results."""
    return [record for record in all_records() if record["params"]["dataset"] in TABLES]


@functools.cache
def exhibits() -> dict[str, frozenset[str]]:
    """The ids of the runs that each exhibit shows, the exhibits in the order of the report."""
    runs: dict[str, set[str]] = defaultdict(set)
    for study in map(read_study, study_names()):
        for exhibit in study.exhibits:
            runs[exhibit] |= {params.run_id for params in study.runs if shows(exhibit, params)}
    return {exhibit: frozenset(runs[exhibit]) for exhibit in sorted(runs, key=place)}


def shows(exhibit: str, params: RunParams) -> bool:
    """Whether an exhibit shows a run of a study that lists it."""
    return DATASET_OF.get(exhibit, params.dataset) == params.dataset and (
        exhibit not in EXCERPTS or params.levels in EXCERPT
    )


def place(exhibit: str) -> tuple[int, int]:
    """Where an exhibit stands in the report; one of somebody's own, such as "Table A1", behind them."""
    kind, _, number = exhibit.rpartition(" ")
    return (KINDS.index(kind), int(number)) if kind in KINDS and number.isdecimal() else (len(KINDS), 0)


def coverage(records: Iterable[Record]) -> dict[str, str]:
    """What some records say about each run of all studies: one of `COVERAGE` by the run's id."""
    evidence = Evidence(records)
    return {run_id: covered(params, evidence) for run_id, params in all_runs().items()}


def covered(params: RunParams, evidence: Evidence) -> str:
    """What the records say about one run: one of `COVERAGE`."""
    answers = evidence.answers_to(params)
    current = [answer for answer in answers if answer.state != "stale"]
    if any(how_long(answer.params) == how_long(params) for answer in current):
        return "done"
    if current:
        return "other schedule"
    return "stale" if answers else "missing"


def hours(records: Iterable[Record]) -> float:
    """Machine hours that some runs took in all, whatever the number of processes."""
    return sum(record["seconds"] for record in records) / 3600


def summary(found: Mapping[str, str], records: Sequence[Record]) -> str:
    """The whole study in a few sentences; `found` as `coverage` gives it."""
    runs = all_runs()
    by_dataset = Counter((runs[run_id].dataset, came) for run_id, came in found.items())

    def each(came: str) -> str:
        """The counts of the data sets."""
        return ", ".join(
            f"{by_dataset[dataset, came]} on {title}"
            for dataset, title in DATASETS.items()
            if dataset in TABLES
        )

    return (
        f"{len(found)} runs are planned. {len(mixes())} of them are the mixes of Tables 5 to 7 and Figures 2 "
        'to 8: the "over 600 individual models" of which the paper speaks. '
        "Done with the schedule that is planned, in nearly all cases the "
        f"paper's: {each('done')}. Done with a different one only, usually a shorter one, which answers "
        f"less: {each('other schedule')}. Run only by code that has changed since, and not yet compared with "
        f"today's: {each('stale')}. Missing: {each('missing')}. With repetitions by other seeds, "
        f"{len(records)} runs are recorded, which took {hours(records):.1f} hours of machines."
    )


def mixes() -> set[str]:
    """The ids of HeteroFL's own runs in the paper's tables and interpolations."""
    runs = all_runs()
    return {
        run_id for exhibit in PRINTED for run_id in exhibits()[exhibit] if runs[run_id].method == "heterofl"
    }


def by_exhibit(found: Mapping[str, str]) -> Styler:
    """How many runs each exhibit needs, and of how many what was found; `found` as `coverage` gives it."""
    rows = [counts(exhibit, (found[run_id] for run_id in runs)) for exhibit, runs in exhibits().items()]
    rows.append(counts("All runs, each once", found.values()))
    return shown(rows, text=["Exhibit"])


def counts(exhibit: str, found: Iterable[str]) -> dict[str, object]:
    """A row of `by_exhibit`."""
    number = Counter(found)
    return {
        "Exhibit": exhibit,
        "Runs": number.total(),
        **{name.capitalize(): number[name] for name in COVERAGE},
    }


def meanings() -> Styler:
    """What the columns of `by_exhibit` count."""
    return printed(
        pd.DataFrame(
            {"column": [name.capitalize() for name in COVERAGE], "the run …": list(COVERAGE.values())}
        )
    )


def machine_hours(records: Iterable[Record]) -> Styler:
    """What the runs took, by data set and by the processor or GPU that they ran on."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record["params"]["dataset"], machine_of_record(record)].append(record)
    rows = [
        {"Data": dataset, "On": device, "Runs": len(runs), "Hours": f"{hours(runs):.2f}"}
        for (dataset, device), runs in sorted(groups.items())
    ]
    return shown(rows, text=["Data", "On"])


def versions(records: Iterable[Record]) -> Styler:
    """With which versions of the packages that can change results the records were made."""
    number = Counter(item for record in records for item in record["versions"].items())
    rows = [
        {"Package": name, "Version": version, "Runs": number[name, version]}
        for name, version in sorted(number)
    ]
    return shown(rows, text=["Package", "Version"])


def to_check(records: Iterable[Record]) -> Styler:
    """The records whose code was not committed, or has changed since."""
    rows = [origin(record) for record in records if state(record) != "current"]
    return shown(rows, text=list(rows[0]) if rows else [])


def origin(record: Record) -> dict[str, str]:
    """Which code made a record; a row of `to_check`."""
    run_id = record["run_id"]
    return {
        "Run": run_link(run_id, run_id),
        "Its code": state(record),
        "Hash": record["code_hash"],
        "Commit": str(record["git_commit"])[:12],
    }


def shown(rows: Sequence[Mapping[str, object]], text: Collection[str]) -> Styler:
    """Rows as a table for a page, or a table that says that there are none; `text` as for `aligned`."""
    return aligned(pd.DataFrame(rows), text) if rows else printed(NONE)
