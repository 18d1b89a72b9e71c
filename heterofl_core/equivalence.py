"""Code that gives the same: a record outlives a change of the code under which no digit changes.

A hash tells that code changed, not that a result would. So some runs that the old code made are begun again
with today's. If their curves agree to the last digit, a certificate says so, and which settings those runs
had. A record of the old code counts as today's if each of its own settings is among them.

outputs/equivalent/THEN-NOW.json   a certificate, named after the hashes of the old code and of today's

Nothing here needs torch.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.folders import outputs_folder
from heterofl_core.levels import Mix
from heterofl_core.params import SCHEDULE
from heterofl_core.provenance import code_hash
from heterofl_core.records import digest

Record = Mapping[str, Any]

AMOUNTS = {*SCHEDULE, "protocol", "schedule_factor", "eval_every", "seed", "trace"}
"""Parameters that say how much is computed, or with which draws; their values all go the same way through the
code."""
RESTORE = "restore it from git, or delete it"


def is_current(record: Record) -> bool:
    """Whether today's code made a record, or is certified to give the same.

    Raises:
        InputError: the certificate is damaged.
    """
    if record["code_hash"] == code_hash():
        return True
    covered = certified(certificate_path(record["code_hash"]))
    return bool(covered) and traits(record) <= covered


def traits(record: Record) -> set[str]:
    """What decides which way a run takes through the code, and how it rounds: its settings, levels, engine
    and device, each with its network.
    """
    params = record["params"]
    levels = Mix.parse(params["levels"]).levels
    named = {name: value for name, value in params.items() if name not in {*AMOUNTS, "levels"}}
    found = {f"{name} {value}" for name, value in named.items()} | {f"level {level}" for level in levels}
    found |= {
        f"engine {record.get('engine', 'plain')}",
        f"{'several levels' if len(levels) > 1 else 'one level'}",
    }
    found |= {f"device {record['device']}"}  # another one adds in another order
    return {f"{params['arch']}: {trait}" for trait in found}


def samples(records: Iterable[Record]) -> list[Record]:
    """The runs to begin again: the shortest first, each of which has a trait that those before it lack."""
    seen: set[str] = set()
    chosen = []
    for record in sorted(records, key=lambda record: record["seconds"] / record["rounds_done"]):
        if not traits(record) <= seen:
            chosen.append(record)
            seen |= traits(record)
    return chosen


def certificate_path(then: str) -> Path:
    """Where a certificate lies, or would lie, that today's code gives what the code of a hash gave."""
    return outputs_folder() / "equivalent" / f"{then}-{code_hash()}.json"


def certify(then: str, compared: Mapping[str, int], records: Iterable[Record], origin: Record) -> None:
    """Writes a certificate, or adds to it.

    Args:
        then: hash of the old code.
        compared: run ids, and for each the rounds in which no digit differs.
        records: of these runs.
        origin: versions and machine of today; see `provenance.provenance`.
    """
    path = certificate_path(then)
    old = read_certificate(path)
    content = {
        "then": then,
        **origin,
        "rounds_compared": old.get("rounds_compared", {}) | dict(compared),
        "traits": sorted(set(old.get("traits", [])).union(*map(traits, records))),
    }
    write_text(path, json.dumps(content | {"digest": digest(content, "")}, indent=2) + "\n")
    certified.cache_clear()


@functools.cache
def certified(path: Path) -> frozenset[str]:
    """The traits that a certificate covers; none if there is no such certificate.

    Raises:
        InputError: it is damaged.
    """
    return frozenset(read_certificate(path).get("traits", []))


def read_certificate(path: Path) -> dict[str, Any]:
    """A certificate's content; empty if there is none.

    Raises:
        InputError: it is damaged, or not what was written.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        intact = content["digest"] == digest(content, "")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"certificate {path} is damaged ({error!r}); {RESTORE}") from error
    if not intact:
        raise InputError(f"certificate {path} was changed after it was written; {RESTORE}")
    return content
