"""Who executes a run: what `auto` chooses, what is refused, and that all engines learn as much."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from heterofl_core import engines, runs, vectorised
from heterofl_core.checkpoints import RunState
from heterofl_core.clients import ClientTask, client_update
from heterofl_core.engines import PLAIN, Engine, engine_of
from heterofl_core.errors import InputError
from heterofl_core.estimate import work_of
from heterofl_core.federation import Federation
from heterofl_core.folders import ROOT
from heterofl_core.local_step import LocalStep, StepKind
from heterofl_core.params import Execution, RunParams, run_params
from heterofl_core.runs import execute
from heterofl_core.settings import split_settings


@pytest.fixture(autouse=True)
def a_machine_with_a_compiler_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this one has."""
    monkeypatch.setattr(engines, "compiler", lambda: "g++")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def chosen(params: RunParams, **execution: Any) -> tuple[str, str]:
    """Name and device of the engine."""
    engine = engine_of(params, Execution(**execution))
    return engine.name, engine.device


# What `auto` chooses


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({"levels": "e"}, 6_000, "plain"),  # 40 rounds · 10 clients · 5 epochs · 3 batches
        ({"levels": "e", "rounds": 133}, 19_950, "plain"),
        ({"levels": "e", "rounds": 134}, 20_100, "compiled"),
        ({"levels": "d-e", "rounds": 134}, 20_100, "plain"),  # half of them for each program
        ({"levels": "d-e", "rounds": 267}, 40_050, "compiled"),
    ],
)
def test_auto_compiles_where_each_level_has_20_000_steps(
    settings: dict[str, Any], steps: int, expected: str
) -> None:
    params = run_params(dataset="digits", milestones=[], **settings)
    assert work_of(params).steps == steps
    assert chosen(params) == (expected, "cpu")


LONG = run_params(dataset="digits", levels="e", rounds=500, milestones=[])
SHORT = run_params(dataset="digits", levels="e", rounds=1, milestones=[])


def test_auto_is_plain_without_a_compiler_and_with_batch_normalisation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose running estimates only the plain loop keeps."""
    assert chosen(LONG)[0] == "compiled"
    assert chosen(run_params(**LONG.model_dump() | {"norm": "bn"}))[0] == "plain"
    monkeypatch.setattr(engines, "compiler", lambda: None)
    assert chosen(LONG)[0] == "plain"


def test_on_a_gpu_auto_compiles_however_short_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph is captured within a second, and needs no compiler."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engines, "compiler", lambda: None)
    assert chosen(SHORT, device="cuda") == ("compiled", "cuda")
    assert chosen(SHORT, device="cuda", engine="plain") == ("plain", "cuda")
    assert chosen(run_params(**SHORT.model_dump() | {"norm": "bn"}), device="cuda") == ("plain", "cuda")


def test_what_was_asked_for_wins_over_the_rule() -> None:
    assert chosen(SHORT, engine="compiled")[0] == "compiled"
    assert chosen(LONG, engine="plain")[0] == "plain"


def test_a_gpu_belongs_to_one_process() -> None:
    assert Engine("compiled", "cuda").processes(8) == 1
    assert Engine("compiled", "cpu").processes(8) == PLAIN.processes(8) == 8


# What is refused


def test_tensor_float_32_is_refused_on_a_cpu_where_it_would_silently_be_float32() -> None:
    params = run_params(dataset="digits", levels="e", precision="tf32")
    with pytest.raises(
        InputError, match=r"^precision 'tf32' needs device cuda; on device 'cpu' fp32 and bf16"
    ):
        chosen(params)


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"^device 'cuda' is not on this machine; allowed here is cpu$"):
        chosen(SHORT, device="cuda")


def test_what_cannot_be_compiled_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with_bn = run_params(**SHORT.model_dump() | {"norm": "bn"})
    sentence = r"^engine 'compiled' is not possible with norm 'bn'; allowed are auto, plain$"
    with pytest.raises(InputError, match=sentence):
        chosen(with_bn, engine="compiled")
    monkeypatch.setattr(engines, "compiler", lambda: None)
    sentence = (
        r"^engine 'compiled' is not possible with a machine without a C\+\+ compiler \(g\+\+ or clang\+\+\); "
        r"allowed are auto, plain$"
    )
    with pytest.raises(InputError, match=sentence):
        chosen(SHORT, engine="compiled")


@pytest.mark.parametrize(
    ("settings", "named"), [({"engine": "fast"}, "engine"), ({"device": "tpu"}, "device")]
)
def test_an_engine_or_device_that_does_not_exist_is_refused(settings: dict[str, str], named: str) -> None:
    with pytest.raises(InputError, match=rf"^parameter '{named}'"):
        split_settings({"dataset": "digits", "levels": "e", **settings})


# What is learned


RUN: dict[str, Any] = {
    "dataset": "digits",
    "levels": "e",
    "num_clients": 20,
    "participation": 0.3,
    "rounds": 4,
    "milestones": [],
    "eval_every": 4,
    "local_epochs": 1,
    "batch_size": 8,
    "lr": 0.1,
    "workers": 1,
}
SEEDS = range(5)


def accuracies(engine: str) -> list[float]:
    """The final accuracy of a run with each seed, in %, whose record says which engine it was."""
    found = []
    for seed in SEEDS:
        params, execution = split_settings({**RUN, "engine": engine, "seed": seed})
        record = execute(Federation(params), execution.model_copy(update={"force": True}))
        assert record["engine"] == engine
        found.append(record["metrics"]["final_global_accuracy"])
    return found


def differ(one: list[float], other: list[float]) -> bool:
    """Whether the means are further apart than seeds explain: half of their standard deviation, where five
    seeds of the same algorithm in another order of additions share every draw.
    """
    return abs(np.mean(one) - np.mean(other)) > np.std(one, ddof=1) / 2


@pytest.mark.usefixtures("outputs")
def test_the_compiled_engine_learns_as_much_as_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps that are executed operation by operation, as `test_compiled` shows programs to do, too. A
    twin that forgets the momentum is found out.
    """
    monkeypatch.setattr(vectorised, "program_of", LocalStep)
    plain, fast = accuracies("plain"), accuracies("compiled")
    assert 30 < np.mean(plain) < 95  # neither at chance nor at the top, where all engines would agree
    assert not differ(plain, fast)

    def forgetful(kind: StepKind) -> LocalStep:
        return LocalStep(replace(kind, momentum=0.0))

    monkeypatch.setattr(vectorised, "program_of", forgetful)
    assert differ(plain, accuracies("compiled"))


@pytest.mark.usefixtures("outputs")
def test_a_compiled_run_that_was_interrupted_goes_on_as_if_it_had_not_been(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program takes parameters by their places: they must come back from a checkpoint in their order."""

    class InPlaces(LocalStep):
        def __call__(self, *tensors: Any) -> Any:
            assert list(tensors[0]) == [name for name, _ in self.model.named_parameters()]
            return super().__call__(*tensors)

    monkeypatch.setattr(vectorised, "program_of", InPlaces)
    params, execution = split_settings({**RUN, "engine": "compiled", "checkpoint_every": 1})
    whole = execute(Federation(params), execution)["metrics"]
    advance = runs.advance

    def until_round_2(federation: Federation, state: RunState, *rest: Any) -> None:
        if state.round == 2:
            raise KeyboardInterrupt
        advance(federation, state, *rest)

    monkeypatch.setattr(runs, "advance", until_round_2)
    again = execution.model_copy(update={"force": True})
    with pytest.raises(KeyboardInterrupt):
        execute(Federation(params), again)
    monkeypatch.setattr(runs, "advance", advance)
    assert execute(Federation(params), again)["metrics"] == whole


def tasks_of(federation: Federation) -> list[ClientTask]:
    """Clients of the first round."""
    weights = federation.initial_weights()
    return [
        federation.client_task(
            weights, 1, client, "e", federation.task.share(client), federation.sub_model(1, client, "e")
        )
        for client in range(3)
    ]


def test_the_plain_engine_is_the_plain_loop() -> None:
    tasks = tasks_of(Federation(split_settings(RUN)[0]))
    for task, update in zip(tasks, PLAIN.updates(tasks, workers=1), strict=True):
        expected = client_update(task)
        assert (update.client, update.loss) == (expected.client, expected.loss)
        for name, value in expected.parameters.items():
            np.testing.assert_array_equal(update.parameters[name], value)


# Precision


def test_bf16_changes_what_a_round_learns_only_slightly() -> None:
    """On any processor; relative to how far the parameters move in a round."""

    def after(precision: str) -> torch.Tensor:
        federation = Federation(split_settings({**RUN, "precision": precision})[0])
        start = federation.initial_weights()
        weights, _ = federation.run_round(start, 1, workers=1)
        assert {value.dtype for value in weights.shared.values()} == {torch.float32}
        return torch.cat([(value - start.shared[name]).flatten() for name, value in weights.shared.items()])

    exact, rounded = after("fp32"), after("bf16")
    assert 1e-3 < (rounded - exact).norm() / exact.norm() < 0.3


def test_a_precision_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"^parameter 'precision'|^precision"):
        split_settings({**RUN, "precision": "fp8"})


RECORDS = sorted((ROOT / "outputs" / "runs").glob("*/record.json"))


def test_a_run_is_named_by_its_parameters_and_fp32_is_not_part_of_the_name() -> None:
    """So names from before there was a choice of precision stay."""
    assert RECORDS
    for path in RECORDS:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert RunParams(**record["params"]).run_id == record["run_id"] == path.parent.name
        if record["params"].get("precision", "fp32") == "fp32":
            unnamed = {name: value for name, value in record["params"].items() if name != "precision"}
            assert RunParams(**unnamed).run_id == record["run_id"]


def test_another_precision_is_another_run() -> None:
    names = {run_params(dataset="digits", levels="e", precision=name).run_id for name in ("bf16", "tf32")}
    assert len(names | {run_params(dataset="digits", levels="e").run_id}) == 3
