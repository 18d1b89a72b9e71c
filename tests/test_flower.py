"""The real federation's parts without processes: messages, the roster, the strategy with clients in here."""

import io
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("flwr")

from cryptography import x509
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from heterofl_flower import __main__ as command
from heterofl_flower import client_app, loopback, messages, server_app
from heterofl_flower.__main__ import main
from heterofl_flower.credentials import Certificates, make_certificates, make_key
from heterofl_flower.loopback import Loopback, Process
from heterofl_flower.messages import (
    from_record,
    pack_task,
    pack_update,
    to_record,
    unpack_task,
    unpack_update,
)
from heterofl_flower.roster import Member, Roster, in_pem
from heterofl_flower.settings import own_share, params_for
from heterofl_flower.simulation import largest_difference, read_result, simulate
from heterofl_flower.strategy import HeteroFL, as_record
from numpy.lib.format import write_array_header_1_0

from heterofl_core.clients import client_update
from heterofl_core.errors import InputError
from heterofl_core.federation import Federation
from heterofl_core.folders import BOOK, ROOT
from heterofl_core.selection import static_index

TRACE = "cde"
OTHER_KIND = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
CONFIG: dict[str, Any] = {
    "dataset": "digits",
    "partition": "dirichlet-0.3",
    "rounds": 2,
    "local_epochs": 1,
    "seed": 0,
    "roster": "",
    "result": "",
    "deadline_seconds": 60,
}


@pytest.fixture(scope="module")
def roster(tmp_path_factory: pytest.TempPathFactory) -> Roster:
    folder = tmp_path_factory.mktemp("keys")
    return Roster(
        tuple(Member(number, level, make_key(folder / str(number))) for number, level in enumerate(TRACE))
    )


@pytest.fixture(scope="module")
def federation(roster: Roster) -> Federation:
    return Federation(params_for(CONFIG, roster))


@pytest.fixture(autouse=True)
def inside_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages in a process of its own only, which knows for which run it works."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


# Messages


def test_parameters_survive_the_way_bit_by_bit() -> None:
    arrays = {
        "weight": np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32),
        "bias": np.zeros(0, np.float32),
        "count": np.array(7),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    back = from_record(to_record(arrays))
    assert list(back) == list(arrays)
    for name, value in arrays.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


def test_objects_which_would_need_pickle_cannot_travel() -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        to_record({"object": np.array([{}], dtype=object)})


def test_a_client_rebuilds_its_task_from_what_it_got_and_what_it_has(federation: Federation) -> None:
    """Its update is that of a simulated client, and no examples were in the message."""
    share = federation.task.share(1)
    index = federation.sub_model(1, 1, "d")
    task = federation.client_task(federation.initial_weights(), 1, 1, "d", share, index)
    content = pack_task(task, num_clients=3)
    largest = max(value.numpy().size for value in content.array_records["parameters"].values())
    assert largest == max(value.size for value in task.model.parameters.values())
    rebuilt = unpack_task(content, own_share(CONFIG, 1, 3))
    assert rebuilt.model.options == task.model.options
    for expected, got in zip(
        client_update(task).parameters.values(), client_update(rebuilt).parameters.values(), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def answer_of(federation: Federation) -> tuple[RecordDict, dict[str, np.ndarray]]:
    """A genuine answer of client 1, and what it holds."""
    share, index = federation.task.share(1), federation.sub_model(1, 1, "d")
    task = federation.client_task(federation.initial_weights(), 1, 1, "d", share, index)
    return pack_update(task, client_update(task), claimed=""), index


def test_an_answer_is_accepted_with_the_labels_whose_rows_it_has(federation: Federation) -> None:
    content, index = answer_of(federation)
    answer = unpack_update(content, federation.initial_weights().shared, federation.axes, index)
    assert answer.held is not None
    assert answer.held.tolist() == np.flatnonzero(federation.task.share(1).held).tolist()
    assert np.isfinite(answer.loss)


def with_first(content: RecordDict, change: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = from_record(content.array_records["parameters"])
    name = next(iter(arrays))
    content["parameters"] = to_record({**arrays, name: change(arrays[name])})


def without_first(content: RecordDict) -> None:
    arrays = from_record(content.array_records["parameters"])
    content["parameters"] = to_record({name: arrays[name] for name in list(arrays)[1:]})


def with_bytes(content: RecordDict, data: bytes) -> None:
    arrays = content.array_records["parameters"]
    arrays[next(iter(arrays))] = Array("float32", (0,), "numpy.ndarray", data)


def huge() -> bytes:
    """The beginning of an array that no memory holds."""
    buffer = io.BytesIO()
    write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**18,)})
    return buffer.getvalue()


def with_report(content: RecordDict, **changes: Any) -> None:
    content["report"] = ConfigRecord(dict(content.config_records["report"]) | changes)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: with_first(content, lambda value: value[:1]), "shape"),
        (lambda content: with_first(content, lambda value: value.astype(np.float64)), "float64"),
        (lambda content: with_first(content, lambda value: value * np.float32(np.nan)), "not finite"),
        (without_first, "parameters are missing"),
        (lambda content: with_bytes(content, b""), "cannot be read"),
        (lambda content: with_bytes(content, b"PK\x03\x04"), "cannot be read"),
        (lambda content: with_bytes(content, huge()), "cannot be read"),
        (lambda content: with_report(content, loss=float("nan")), "loss nan is not finite"),
        (lambda content: with_report(content, held=[0, 0, 1, 2]), "labels"),
        (lambda content: with_report(content, held=[0, 1, 2, 99]), "labels"),
        (lambda content: with_report(content, held=[-1, 1, 2, 3]), "labels"),
        (lambda content: with_report(content, held=["a"]), "cannot be read"),
        (lambda content: with_report(content, held=3), "labels 3 are not"),
        (lambda content: content.pop("report"), "cannot be read"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(
    federation: Federation, spoil: Callable[[RecordDict], Any], words: str
) -> None:
    content, index = answer_of(federation)
    spoil(content)
    with pytest.raises(InputError, match=words):
        unpack_update(content, federation.initial_weights().shared, federation.axes, index)


# The roster


@dataclass
class OfNode:
    """A node as Flower's server knows it."""

    node_id: int
    public_key: bytes


def test_the_key_says_who_a_node_is_and_a_stranger_is_nobody(roster: Roster, tmp_path: Path) -> None:
    stranger = in_pem(make_key(tmp_path / "stranger"))
    nodes = [
        OfNode(50, in_pem(roster.members[2].key)),
        OfNode(51, stranger),
        OfNode(52, in_pem(roster.members[0].key)),
    ]
    assert roster.recognise(nodes) == ({2: 50, 0: 52}, [51])
    assert roster.recognise([OfNode(53, b"")]) == ({}, [53])


def test_a_roster_is_read_as_it_was_written_and_holds_no_secret(roster: Roster, tmp_path: Path) -> None:
    roster.write(tmp_path / "roster.yaml")
    assert Roster.read(tmp_path / "roster.yaml") == roster
    assert "PRIVATE" not in (tmp_path / "roster.yaml").read_text(encoding="utf-8")
    assert (roster.trace, roster.levels) == ("cde", "c-d-e")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("[]", "at least one"),
        ("- level: c", "cannot be read"),
        ("- {level: c, key: nonsense}", "not a public key"),
        ("- {level: z, key: nonsense}", "allowed are a, b, c, d, e"),
        ("{", "cannot be read"),
        ("- {level: 2024-99-01, key: nonsense}", "month must be in 1..12"),
        (
            f"- level: c\n  key: {OTHER_KIND}",
            "elliptic curve",
        ),
    ],
)
def test_a_roster_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "roster.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        Roster.read(tmp_path / "roster.yaml")


def test_a_key_cannot_stand_for_two_clients(roster: Roster, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="clients 0 and 1 have one key in the roster; each needs its own"):
        Roster((roster.members[0], Member(1, "e", roster.members[0].key)))
    with pytest.raises(InputError, match="cannot be read"):
        Roster.read(tmp_path / "missing.yaml")


def test_the_levels_of_a_run_are_those_of_the_roster(roster: Roster) -> None:
    params = params_for(CONFIG, roster)
    assert (params.assignment, params.trace, params.num_active) == ("trace", "cde", 3)
    alone = params_for(CONFIG, Roster((roster.members[2],)))
    assert (alone.levels, alone.num_clients) == ("e", 1)
    with pytest.raises(InputError, match="images"):
        params_for({"dataset": "wikitext2"}, roster)


# The strategy, with clients in this process


class HereGrid:
    """Flower's grid, with clients that answer within this process.

    Args:
        roster: whose clients are connected, at nodes 100, 101, …
        silent: for each round, clients that do not answer.
        strangers: nodes with other keys.
        claims: what clients say that their level is.
    """

    def __init__(
        self,
        roster: Roster,
        silent: dict[int, list[int]] | None = None,
        strangers: Iterable[OfNode] = (),
        claims: dict[int, str] | None = None,
        gone: Iterable[int] = (),
    ) -> None:
        self.nodes = [
            OfNode(100 + member.client, in_pem(member.key))
            for member in roster.members
            if member.client not in gone
        ]
        self.nodes += strangers
        self.silent, self.claims = silent or {}, claims or {}

    def get_nodes(self) -> list[OfNode]:
        return self.nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [reply for message in messages if (reply := self.reply(message))]

    def number(self, message: Message) -> None:
        """Flower's grid does so when it sends a message."""
        message.metadata.__dict__["_message_id"] = message.object_id

    def reply(self, message: Message) -> Message | None:
        self.number(message)
        client = message.metadata.dst_node_id - 100
        if client in self.silent.get(int(message.metadata.group_id), []):
            return None
        node_config: dict[str, Any] = {"level": self.claims[client]} if client in self.claims else {}
        context = Context(1, message.metadata.dst_node_id, node_config, RecordDict(), dict(CONFIG))
        return client_app.train(message, context)


def run(strategy: HeteroFL, grid: HereGrid, rounds: int = 2) -> dict[str, torch.Tensor]:
    """The global parameters after some rounds of Flower's own loop."""
    as_grid: Grid = grid  # type: ignore[assignment]
    strategy.start(as_grid, as_record(strategy.weights), num_rounds=rounds, timeout=60)
    return strategy.weights.shared


def test_a_federation_ends_with_the_simulations_parameters(federation: Federation, roster: Roster) -> None:
    strategy = HeteroFL(federation, roster, 60)
    learned = run(strategy, HereGrid(roster))
    assert strategy.participants == [[0, 1, 2]] * 2
    assert largest_difference(learned, simulate(federation.params, strategy.participants).shared) == 0


def test_who_is_silent_is_left_out_of_that_rounds_mean_alone(federation: Federation, roster: Roster) -> None:
    said: list[str] = []
    strategy = HeteroFL(federation, roster, 60, said.append)
    learned = run(strategy, HereGrid(roster, silent={1: [0, 1]}))
    assert strategy.participants == [[2], [0, 1, 2]]
    assert largest_difference(learned, simulate(federation.params, strategy.participants).shared) == 0
    assert "round 1: client 0 is left out of the mean" in said


def test_a_round_without_any_answer_leaves_all_as_it_was(federation: Federation, roster: Roster) -> None:
    strategy = HeteroFL(federation, roster, 60)
    learned = run(strategy, HereGrid(roster, silent={2: [0, 1, 2]}))
    assert strategy.participants == [[0, 1, 2], []]
    assert largest_difference(learned, simulate(federation.params, [[0, 1, 2]]).shared) == 0


def test_levels_come_from_keys_and_strangers_get_nothing(
    federation: Federation, roster: Roster, tmp_path: Path
) -> None:
    said: list[str] = []
    strategy = HeteroFL(federation, roster, 60, said.append)
    stranger = OfNode(999, in_pem(make_key(tmp_path / "stranger")))
    learned = run(strategy, HereGrid(roster, strangers=[stranger], claims={2: "c"}, gone=[1]), rounds=1)
    assert strategy.participants == [[0, 2]]
    assert largest_difference(learned, simulate(federation.params, [[0, 2]]).shared) == 0
    text = "\n".join(said)
    assert "node 999 has a key that is not on the roster" in text
    assert "client 1 is not connected" in text
    assert "client 2 says that it has level 'c'; its key has level e" in text
    assert "client 2 gets 6,594 parameters, level e" in text


def test_failures_and_forged_answers_are_left_out(federation: Federation, roster: Roster) -> None:
    said: list[str] = []
    strategy, grid = HeteroFL(federation, roster, 60, said.append), HereGrid(roster)
    weights = strategy.weights
    as_grid: Grid = grid  # type: ignore[assignment]
    asked = strategy.configure_train(1, as_record(weights), ConfigRecord(), as_grid)
    assert {message.metadata.ttl for message in asked} == {60}
    grid.number(asked[0])
    failed = Message(Error(5, "gone"), reply_to=asked[0])
    forged = grid.reply(asked[1])
    assert forged is not None
    with_first(forged.content, lambda value: value[:1])
    genuine = grid.reply(asked[2])
    assert genuine is not None
    record, _ = strategy.aggregate_train(1, [failed, forged, genuine])
    assert isinstance(record, ArrayRecord)
    assert strategy.participants == [[2]]
    assert any("client 0: gone" in line for line in said)
    assert any("client 1 is refused" in line for line in said)
    index = static_index(federation.axes, federation.relative_width("e"))
    outside = len(next(iter(index.values())))
    name = next(iter(weights.shared))
    assert torch.equal(strategy.weights.shared[name][outside:], weights.shared[name][outside:])


@pytest.fixture
def serve(roster: Roster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[HereGrid], None]:
    """The server's program, for one round, whose result goes to `tmp_path`."""
    monkeypatch.setattr(server_app, "POLL_SECONDS", 0.01)
    roster.write(tmp_path / "roster.yaml")
    config = CONFIG | {
        "roster": str(tmp_path / "roster.yaml"),
        "result": str(tmp_path / "result.safetensors"),
        "rounds": 1,
        "deadline_seconds": 0.1,
    }
    context: Any = SimpleNamespace(run_config=config)
    return lambda grid: server_app.main(grid, context)  # type: ignore[arg-type]


def test_the_server_waits_a_bounded_time_and_writes_how_the_result_came_about(
    serve: Callable[[HereGrid], None], roster: Roster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(HereGrid(roster, gone=[0]))
    tensors, params, participants = read_result(tmp_path / "result.safetensors")
    assert participants == [[1, 2]]
    assert largest_difference(tensors, simulate(params, participants).shared) == 0
    assert "server: round 1: client 0 is not connected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("deadline_seconds", value) for value in ("soon", 0, -1.0, float("nan"), float("inf"))],
        *[("result", value) for value in ("", ".", "a file/result.safetensors")],
    ],
)
def test_a_wrong_setting_is_told_before_any_training(
    roster: Roster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    roster.write(tmp_path / "roster.yaml")
    config = CONFIG | {"roster": "roster.yaml", "result": "result.safetensors", name: value}
    context: Any = SimpleNamespace(run_config=config)
    with pytest.raises(InputError, match=rf"^{name} .* is not allowed; "):
        server_app.main(HereGrid(roster), context)  # type: ignore[arg-type]


def test_what_a_client_wrote_stays_in_one_line_of_limited_length(capsys: pytest.CaptureFixture[str]) -> None:
    server_app.say(
        "no update from client 1: \x1b[2Ja\nserver: round 1: the mean of\nInputError: " + "b" * 999
    )
    told = capsys.readouterr().out
    assert told.startswith(
        "server: no update from client 1: [2Ja server: round 1: the mean of InputError: bbb"
    )
    assert told.count("\n") == 1
    assert len(told) == len("server: ") + server_app.LINE + 1


@pytest.mark.parametrize("absent", [{"gone": [0, 1, 2]}, {"silent": {1: [0, 1, 2]}}])
def test_a_run_in_which_no_update_was_accepted_has_no_result(
    serve: Callable[[HereGrid], None], roster: Roster, tmp_path: Path, absent: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="no client's update was accepted in any round"):
        serve(HereGrid(roster, **absent))
    assert not (tmp_path / "result.safetensors").exists()


# Certificates, and what is started


def test_certificates_are_for_this_machine_and_keys_for_their_owner(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    authority, server = (
        x509.load_pem_x509_certificate(path.read_bytes()) for path in (made.authority, made.certificate)
    )
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert made.key.stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        make_key(made.key)  # never over another key


def test_nothing_is_sent_to_anybody_else_and_no_colour_to_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter does
    found = loopback.environment(tmp_path)
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["FLWR_HOME"].startswith(str(tmp_path))
    assert "FORCE_COLOR" not in found


def test_waiting_ends_with_a_sentence() -> None:
    with pytest.raises(InputError, match=r"not yet \(waited 0 s\)"):
        loopback.wait_until(lambda: False, 0.0, lambda: "not yet")


def test_the_chapter_names_flowers_version_as_the_app_does() -> None:
    (needed,) = [
        one for one in settings_in(loopback.APP)["project"]["dependencies"] if one.startswith("flwr")
    ]
    assert f"%pip install {needed}`" in (BOOK / "chapters" / "14-flower.md").read_text(encoding="utf-8")


def test_the_fields_that_travel_are_all_that_the_server_decides() -> None:
    from dataclasses import fields

    from heterofl_core.clients import ClientTask

    at_home = {"model", "examples", "held", "left_out", "upload"}
    assert {field.name for field in fields(ClientTask)} == set(messages.SETTINGS) | at_home


def settings_in(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_app_lets_flower_install_nothing_but_the_flower_that_the_study_pins() -> None:
    """The study itself is in no package index, where somebody else could take its name."""
    pinned = settings_in(ROOT)["project"]["optional-dependencies"]["federation"]
    assert settings_in(loopback.APP)["project"]["dependencies"] == [
        package for package in pinned if package.startswith("flwr==")
    ]


def test_the_app_names_modules_that_exist() -> None:
    app = settings_in(loopback.APP)["tool"]["flwr"]["app"]
    assert app["components"] == {
        "serverapp": "heterofl_flower.server_app:app",
        "clientapp": "heterofl_flower.client_app:app",
    }
    assert server_app.app
    assert client_app.app
    assert yaml.safe_load(str(app["config"]["rounds"])) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--levels", ""], "--levels '' is not allowed; it needs a letter for each client, such as cde"),
        (["--rounds", "0"], "--rounds 0 is not allowed; it must be 1 or more"),
        (["--kill", "3"], "--kill 3 is not allowed; clients are 0 to 2, and -1 is nobody"),
        (["--kill-in", "4"], "--kill-in 4 is not allowed; rounds are 1 to 3"),
    ],
)
def test_whom_nobody_can_kill_is_told_before_anything_starts(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"heterofl_flower: {sentence}\n"


# The end, in order


SLEEPER = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)")
STUBBORN = (*SLEEPER[:2], f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER[2]}")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Loopback]:
    """A federation without a server, whose processes are not Flower's."""
    missing = tmp_path / "missing"
    found = Loopback(tmp_path, Certificates(missing, missing, missing), 0)
    yield found
    found.kill_left_over()


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """`main` changes them for its whole process. A process in the background may have been told to ignore
    Ctrl-C; here nothing is ignored.
    """
    before = {ending: signal.getsignal(ending) for ending in command.ENDING}
    for ending in command.ENDING:
        signal.signal(ending, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for ending, handler in before.items():
        signal.signal(ending, handler)


@pytest.mark.parametrize("ending", command.ENDING)
def test_a_signal_lets_all_be_cleaned_up_and_a_second_one_does_not_stop_that(
    ending: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[Path] = []

    def show(folder: Path, *_: Any) -> None:
        try:
            signal.raise_signal(ending)
        finally:
            for again in command.ENDING:
                signal.raise_signal(again)
            cleaned.append(folder)

    monkeypatch.setattr(command, "show", show)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 128 + ending
    (folder,) = cleaned
    assert not folder.exists()


def test_what_nohup_lets_be_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "show", lambda *_: signal.raise_signal(signal.SIGHUP))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    main([])


def test_a_signal_while_processes_are_asked_to_end_has_them_killed(
    here: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Loopback) -> None:
        raise KeyboardInterrupt

    process = here.start("stubborn", *STUBBORN)
    process.wait_for("here", 30)
    monkeypatch.setattr(Loopback, "ask_to_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here.stop()
    assert process.ends(5) == -signal.SIGKILL


def test_nothing_starts_once_a_federation_has_been_stopped(here: Loopback) -> None:
    process = here.start("sleeper", *SLEEPER)
    here.stop()
    assert process.handle.poll() == -signal.SIGTERM
    with pytest.raises(InputError, match="late is not started: the federation has been stopped"):
        here.start("late", *SLEEPER)


def test_ctrl_c_does_not_wait_for_rounds_that_never_come(
    here: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread waits for a client's round, and is told by the end of the run that it need not."""

    @contextmanager
    def federation(folder: Path, trace: str) -> Iterator[Loopback]:
        here.start("client-0", *SLEEPER)
        try:
            yield here
        finally:
            here.stop()

    def interrupted(self: command.Report, run: Process, seconds: float) -> None:
        run.wait_for("here", 30)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "federation", federation)
    monkeypatch.setattr(Loopback, "submit", lambda self, **_: self.start("run", *SLEEPER))
    monkeypatch.setattr(command.Report, "follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.show(tmp_path, "c", rounds=1, deadline=60, kill=0, kill_in=1)
    assert [process.handle.poll() for process in here.processes] == [-signal.SIGTERM] * 2


def test_ctrl_c_does_not_wait_for_keys_to_be_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []

    def register(self: Loopback, name: str) -> int:
        process = self.start(name, *SLEEPER)
        process.wait_for("here", 30)
        os.kill(os.getpid(), signal.SIGINT)  # for the main thread, which waits for this one
        ended.append(process.ends(120))
        return 0

    monkeypatch.setattr(Loopback, "start_server", lambda self: None)
    monkeypatch.setattr(Loopback, "register", register)
    with pytest.raises(KeyboardInterrupt), loopback.federation(tmp_path, "c"):
        pass
    assert ended == [-signal.SIGTERM]


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("Traceback\n  raise X\nheterofl_core.errors.InputError: no client\nINFO: bye\n", "no client"),
        ("ImportError: no torch\n", "the run ended without a result: ImportError: no torch\n"),
    ],
)
def test_a_run_without_a_result_ends_with_the_servers_own_sentence(
    tmp_path: Path, log: str, sentence: str
) -> None:
    (tmp_path / "run.log").write_text(log, encoding="utf-8")
    handle: Any = None
    assert command.reason(Process("run", handle, tmp_path / "run.log")) == sentence


def test_flowers_programs_are_where_they_are_looked_for() -> None:
    for program in ("flwr", "flower-superlink", "flower-supernode", "flower-superexec"):
        assert (loopback.BIN / program).is_file()
