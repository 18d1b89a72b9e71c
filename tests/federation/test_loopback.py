"""A real federation on this machine, from end to end: `make federation-test`.

The bounds hold on a busy machine. A round ends at its deadline at the latest, whatever happens to a client; a
run in which nothing happens is much faster.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from heterofl_flower.credentials import make_certificates
from heterofl_flower.loopback import Loopback, federation, free_port, left_over
from heterofl_flower.simulation import largest_difference, read_result, simulate

from heterofl_core.errors import InputError

pytestmark = pytest.mark.federation

TRACE = "cde"
TOLERANCE = 1e-6
DEADLINE_SECONDS = 120
BESIDE_SECONDS = DEADLINE_SECONDS + 60  # of a run, beside its rounds: for clients to join, to start and end
LIAR = 2


@dataclass
class Run:
    """A run that has ended, and its federation, which is still up."""

    here: Loopback
    seconds: float
    log: str


def finish(here: Loopback, rounds: int) -> Run:
    """A run to its end, within the bound."""
    start = time.monotonic()
    run = here.submit(rounds=rounds, deadline_seconds=DEADLINE_SECONDS)
    assert run.ends(rounds * DEADLINE_SECONDS + BESIDE_SECONDS) == 0
    print(run.text())
    return Run(here, time.monotonic() - start, run.text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Three clients, one of which says that it is larger than it is, and a node that is not on the roster."""
    folder = tmp_path_factory.mktemp("federation")
    with federation(folder, TRACE, claims={LIAR: "c"}) as here:
        here.make_key("stranger")
        here.register("stranger")
        stranger = here.start_node("stranger")
        stranger.wait_for("SuperNode ID", 60)
        yield finish(here, rounds=2)
    assert left_over(folder) == []


def test_an_undisturbed_run_ends_with_the_simulations_parameters(undisturbed: Run) -> None:
    weights, params, participants = read_result(undisturbed.here.result)
    assert participants == [[0, 1, 2], [0, 1, 2]]
    assert params.trace == TRACE
    assert largest_difference(weights, simulate(params, participants).shared) <= TOLERANCE
    initial = simulate(params, [[]]).shared
    assert largest_difference(weights, initial) > 1000 * TOLERANCE  # it has learned something


def test_a_node_gets_the_level_of_its_key_and_not_the_one_that_it_claims(undisturbed: Run) -> None:
    assert f"client {LIAR} says that it has level 'c'; its key has level e, and that holds" in undisturbed.log
    sent = [line for line in undisturbed.log.splitlines() if f"client {LIAR} gets" in line]
    assert [line.split(", ")[-1] for line in sent] == ["level e"] * 2


def test_a_registered_node_that_is_not_on_the_roster_gets_nothing(undisturbed: Run) -> None:
    assert "has a key that is not on the roster, and gets nothing" in undisturbed.log
    node = next(process for process in undisturbed.here.processes if process.name == "stranger")
    assert node.handle.poll() is None  # Flower has let it in
    assert "Receiving" not in node.text()


def test_a_node_that_trusts_another_authority_is_refused(undisturbed: Run) -> None:
    here = undisturbed.here
    here.make_key("astray")
    here.register("astray")
    other = make_certificates(here.folder / "other-tls")
    assert "exit code 305, [SSL: CERTIFICATE_VERIFY_FAILED]" in here.try_to_join("astray", other.authority)


def test_a_node_with_an_unregistered_key_is_refused(undisturbed: Run) -> None:
    undisturbed.here.make_key("unregistered")
    refusal = undisturbed.here.try_to_join("unregistered")
    assert "exit code 305" in refusal
    assert "Failed to activate SuperNode" in refusal


def test_private_keys_are_for_their_owner_alone(undisturbed: Run) -> None:
    keys = [*undisturbed.here.folder.glob("*/key"), undisturbed.here.certificates.key]
    assert len(keys) >= 1 + len(TRACE)
    assert {oct(key.stat().st_mode & 0o777) for key in keys} == {"0o600"}
    app = undisturbed.here.folder / "flower" / "apps"
    copies = [path for path in app.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert copies == []  # what travels is the app, and no key


def test_a_run_outlives_a_client_that_is_killed_in_the_middle_of_a_round(tmp_path: Path) -> None:
    killed, rounds = 1, 3
    with federation(tmp_path, TRACE) as here:
        start = time.monotonic()
        run = here.submit(rounds=rounds, deadline_seconds=DEADLINE_SECONDS)
        node = next(process for process in here.processes if process.name == f"client-{killed}")
        node.wait_for("round 2 begins", DEADLINE_SECONDS + BESIDE_SECONDS)
        node.kill()
        assert run.ends(rounds * DEADLINE_SECONDS + BESIDE_SECONDS) == 0
        print(run.text(), f"the run took {time.monotonic() - start:.0f} s", sep="\n")
    weights, params, participants = read_result(here.result)
    assert participants == [[0, 1, 2], [0, 2], [0, 2]]
    assert largest_difference(weights, simulate(params, participants).shared) <= TOLERANCE
    everybody = simulate(params, [[0, 1, 2]] * rounds).shared
    assert largest_difference(weights, everybody) > 1000 * TOLERANCE  # the killed client would have mattered


def test_a_server_that_cannot_start_says_so_at_once(tmp_path: Path) -> None:
    here = Loopback(tmp_path, make_certificates(tmp_path / "tls"), free_port())
    here.certificates.key.unlink()
    try:
        with pytest.raises(InputError, match="the server ended"):
            here.start_server()
    finally:
        here.stop()
