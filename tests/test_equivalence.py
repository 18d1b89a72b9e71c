"""A record outlives a change of the code under which no digit changes, and no other."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core import equivalence
from heterofl_core.equivalence import certificate_path, certify, is_current, samples, traits
from heterofl_core.errors import InputError
from heterofl_core.evidence import state
from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import write_run
from heterofl_core.report import how_it_ran
from heterofl_core.status import status_of

OLD = "0123456789abcdef"
ORIGIN = {"versions": {"torch": "9"}, "device": "a processor"}

pytestmark = pytest.mark.usefixtures("outputs")


def a_record(seconds: float = 10.0, engine: str = "plain", **settings: Any) -> dict[str, Any]:
    """A run of the old code."""
    params = run_params(**{"dataset": "mnist", "levels": "d-e"} | settings)
    return {
        "run_id": params.run_id,
        "params": params.model_dump(mode="json"),
        "code_hash": OLD,
        "git_dirty": False,
        "git_commit": "abc",
        "engine": engine,
        "device": "a processor",
        "seconds": seconds,
        "training_seconds": seconds,
        "evaluation_seconds": 0.0,
        "peak_memory_mb": 1,
        "workers": 1,
        "rounds_done": params.rounds,
    }


def certified_by(*records: dict[str, Any]) -> Path:
    """A certificate that rests on some runs."""
    certify(OLD, {record["run_id"]: 5 for record in records}, records, ORIGIN)
    return certificate_path(OLD)


def test_a_record_of_todays_code_needs_no_certificate() -> None:
    assert is_current(a_record() | {"code_hash": code_hash()})
    assert not is_current(a_record())


def test_a_certificate_covers_what_is_like_the_runs_that_it_rests_on() -> None:
    """Another seed, another length and other shares take the same way through the code."""
    certified_by(a_record())
    for like in (a_record(seed=7), a_record(protocol="short"), a_record(levels="d2-e8"), a_record(rounds=3)):
        assert is_current(like)
        assert state(like) == "current"


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": "c-e"},
        {"levels": "e"},
        {"norm": "gn"},
        {"scaler": False},
        {"partition": "non-iid-2"},
        {"precision": "bf16"},
        {"dataset": "cifar10"},
        {"engine": "compiled"},
    ],
)
def test_it_covers_nothing_else(settings: dict[str, Any]) -> None:
    certified_by(a_record())
    assert not is_current(a_record(**settings))
    assert state(a_record(**settings)) == "stale"


def test_nor_another_machine_nor_another_code() -> None:
    certified_by(a_record())
    assert not is_current(a_record() | {"device": "another processor"})
    assert not is_current(a_record() | {"code_hash": "fedcba9876543210"})


def test_a_setting_counts_for_the_network_that_it_was_compared_with() -> None:
    certified_by(a_record(norm="gn"), a_record(dataset="cifar10"))
    assert is_current(a_record(norm="gn"))
    assert not is_current(a_record(dataset="cifar10", norm="gn"))
    assert "preresnet18: norm gn" not in traits(a_record(norm="gn"))


def test_a_certificate_is_added_to() -> None:
    first, second = a_record(), a_record(norm="gn")
    certified_by(first)
    content = json.loads(certified_by(second).read_text())
    assert content["rounds_compared"] == {first["run_id"]: 5, second["run_id"]: 5}
    assert (content["then"], content["device"]) == (OLD, "a processor")
    assert is_current(first)
    assert is_current(second)


def test_samples_are_the_shortest_runs_in_which_each_trait_occurs() -> None:
    short, long = a_record(seconds=10.0), a_record(seconds=20.0, seed=1)
    masked, all_levels = a_record(seconds=15.0, masked_loss="detach"), a_record(30.0, levels="a-b-c-d-e")
    assert samples([all_levels, long, masked, short]) == [short, masked, all_levels]
    both = a_record(seconds=40.0, levels="a-b-c-d-e", masked_loss="detach")
    assert samples([both, all_levels, masked, short]) == [short, masked, all_levels]


@pytest.mark.parametrize("damage", ["changed", "cut", "another layout"])
def test_a_damaged_certificate_is_named_and_nothing_rests_on_it(damage: str) -> None:
    path = certified_by(a_record())
    text = path.read_text()
    path.write_text({"changed": text.replace("norm sbn", "norm gn"), "cut": text[:-9]}.get(damage, "{}"))
    equivalence.certified.cache_clear()
    with pytest.raises(
        InputError, match=rf"^certificate {path} (is damaged|was changed) .*restore it from git"
    ):
        is_current(a_record())


def test_the_status_and_the_page_of_a_record_follow_its_certificate() -> None:
    record = a_record()
    params = run_params(dataset="mnist", levels="d-e")
    write_run(record, pd.DataFrame({"round": [200]}))
    assert status_of(params).state == "stale"
    assert "certified" not in how_it_ran(record)
    certified_by(record)
    assert status_of(params).state == "done"
    assert how_it_ran(record).endswith(f"certified: today's code {code_hash()} gives the same digits")
