"""Code that gives the same: a record outlives a change of the code under which no digit changes.

A hash tells that code changed, not that a result would. So some runs that the old code made are begun again
with today's: their first rounds, and for each network some past a milestone and to an end. What was found is
kept in a certificate. A record of the old code counts as today's if no digit differed, and each of its traits
is one of the runs compared; or of those that were compared with code in between, and of those that this was
compared with.

outputs/equivalent/THEN-NOW.json   a certificate, named after the hashes of the old code and of today's

Nothing here needs torch.
"""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.folders import outputs_folder
from heterofl_core.levels import Mix
from heterofl_core.locks import locked
from heterofl_core.own import changed_files
from heterofl_core.params import RunParams
from heterofl_core.provenance import code_hash
from heterofl_core.records import (
    Record,
    digest,
    engine_of_record,
    machine_of_record,
    read_record,
    record_path,
)

Comparison = tuple[Record, int]
"""A run, and how many of its first rounds are compared."""

HOW_MUCH = {"rounds", "milestones", "protocol", "schedule_factor", "eval_every", "seed", "trace"}
"""Parameters that say how much is done and with which draws, not what."""
RESTORE = "restore it from git, or delete it"


def is_current(record: Record) -> bool:
    """Whether today's code made a record, or is certified to give the same, from the files that are here.

    Raises:
        InputError: the certificate cannot be used.
    """
    return (record["code_hash"] == code_hash() or is_certified(record)) and not changed_files(record)


def is_certified(record: Record) -> bool:
    """Whether other code made a record, which gave the same as today's in all that was compared.

    Raises:
        InputError: the certificate cannot be used.
    """
    found = covered(certificate_path(record["code_hash"]))
    return record["code_hash"] != code_hash() and bool(found) and traits(record) <= found


def traits(record: Record) -> set[str]:
    """What decides which way a run takes through the code, and how it rounds."""
    return beginning(record) | milestones(record) | slices(record)


def beginning(record: Record) -> set[str]:
    """The traits that show in the first rounds: settings and levels, each with the network, engine,
    precision, machine and versions, which together decide on the programs that are executed.
    """
    params = RunParams.model_validate(record["params"])
    values = params.model_dump(mode="json", exclude={"levels", *HOW_MUCH})
    levels = Mix.parse(params.levels).levels
    found = {f"{name} {value}" for name, value in values.items()} | {f"level {level}" for level in levels}
    found.add("several levels" if len(levels) > 1 else "one level")
    versions = (f"{name} {version}" for name, version in record["versions"].items())
    way = (params.arch, engine_of_record(record), params.precision, machine_of_record(record), *versions)
    return {f"{', '.join(way)}: {trait}" for trait in found}


def milestones(record: Record) -> set[str]:
    """The trait of a run that goes on behind its first milestone."""
    return (
        {f"{record['params']['arch']}: milestones"} if last_look(record) > first_milestone(record) else set()
    )


def slices(record: Record) -> set[str]:
    """The trait of a run whose slices were judged in the end."""
    return {f"{record['params']['arch']}: slices"} if record.get("sub_models") else set()


def first_milestone(record: Record) -> float:
    """The first round after which the learning rate is smaller; infinite if there is none."""
    return min(record["params"]["milestones"], default=math.inf)


def last_look(record: Record) -> int:
    """The last evaluated round, which is the last round."""
    return int(record["rounds_done"])


def first_look(record: Record) -> int:
    """The first evaluated round."""
    params = record["params"]
    return int(min(params["eval_every"], first_milestone(record), last_look(record)))


def look_behind_milestone(record: Record) -> int:
    """The first round behind the first milestone that is evaluated in its turn, or the last round."""
    if not milestones(record):
        return last_look(record)
    every = record["params"]["eval_every"]
    return min(last_look(record), (int(first_milestone(record)) // every + 1) * every)


def compared(comparison: Comparison) -> set[str]:
    """The traits of a run that show in so many rounds."""
    record, rounds = comparison
    found = beginning(record)
    if rounds > first_milestone(record):
        found |= milestones(record)
    if rounds == last_look(record):
        found |= slices(record)
    return found


def samples(records: Sequence[Record], seen: Collection[str] = ()) -> list[Comparison]:
    """What to compare so that all traits of some records are seen.

    For each network, if milestones or slices were not seen, the cheapest run that has them is compared until
    they show; then come the cheapest beginnings that add a trait.

    Args:
        seen: traits that were compared before.
    """
    shown, chosen = set(seen), []
    by_network: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_network[record["params"]["arch"]].append(record)
    for some in by_network.values():
        while ends := set().union(*map(milestones, some), *map(slices, some)) - shown:
            runs = [(record, look(record)) for record in some for look in (look_behind_milestone, last_look)]
            best = min(runs, key=lambda run: (-len(ends & compared(run)), cost(run)))
            chosen.append(best)
            shown |= compared(best)
    for begun in sorted(((record, first_look(record)) for record in records), key=cost):
        if not compared(begun) <= shown:
            chosen.append(begun)
            shown |= compared(begun)
    return chosen


def cost(comparison: Comparison) -> float:
    """About how many seconds a comparison takes."""
    record, rounds = comparison
    return float(record["seconds"] * rounds / record["rounds_done"])


def certificate_path(then: str) -> Path:
    """Where a certificate lies, or would lie, that compares the code of a hash with today's."""
    return outputs_folder() / "equivalent" / f"{then}-{code_hash()}.json"


def certify(comparison: Comparison, differences: int) -> None:
    """Adds a comparison to the certificate of a record's code.

    Args:
        differences: numbers that were not the same.
    """
    record, rounds = comparison
    path = certificate_path(record["code_hash"])
    with locked(path.name):  # two processes may compare at once
        content = read_certificate(path)
        content.pop("digest", None)
        content["comparisons"][record["run_id"]] = {"rounds": rounds, "differences": differences}
        write_text(path, json.dumps(content | {"digest": digest(content, "")}, indent=2) + "\n")
    covered.cache_clear()


@functools.cache
def covered(path: Path, beside: frozenset[Path] = frozenset()) -> frozenset[str]:
    """The traits in which today's code gives what older code gave: by its certificate, or by one that leads
    to code in between and one that leads on from there.

    Args:
        path: where the certificate lies, or would lie.
        beside: those that a way does not come back to.

    Raises:
        InputError: a certificate, or one of its records, cannot be used.
    """
    if differing(read_certificate(path)):
        return frozenset()
    then, _, now = path.stem.partition("-")
    found = set(certified(path))
    for other in path.parent.glob(f"{then}-*.json"):
        on = path.with_stem(f"{other.stem.partition('-')[2]}-{now}")
        if other != path and on not in beside:
            found |= certified(other) & covered(on, beside | {path})
    return frozenset(found)


def leads_on(then: str) -> bool:
    """Whether certificates of other code lead to this one, and so from there to today's if this has one."""
    return any(certificate_path(then).parent.glob(f"*-{then}.json"))


def certified(path: Path) -> frozenset[str]:
    """The traits that a certificate covers: those of the runs compared, while their records are there. None
    if a number differed, or if there is no certificate.

    Raises:
        InputError: it, or one of the records, cannot be used.
    """
    content = read_certificate(path)
    if differing(content):
        return frozenset()
    return frozenset(trait for comparison in comparisons(content) for trait in compared(comparison))


def comparisons(certificate: Mapping[str, Any]) -> Iterator[Comparison]:
    """What a certificate rests on; a record that is gone, or was made anew, is left out."""
    for run_id, found in certificate["comparisons"].items():
        if record_path(run_id).exists():
            record = read_record(record_path(run_id))
            if record["code_hash"] == certificate["then"]:
                yield record, found["rounds"]


def differing(certificate: Mapping[str, Any]) -> list[str]:
    """The runs of which a number differed."""
    return [run_id for run_id, found in certificate["comparisons"].items() if found["differences"]]


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
