"""Local steps as programs: they do what the step does, are built once, and are found again."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heterofl_core import compiled
from heterofl_core.clients import ClientTask, ModelCopy, client_update
from heterofl_core.compiled import compiler, program, program_of, program_path
from heterofl_core.errors import InputError
from heterofl_core.examples import ImageExamples
from heterofl_core.local_step import LocalStep, State, StepKind, together
from heterofl_core.models import build_model
from heterofl_core.vectorised import Group, group_update

KIND = StepKind(
    arch="cnn",
    options={"width_rate": 1 / 16, "norm": "sbn", "scale": 0.25, "input_shape": (1, 8, 8), "num_labels": 5},
    batch=(4, 1, 8, 8),
    labels=5,
    clients=5,
    device="cpu",
    masked_loss="zero",
    left_out=0,
    momentum=0.9,
    weight_decay=5e-4,
    clip_norm=1.0,
    precision="fp32",
)
"""What the tests build for real, in the common cache: half a minute for each number of clients, once."""
HELD = torch.tensor([True, True, False, True, False])
needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler on this machine")


@pytest.fixture(autouse=True)
def no_program_in_memory() -> Iterator[None]:
    """Each test looks at the cache itself."""
    program.cache_clear()
    yield
    program.cache_clear()


# Programs that were really built


def parameters_of(seed: int) -> State:
    """Of the model of `KIND`."""
    torch.manual_seed(seed)
    return dict(build_model(KIND.arch, **KIND.options).state_dict())


def batch_of(seed: int) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Images, no draws, and targets among the held labels."""
    source = torch.Generator().manual_seed(seed)
    images = torch.randn(KIND.batch, generator=source)
    return images, (), torch.tensor([0, 1, 3])[torch.randint(3, KIND.batch[:1], generator=source)]


def flat(state: Any) -> Tensor:
    """All numbers of a state, one behind the other."""
    return torch.cat([value.flatten() for value in state.values()]).double()


@needs_compiler
@pytest.mark.parametrize("clients", [1, 5])
def test_a_program_does_what_the_step_does(clients: int) -> None:
    """Step by step, each from what it gave before: parameters, and less exactly their velocity. Of five
    clients, one has no fourth and fifth batch.
    """
    kind = replace(KIND, clients=clients)
    ours, eager = program_of(kind), LocalStep(kind)
    start = [parameters_of(seed) for seed in range(clients)]
    still = [{name: torch.zeros_like(value) for name, value in one.items()} for one in start]
    state = expected = together(list(zip(start, still, strict=True)))
    lr = torch.tensor(0.05)
    with torch.no_grad():
        for number in range(5):
            batches = [
                (*batch_of(10 * number + client), HELD, torch.tensor(client != 1 or number < 3))
                for client in range(clients)
            ]
            *state, loss = ours(*state, *together(batches), lr)
            before = expected
            *expected, expected_loss = eager(*expected, *together(batches), lr)
            torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
            for found, wanted, tolerance in zip(state, expected, (1e-5, 1e-3), strict=True):
                assert (flat(found) - flat(wanted)).norm() < tolerance * flat(wanted).norm()
                assert [value.shape for value in found.values()] == [value.shape for value in wanted.values()]
            assert (flat(expected[0]) - flat(before[0])).norm() > 1e-4 * flat(before[0]).norm()


def client_task(client: int) -> ClientTask:
    """Eleven images in batches of four, whose steps are of `KIND`; augmented by nothing."""
    rng = np.random.default_rng(client)
    parameters = {name: value.numpy() for name, value in parameters_of(0).items()}
    return ClientTask(
        client=client,
        round=1,
        seed=0,
        model=ModelCopy(KIND.arch, KIND.options, parameters),
        examples=ImageExamples(
            inputs=rng.integers(0, 256, (7 if client == 2 else 11, 1, 8, 8), dtype=np.uint8),
            labels=rng.choice([0, 1, 3], 7 if client == 2 else 11),
            mean=np.full((1, 1, 1), 120.0),
            deviation=np.full((1, 1, 1), 70.0),
            augmented=False,
        ),
        held=HELD.numpy(),
        left_out=0,
        upload={},
        masked_loss="zero",
        local_epochs=1,
        batch_size=4,
        lr=0.05,
        momentum=KIND.momentum,
        weight_decay=KIND.weight_decay,
        clip_norm=KIND.clip_norm,
    )


@needs_compiler
@pytest.mark.parametrize("number", [1, 5])
def test_clients_with_a_program_learn_what_they_learn_in_the_plain_loop(number: int) -> None:
    tasks = tuple(client_task(client) for client in range(number))
    assert StepKind.of(tasks[0], number) == replace(KIND, clients=number)
    for task, update in zip(tasks, group_update(Group(tasks, number)), strict=True):
        expected = client_update(task)
        assert update.loss == pytest.approx(expected.loss, rel=1e-5)
        found, wanted = (
            np.concatenate([value.ravel() for value in one.parameters.values()]) for one in (update, expected)
        )
        assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


# Where programs are kept


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; its programs are texts, and what they do is to give them back."""
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(
        torch._inductor, "aoti_load_package", lambda path, **_: lambda: Path(path).read_text(encoding="utf-8")
    )
    return tmp_path / "compiled"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[StepKind]:
    """The kinds that were built, slowly, each into a text that says how many there were before it."""
    done: list[StepKind] = []

    def build(kind: StepKind, path: Path) -> None:
        time.sleep(0.2)
        path.write_text(f"program {len(done)}", encoding="utf-8")
        done.append(kind)

    monkeypatch.setattr(compiled, "build_elsewhere", build)
    return done


def test_a_program_is_built_once_and_found_again(cache: Path, builds: list[StepKind]) -> None:
    """In this process, and by one that comes later."""
    assert program_of(KIND)() == "program 0"
    assert program_of(KIND) is program_of(KIND)
    program.cache_clear()
    assert program_of(KIND)() == "program 0"
    assert builds == [KIND]
    assert [path.name for path in cache.glob("*.pt2")] == [program_path(KIND).name]


def test_two_at_once_build_once(cache: Path, builds: list[StepKind]) -> None:
    """The second one waits, and finds what the first one built."""
    together_now = threading.Barrier(2)

    def get(_: int) -> str:
        together_now.wait()
        return program_of(KIND)()

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(get, range(2))) == ["program 0", "program 0"]
    assert builds == [KIND]


def test_kinds_have_programs_of_their_own(cache: Path, builds: list[StepKind]) -> None:
    other = replace(KIND, clients=1)
    assert (program_of(KIND)(), program_of(other)(), program_of(KIND)()) == (
        *["program 0", "program 1"],
        "program 0",
    )
    assert builds == [KIND, other]


@pytest.mark.parametrize(
    "change",
    [
        {"clients": 1},
        {"batch": (5, 1, 8, 8)},
        {"clip_norm": 2.0},
        {"precision": "bf16"},
        {"options": KIND.options | {"scale": 0.5}},
    ],
    ids=str,
)
def test_a_programs_name_tells_its_kind(cache: Path, change: dict[str, Any]) -> None:
    assert program_path(KIND) == program_path(replace(KIND))
    assert program_path(replace(KIND, **change)) != program_path(KIND)


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (compiled, "processor", lambda: "another processor"),
        (compiled, "code_hash", lambda: "another code"),
        (compiled, "compiler_version", lambda: "another compiler"),
        (torch, "__version__", "another version"),
    ],
)
def test_a_programs_name_tells_processor_code_compiler_and_torch(
    cache: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: str | Callable[[], str]
) -> None:
    """A program would end another processor's process with an illegal instruction."""
    before = program_path(KIND)
    monkeypatch.setattr(where, name, value)
    assert program_path(KIND) != before


def test_the_compilers_version_is_its_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\necho mine 1.2\necho a licence\n", encoding="utf-8")
    mine.chmod(0o755)
    monkeypatch.setenv("CXX", str(mine))
    assert compiled.compiler_version.__wrapped__() == "mine 1.2"


# Builds that fail


@pytest.mark.parametrize("content", [b"", b"no program"])
def test_a_damaged_program_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path)
    kind = replace(KIND, clip_norm=9.0)
    path = program_path(kind)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError) as failure:
        program_of(kind)
    assert str(failure.value).startswith(f"program {path} is damaged (")
    assert str(failure.value).endswith("); delete it, and it is built anew")
    assert "\n" not in str(failure.value)


@needs_compiler
def test_a_compiler_that_fails_is_one_sentence_and_leaves_no_program(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    kind = replace(KIND, arch="mlp", options=KIND.options | {"norm": "none"}, clients=1)
    sentence = r"^engine 'compiled' cannot build a step of mlp: \S[^\n]*; use engine 'plain'$"
    with pytest.raises(InputError, match=sentence):
        program_of(kind)
    assert {path.suffix for path in cache.iterdir()} <= {".lock"}


def test_a_program_of_code_that_was_changed_meanwhile_is_not_built(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be kept under the name of the code that asked for it."""
    monkeypatch.setattr(compiled, "code_hash", lambda: "that of the run")
    sentence = r"^engine 'compiled' cannot build a step of cnn: the code was changed while the run went on, "
    with pytest.raises(InputError, match=sentence):
        program_of(KIND)
    assert {path.suffix for path in cache.iterdir()} == {".lock"}


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("in the way", encoding="utf-8")
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path / "cache")
    with pytest.raises(InputError, match=r"^cannot write .*\.pt2: Not a directory; use engine 'plain'$"):
        program_of(replace(KIND, clip_norm=7.0))


def test_a_build_that_failed_is_tried_again(
    cache: Path, builds: list[StepKind], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kind: StepKind, path: Path) -> None:
        raise InputError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(compiled, "build_elsewhere", fail)
        with pytest.raises(InputError, match="no room"):
            program_of(KIND)
    assert program_of(KIND)() == "program 0"


@pytest.mark.parametrize(
    ("there", "variable", "expected"),
    [
        ({"g++", "clang++"}, None, "/bin/g++"),
        ({"clang++"}, None, "/bin/clang++"),
        ({"g++", "icpx"}, "icpx", "/bin/icpx"),
        ({"g++"}, "icpx", "/bin/g++"),
        (set(), None, None),
    ],
)
def test_the_compiler_is_that_of_the_environment_or_a_common_one(
    monkeypatch: pytest.MonkeyPatch, there: set[str], variable: str | None, expected: str | None
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    if variable:
        monkeypatch.setenv("CXX", variable)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in there else None)
    assert compiler() == expected
