"""Code that gives the same: a record outlives a change of the code under which no digit changes.

A hash tells that code changed, not that a result would. So some runs that the old code made are begun again
with today's, and for each network one run is done to its end. What was found is kept in a certificate. A
record of the old code counts as today's if no digit differed, and each of its traits is one of the runs
compared.

outputs/equivalent/THEN-NOW.json   a certificate, named after the hashes of the old code and of today's

Nothing here needs torch.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.folders import outputs_folder
from heterofl_core.levels import Mix
from heterofl_core.params import RunParams
from heterofl_core.provenance import code_hash
from heterofl_core.records import digest

Record = Mapping[str, Any]

HOW_MUCH = {"rounds", "milestones", "protocol", "schedule_factor", "eval_every", "seed", "trace"}
"""Parameters of which any value takes the same way through the code, but for what happens at a milestone."""
END = "milestones and last round"
"""The trait that only a comparison to the last round covers."""
RESTORE = "restore it from git, or delete it"


def is_current(record: Record) -> bool:
    """Whether today's code made a record, or is certified to give the same.

    Raises:
        InputError: the certificate cannot be used.
    """
    return record["code_hash"] == code_hash() or is_certified(record)


def is_certified(record: Record) -> bool:
    """Whether other code made a record, which gave the same as today's in all that was compared.

    Raises:
        InputError: the certificate cannot be used.
    """
    covered = certified(certificate_path(record["code_hash"]))
    return bool(covered) and traits(record) <= covered


def engine_of_record(record: Record) -> str:
    """The engine that made a record; the first ones do not name it."""
    return str(record.get("engine", "plain"))


def traits(record: Record) -> set[str]:
    """What decides which way a run takes through the code, and how it rounds: its settings and levels, each
    with the network, engine, precision and machine, which together decide on the programs that are executed.
    """
    params = RunParams.model_validate(record["params"])
    values = params.model_dump(mode="json", exclude={"levels", *HOW_MUCH})
    levels = Mix.parse(params.levels).levels
    found = {f"{name} {value}" for name, value in values.items()} | {f"level {level}" for level in levels}
    found.add("several levels" if len(levels) > 1 else "one level")
    way = f"{params.arch}, {engine_of_record(record)}, {params.precision}, {record['device']}"
    return {f"{way}: {trait}" for trait in found} | {f"{params.arch}: {END}"}


def compared(record: Record, rounds: int) -> set[str]:
    """The traits of a run of which so many rounds are compared."""
    whole = rounds == record["rounds_done"]
    return {trait for trait in traits(record) if whole or not trait.endswith(END)}


def samples(records: Sequence[Record], seen: Collection[str] = ()) -> list[tuple[Record, int]]:
    """The runs to compare, and for how many rounds: together they have all traits of the records.

    For each network the shortest run is compared to its end, rather one of several levels, since only such a
    run judges slices; then the cheapest comparisons that add a trait.

    Args:
        seen: traits that were compared before.
    """
    by_network: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_network[record["params"]["arch"]].append(record)
    whole = [(shortest(some), int(shortest(some)["rounds_done"])) for some in by_network.values()]
    begun = sorted(((record, first_look(record)) for record in records), key=cost)
    covered, chosen = set(seen), []
    for record, rounds in whole + begun:
        new = compared(record, rounds) - covered
        if new:
            chosen.append((record, rounds))
            covered |= new
    return chosen


def first_look(record: Record) -> int:
    """The first round that was evaluated."""
    params = record["params"]
    return min(params["eval_every"], *params["milestones"], params["rounds"])


def shortest(records: Iterable[Record]) -> Record:
    """The shortest of some runs, of several levels if there is one."""
    return min(records, key=lambda record: (not record.get("sub_models"), record["seconds"]))


def cost(sample: tuple[Record, int]) -> float:
    """About how many seconds it takes to compare so many rounds of a run."""
    record, rounds = sample
    return float(record["seconds"] * rounds / record["rounds_done"])


def certificate_path(then: str) -> Path:
    """Where a certificate lies, or would lie, that compares the code of a hash with today's."""
    return outputs_folder() / "equivalent" / f"{then}-{code_hash()}.json"


def certify(record: Record, rounds: int, differences: int) -> None:
    """Adds a comparison to the certificate of a record's code.

    Args:
        record: that was compared, in so many of its first `rounds`.
        differences: numbers that were not the same.
    """
    path = certificate_path(record["code_hash"])
    content = read_certificate(path)
    content["comparisons"][record["run_id"]] = {
        "rounds": rounds,
        "differences": differences,
        "versions": record["versions"],
        "device": record["device"],
        "traits": sorted(compared(record, rounds)),
    }
    content.pop("digest", None)
    write_text(path, json.dumps(content | {"digest": digest(content, "")}, indent=2) + "\n")
    certified.cache_clear()


@functools.cache
def certified(path: Path) -> frozenset[str]:
    """The traits that a certificate covers; none if a number differed, or if there is no certificate.

    Raises:
        InputError: it cannot be used.
    """
    comparisons = read_certificate(path)["comparisons"].values()
    if any(one["differences"] for one in comparisons):
        return frozenset()
    return frozenset(trait for one in comparisons for trait in one["traits"])


def read_certificate(path: Path) -> dict[str, Any]:
    """A certificate's content: `then`, `now`, and what was compared, by run; empty if there is none.

    Raises:
        InputError: it is damaged, not what was written, or that of other code.
    """
    then, _, now = path.stem.partition("-")
    new: dict[str, Any] = {"then": then, "now": now, "comparisons": {}}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        intact = content["digest"] == digest(content, "")
        own = (content["then"], content["now"]) == (then, now)
    except FileNotFoundError:
        return new
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"certificate {path} is damaged ({error!r}); {RESTORE}") from error
    if not (intact and own):
        raise InputError(f"certificate {path} is not what was written there; {RESTORE}")
    return content
