"""Verifying a record: the first rounds again, compared digit by digit."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core.__main__ import main
from heterofl_core.engines import Engine, engine_of
from heterofl_core.equivalence import certificate_path, covered, is_certified, is_current
from heterofl_core.errors import InputError
from heterofl_core.federation import Federation
from heterofl_core.params import Execution, RunParams, run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import read_record, read_rounds, record_path, write_run
from heterofl_core.runs import execute
from heterofl_core.verify import Verification, changed_since, left_stale, verify, verify_stale

PARAMS = run_params(
    dataset="digits",
    levels="d-e",
    num_clients=20,
    participation=0.1,
    local_epochs=1,
    rounds=4,
    milestones=[3],
    eval_every=2,
)
RUN, ALONE = PARAMS.run_id, Execution(workers=1)
COST = {
    f"{name} of a client"
    for name in ("parameters", "paper_flops", "macs", "attention_macs", "space_mb", "ratio")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder in which the run is finished."""
    path = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFL_OUTPUTS", str(path))
        execute(Federation(PARAMS), ALONE)
    return path


@pytest.fixture(autouse=True)
def finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(folder))


def test_a_record_is_verified_up_to_its_first_evaluated_round_and_nothing_is_written(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    found = verify(RUN, None, ALONE)
    assert found.rounds == 2
    assert set(found.curve["round"]) == {2}
    columns = {"lr", "train_loss", "global_accuracy", "local_accuracy", "down_mb", "up_mb"}
    assert set(found.curve["column"]) == columns | COST  # times are not compared
    assert found.differences.empty
    assert not found.changed
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_more_rounds_can_be_asked_for() -> None:
    found = verify(RUN, 3, ALONE)
    assert set(found.curve["round"]) == {2, 3}
    assert found.differences.empty


def test_the_engine_is_that_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one would agree up to rounding only, which is not to the last digit."""
    chosen = []

    def watched(params: RunParams, execution: Execution) -> Engine:
        chosen.append(execution.engine)
        return engine_of(params, execution)

    monkeypatch.setattr("heterofl_core.verify.engine_of", watched)
    assert verify(RUN, None, Execution(workers=1, engine="auto")).differences.empty
    assert chosen == [read_record(record_path(RUN))["engine"]]


@pytest.fixture
def changed(folder: Path) -> Iterator[None]:
    """The record with another number in its curve and another commit, sealed as if a run had written it."""
    record, rounds = read_record(record_path(RUN)), read_rounds(RUN)
    other = rounds.copy()
    other["global_accuracy"] += [0.5, 0, 0]
    write_run(record | {"git_commit": "abc"}, other)
    yield
    write_run(record, rounds)


@pytest.mark.usefixtures("changed")
def test_a_number_that_the_code_does_not_give_is_found() -> None:
    found = verify(RUN, None, ALONE)
    (difference,) = found.differences.to_dict("records")
    assert (difference["round"], difference["column"]) == (2, "global_accuracy")
    assert difference["recorded"] == pytest.approx(difference["found"] + 0.5)
    assert found.changed["git_commit"][0] == "abc"


@pytest.mark.usefixtures("changed")
def test_the_command_ends_with_one_sentence_and_status_1_if_numbers_differ(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["verify", RUN]) == 1
    output = capsys.readouterr()
    assert "git_commit was abc, is " in output.out
    assert output.err.splitlines()[-1] == f"heterofl_core: {RUN} differs in 1 of 12 values"


def test_the_command_says_that_all_is_identical(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", RUN, "--rounds", "2"]) == 0
    assert capsys.readouterr().out.endswith(f"{RUN}: 2 rounds are identical in all 12 values\n")


@pytest.fixture
def rewritten(folder: Path) -> Iterator[dict[str, Any]]:
    """The record, which a test may write in another version; it is put back afterwards."""
    record, rounds = read_record(record_path(RUN)), read_rounds(RUN)
    yield record
    write_run(record, rounds)


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_rounds_without_anything_to_compare_are_refused(rounds: int) -> None:
    with pytest.raises(InputError, match=f"rounds {rounds} is not allowed; run {RUN} allows 2 to 4"):
        verify(RUN, rounds, ALONE)


def test_the_gpu_is_compared_where_a_gpu_does_the_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofl_core.verify.gpu", lambda: "a GPU")
    record = read_record(record_path(RUN))
    processor = record["device"]
    assert changed_since(record) == {}
    assert changed_since(record | {"device": "a GPU"}) == {}
    assert changed_since(record | {"device": "another GPU"}) == {"device": ("another GPU", processor)}


def test_a_run_without_a_record_is_refused() -> None:
    with pytest.raises(InputError, match="run 'nothing' has no record in "):
        verify("nothing", None, ALONE)


def test_after_the_last_round_slices_are_compared_too(rewritten: dict[str, Any]) -> None:
    found = verify(RUN, 4, ALONE)
    assert set(found.curve["round"]) == {2, 3, 4}
    slices = {"global_accuracy of slice e", "local_accuracy of slice e"}
    assert slices < set(found.curve["column"])
    assert found.differences.empty
    write_run(rewritten | {"sub_models": {"e": {"global_accuracy": 1.0}}}, read_rounds(RUN))
    assert verify(RUN, 4, ALONE).differences["column"].tolist() == ["global_accuracy of slice e"]


def test_a_cost_that_the_code_does_not_count_is_found(rewritten: dict[str, Any]) -> None:
    cost = rewritten["cost"]
    write_run(rewritten | {"cost": cost | {"macs": cost["macs"] + 1}}, read_rounds(RUN))
    (difference,) = verify(RUN, None, ALONE).differences.to_dict("records")
    assert difference == {
        "round": 2,
        "column": "macs of a client",
        "recorded": cost["macs"] + 1,
        "found": cost["macs"],
    }


def test_a_run_that_diverged_both_times_does_not_differ() -> None:
    """A record has null for what is not finite, whichever way it was not."""
    curve = pd.DataFrame(
        {"recorded": [math.nan, math.nan, math.nan, 1.0], "found": [math.nan, math.inf, 1.0, 1.0]}
    )
    assert Verification(1, curve, {}).differences.index.tolist() == [2]


# Older code


OLD = "0123456789abcdef"


@pytest.fixture
def stale(folder: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """The record as older code would have made it, with some of its content changed by the parameter, and the
    first number of its curve by the difference.
    """
    record, rounds = read_record(record_path(RUN)), read_rounds(RUN)
    changes, difference = request.param
    other = rounds.copy()
    other["global_accuracy"] += [difference, 0, 0]
    write_run(record | {"code_hash": OLD} | changes, other)
    yield
    write_run(record, rounds)
    certificate_path(OLD).unlink(missing_ok=True)
    covered.cache_clear()


@pytest.mark.parametrize("stale", [({}, 0.0)], indirect=True)
@pytest.mark.usefixtures("stale")
def test_records_of_other_code_count_as_todays_if_no_digit_differs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not is_current(read_record(record_path(RUN)))
    assert main(["verify", "--stale"]) == 0
    last = "today's code gives the same as all code whose records could be compared here\n"
    assert capsys.readouterr().out == f"{RUN}: 4 rounds, no numbers differ\n{last}"
    assert is_certified(read_record(record_path(RUN)))
    assert main(["verify", "--stale"]) == 0
    assert capsys.readouterr().out == last


@pytest.mark.parametrize("stale", [({"device": "Another (2 cores)"}, 0.5)], indirect=True)
@pytest.mark.usefixtures("stale")
def test_records_of_another_machine_are_not_compared_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--stale"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 records of Another (2 cores) stay stale; this one, or its versions, give other digits",
        "today's code gives the same as all code whose records could be compared here",
    ]
    assert not is_current(read_record(record_path(RUN)))


@pytest.mark.parametrize(
    "stale", [({"device": "Another (2 cores)", "code_hash": code_hash()}, 0.0)], indirect=True
)
@pytest.mark.usefixtures("stale")
def test_records_of_another_machine_that_are_current_are_not_counted() -> None:
    assert not left_stale()


@pytest.mark.parametrize("stale", [({}, 0.5)], indirect=True)
@pytest.mark.usefixtures("stale")
def test_they_stay_stale_if_one_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--stale"]) == 1
    output = capsys.readouterr()
    assert output.out == f"{RUN}: 4 rounds, 1 numbers differ\n"
    assert output.err.splitlines()[-1] == (
        f"heterofl_core: today's code does not give the same as before in {RUN}; its like stay stale"
    )
    assert not is_current(read_record(record_path(RUN)))
    assert main(["verify", "--stale"]) == 2  # nor is it tried again
    output = capsys.readouterr()
    assert output.out == ""
    path = certificate_path(OLD)
    assert output.err == (
        f"heterofl_core: certificate {path} has a difference in run {RUN}; delete it to compare anew\n"
    )


@pytest.mark.parametrize("stale", [({}, 0.0)], indirect=True)
@pytest.mark.usefixtures("stale")
def test_a_run_that_todays_code_refuses_is_told_and_not_certified(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(params: RunParams) -> Federation:
        raise InputError("it cannot be")

    monkeypatch.setattr("heterofl_core.verify.Federation", refuse)
    assert main(["verify", "--stale"]) == 2
    output = capsys.readouterr()
    assert output.out == f"{RUN}: it cannot be\n"
    assert output.err == f"heterofl_core: {RUN} could not be executed; its like stay stale\n"
    assert not is_current(read_record(record_path(RUN)))


@pytest.mark.parametrize(
    "stale",
    [
        ({"device": "another"}, 0.0),
        ({"versions": {"torch": "9"}}, 0.0),
        ({"own": {"train.parquet": "0"}}, 0.0),
    ],
    indirect=True,
)
@pytest.mark.usefixtures("stale")
def test_records_of_another_machine_other_versions_or_ones_own_files_are_left_out() -> None:
    assert list(verify_stale(ALONE)) == []
    assert not is_current(read_record(record_path(RUN)))


def test_a_number_of_rounds_is_for_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--stale", "--rounds", "2"]) == 2
    assert capsys.readouterr().err == "heterofl_core: --rounds 2 is for one run, not for --stale\n"
