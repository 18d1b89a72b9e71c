"""A record outlives a change of the code under which no digit changes, and no other."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core.equivalence import (
    certificate_path,
    certify,
    covered,
    is_certified,
    is_current,
    samples,
    traits,
)
from heterofl_core.errors import InputError
from heterofl_core.params import run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import record_path, write_run
from heterofl_core.report import run_pages
from heterofl_core.report.evidence import state
from heterofl_core.report.run_tables import results, table_of_runs
from heterofl_core.status import status_of

OLD = "0123456789abcdef"
WHOLE = 200  # rounds of a run here

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
        "versions": {"torch": "9"},
        "device": "a processor",
        "seconds": seconds,
        "training_seconds": seconds,
        "evaluation_seconds": 0.0,
        "peak_memory_mb": 1,
        "workers": 1,
        "metrics": {
            "best_global_accuracy": 99.0,
            "best_global_accuracy_round": 5,
            "final_global_accuracy": 99.0,
        },
        "cost": {},
        "sub_models": {"e": {"global_accuracy": 97.0}} if "-" in params.levels else {},
        "rounds_done": params.rounds,
    }


def compare(record: dict[str, Any], rounds: int, differences: int = 0) -> Path:
    """Adds a comparison to the certificate, which it returns."""
    write_run(record, pd.DataFrame({"round": [WHOLE]}))
    certify((record, rounds), differences)
    return certificate_path(OLD)


def certified_by(*records: dict[str, Any]) -> Path:
    """A certificate that rests on whole runs."""
    return [compare(record, record["rounds_done"]) for record in records][-1]


# What a certificate covers


def test_a_record_of_todays_code_needs_no_certificate() -> None:
    today = a_record() | {"code_hash": code_hash()}
    assert is_current(today)
    assert not is_certified(today)
    assert not is_current(a_record())


def test_a_mix_does_not_cover_a_level_alone() -> None:
    """With Fix, that there are several levels is all that tells them apart."""
    certified_by(a_record(assignment="fix"))
    assert is_current(a_record(assignment="fix", seed=7))
    assert not is_current(a_record(levels="e"))


def test_it_covers_what_is_like_the_runs_that_it_rests_on() -> None:
    """Another seed, another length and other shares take the same way through the code."""
    certified_by(a_record())
    for like in (
        a_record(seed=7),
        a_record(protocol="short"),
        a_record(levels="d2-e8", assignment="dynamic"),
    ):
        assert is_certified(like)
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
        {"batch_size": 20},
        {"clip_norm": 2.0},
        {"dataset": "cifar10"},
        {"engine": "compiled"},
    ],
)
def test_it_covers_nothing_else(settings: dict[str, Any]) -> None:
    certified_by(a_record())
    assert not is_current(a_record(**settings))
    assert state(a_record(**settings)) == "stale"


def test_nor_another_machine_other_versions_or_another_code() -> None:
    path = certified_by(a_record())
    assert not is_current(a_record() | {"device": "another processor"})
    assert not is_current(a_record() | {"versions": {"torch": "8"}})
    assert not is_current(a_record() | {"code_hash": "fedcba9876543210"})
    path.rename(certificate_path("fedcba9876543210"))
    covered.cache_clear()
    with pytest.raises(
        InputError, match=r"is not what was written there; restore it from git, or delete it$"
    ):
        is_current(a_record() | {"code_hash": "fedcba9876543210"})


def test_a_setting_counts_with_its_network_engine_and_precision() -> None:
    """Together they decide on the programs that are executed."""
    certified_by(a_record(levels="c", norm="gn"), a_record(levels="e", engine="compiled"), a_record())
    assert is_current(a_record(levels="e"))
    assert not is_current(a_record(levels="c", engine="compiled"))
    certified_by(a_record(dataset="cifar10", levels="c"))
    assert not is_current(a_record(dataset="cifar10", levels="c", norm="gn"))


def test_the_first_rounds_cover_neither_milestones_nor_slices() -> None:
    compare(a_record(), rounds=5)
    assert not is_current(a_record())
    without_either = a_record(milestones=[], lr=0.01) | {"sub_models": {}}
    assert is_current(without_either)
    compare(a_record(seed=1), WHOLE)
    assert is_current(a_record())


def test_a_run_to_its_end_covers_only_what_it_has() -> None:
    """Here no slices, and there no milestone."""
    compare(a_record() | {"sub_models": {}}, WHOLE)
    assert not is_current(a_record(seed=1))
    compare(a_record(milestones=[], rounds=WHOLE), WHOLE)
    assert is_current(a_record(seed=1))


def test_one_number_that_differs_voids_it_for_good() -> None:
    certified_by(a_record(), a_record(norm="gn"))
    compare(a_record(norm="ln"), rounds=5, differences=1)
    assert not any(is_current(a_record(norm=norm)) for norm in ("sbn", "gn", "ln"))
    certified_by(a_record(seed=1))
    assert not is_current(a_record())


def test_it_rests_on_records_that_are_there_as_they_were() -> None:
    record, like = a_record(), a_record(seed=1)
    certified_by(record)
    assert is_current(like)
    write_run(record | {"code_hash": "made anew"}, pd.DataFrame({"round": [WHOLE]}))
    covered.cache_clear()
    assert not is_current(like)
    record_path(record["run_id"]).unlink()
    covered.cache_clear()
    assert not is_current(like)


def test_older_records_have_the_defaults_of_what_they_do_not_name() -> None:
    old = a_record()
    old["params"] = {name: value for name, value in old["params"].items() if name != "precision"}
    del old["engine"]
    assert traits(old) == traits(a_record())


def test_it_keeps_what_was_compared() -> None:
    first, second = a_record(), a_record(norm="gn")
    compare(first, rounds=5)
    content = json.loads(compare(second, rounds=10).read_text())
    assert (content["then"], content["now"]) == (OLD, code_hash())
    kept = {first["run_id"]: (5, 0), second["run_id"]: (10, 0)}
    found = content["comparisons"].items()
    assert {run: (one["rounds"], one["differences"]) for run, one in found} == kept


@pytest.mark.parametrize("damage", ["changed", "cut", "another layout"])
def test_a_damaged_certificate_stops_whoever_would_rest_on_it(damage: str) -> None:
    record = a_record()
    write_run(record, pd.DataFrame({"round": [WHOLE]}))
    path = certified_by(record)
    text = path.read_text()
    path.write_text({"changed": text.replace("200", "100"), "cut": text[:-9]}.get(damage, "{}"))
    covered.cache_clear()
    for look in (is_current, state, lambda _: status_of(run_params(dataset="mnist", levels="d-e"))):
        with pytest.raises(InputError, match=rf"^certificate {path} .*; restore it from git, or delete it$"):
            look(record)


BETWEEN = "fedcba9876543210"
"""The hash of code that came between the old one and today's."""


def compare_with_code_between(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds a comparison of the old code with that which came between."""
    with monkeypatch.context() as patch:
        patch.setattr("heterofl_core.equivalence.code_hash", lambda: BETWEEN)
        certified_by(record)


def test_two_certificates_lead_as_far_as_both_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gave the same as code that gave the same as today's."""
    for old in (a_record(), a_record(norm="gn"), a_record(norm="ln")):
        compare_with_code_between(old, monkeypatch)
    assert not is_current(a_record())
    for between in (a_record(seed=1), a_record(norm="gn", seed=1), a_record(norm="in", seed=1)):
        write_run(between | {"code_hash": BETWEEN}, pd.DataFrame({"round": [WHOLE]}))
        certify((between | {"code_hash": BETWEEN}, WHOLE), differences=0)
    assert is_current(a_record(seed=2))
    assert is_current(a_record(norm="gn", seed=2))
    assert not is_current(a_record(norm="ln", seed=2))  # was compared on the first way only
    assert not is_current(a_record(norm="in", seed=2))  # on the second only
    assert is_current(a_record(norm="in", seed=2) | {"code_hash": BETWEEN})


def test_no_way_round_makes_up_for_a_number_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    compare_with_code_between(a_record(), monkeypatch)
    between = a_record(seed=1) | {"code_hash": BETWEEN}
    write_run(between, pd.DataFrame({"round": [WHOLE]}))
    certify((between, WHOLE), differences=0)
    assert is_current(a_record(seed=2))
    compare(a_record(seed=3), WHOLE, differences=1)
    assert not is_current(a_record(seed=2))


def test_certificates_in_a_circle_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a change was taken back, and then made in another way."""
    compare_with_code_between(a_record(), monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("heterofl_core.equivalence.code_hash", lambda: OLD)
        back = a_record(seed=1) | {"code_hash": BETWEEN}
        write_run(back, pd.DataFrame({"round": [WHOLE]}))
        certify((back, WHOLE), differences=0)
    covered.cache_clear()
    assert not is_current(a_record(seed=2))


# Which runs are compared


def test_the_cheapest_run_that_has_slices_is_compared_to_its_end_and_others_begun() -> None:
    alone, short, long = a_record(5.0, levels="e"), a_record(10.0), a_record(20.0, seed=1)
    masked, all_levels = a_record(15.0, masked_loss="detach"), a_record(30.0, levels="a-b-c-d-e")
    chosen = samples([all_levels, long, masked, short, alone])
    assert chosen == [(short, WHOLE), (alone, 5), (masked, 5), (all_levels, 5)]


def test_the_cheapest_comparison_comes_first_not_the_shortest_run() -> None:
    """A look after each round makes a comparison short."""
    rare, often = a_record(10.0, levels="e", eval_every=50), a_record(30.0, levels="e", eval_every=1)
    mix = a_record(1.0)
    assert samples([rare, often, mix]) == [(mix, WHOLE), (often, 1)]


def test_what_was_compared_before_is_not_compared_again() -> None:
    """Neither settings nor the end of a run."""
    certified_by(a_record(10.0))
    second = a_record(20.0, norm="gn")
    assert samples([second], covered(certificate_path(OLD))) == [(second, 5)]


def test_each_network_has_a_run_to_its_end_or_past_its_milestones_if_it_has_no_slices() -> None:
    perceptron = a_record(7.0, levels="a", method="fedavg", arch="mlp")
    assert samples([a_record(10.0), perceptron]) == [(a_record(10.0), WHOLE), (perceptron, 105)]


def test_a_network_without_slices_is_compared_until_its_learning_rate_has_fallen() -> None:
    """The milestone is round 100, and each fifth round is evaluated; so the fall shows in round 105."""
    assert samples([a_record(levels="e")]) == [(a_record(levels="e"), 105)]
    late = a_record(levels="e", eval_every=150)
    assert samples([late]) == [(late, 150)]
    rare = a_record(levels="e", eval_every=WHOLE)
    assert samples([rare]) == [(rare, WHOLE)]


def test_a_run_without_milestones_and_slices_needs_no_end() -> None:
    plain = a_record(levels="e", rounds=WHOLE, milestones=[])
    assert samples([plain]) == [(plain, 5)]


# What a reader sees


def test_status_tables_and_pages_follow_a_certificate() -> None:
    record = a_record()
    curve = pd.DataFrame({"round": [WHOLE], "lr": [0.1], "train_loss": [0.1], "global_accuracy": [9.0]})
    write_run(record, curve)
    params = run_params(dataset="mnist", levels="d-e")
    assert status_of(params).state == "stale"
    assert "stale" in table_of_runs(results()).to_html()
    certify((record, WHOLE), differences=0)
    assert status_of(params).state == "done"
    table = table_of_runs(results()).to_html()
    assert "current" in table
    assert "stale" not in table
    assert run_pages.CERTIFIED in run_pages.body(record)
    today = record | {"code_hash": code_hash()}
    assert run_pages.CERTIFIED not in run_pages.body(today)
    uncommitted = run_pages.body(record | {"git_dirty": True})
    assert f"{run_pages.CERTIFIED} {run_pages.ORIGINS['uncommitted']}" in uncommitted
