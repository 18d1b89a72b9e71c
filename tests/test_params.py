"""Parameters of a run: how few settings become all of them, and what a wrong one is told."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import create_model

from heterofl_core.errors import InputError
from heterofl_core.params import RunParams, from_namespace, read_yaml, run_params, split_settings

TABLE_4 = {
    "arch": "cnn",
    "num_clients": 100,
    "participation": 0.1,
    "local_epochs": 5,
    "batch_size": 10,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
}
"""What all MNIST runs of the paper have in common."""


def mnist(**values: Any) -> RunParams:
    return run_params(**{"dataset": "mnist", "levels": "a-e", **values})


# Schedules


@pytest.mark.parametrize(
    ("partition", "rounds", "milestones"), [("iid", 200, (100,)), ("non-iid-2", 400, (200,))]
)
def test_the_paper_protocol_is_table_4(partition: str, rounds: int, milestones: tuple[int, ...]) -> None:
    params = mnist(partition=partition)
    assert params.model_dump(include=set(TABLE_4)) == TABLE_4
    assert (params.rounds, params.milestones) == (rounds, milestones)
    assert (params.protocol, params.schedule_factor, params.clip_norm) == ("paper", 1.0, 1.0)
    assert (params.norm, params.scaler, params.masked_loss, params.seed) == ("sbn", True, "zero", 0)


@pytest.mark.parametrize(
    ("factor", "rounds", "milestones"), [(None, 20, (10,)), (0.5, 100, (50,)), (0.001, 1, (1,))]
)
def test_short_scales_rounds_and_milestones_by_the_recorded_factor(
    factor: float | None, rounds: int, milestones: tuple[int, ...]
) -> None:
    params = mnist(protocol="short", schedule_factor=factor)
    assert (params.rounds, params.milestones) == (rounds, milestones)
    assert (params.protocol, params.schedule_factor) == ("short", factor or 0.1)
    assert params.model_dump(include=set(TABLE_4)) == TABLE_4


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_smoke_takes_two_rounds_of_one_local_epoch(dataset: str) -> None:
    params = run_params(dataset=dataset, levels="e", protocol="smoke")
    assert (params.protocol, params.rounds, params.milestones, params.local_epochs) == ("smoke", 2, (1,), 1)


@pytest.mark.parametrize("protocol", ["paper", "short", "smoke"])
@pytest.mark.parametrize(
    "change", [{"rounds": 3}, {"lr": 0.5}, {"milestones": []}, {"num_clients": 10}, {"momentum": 0}]
)
def test_a_schedule_set_by_hand_becomes_custom(protocol: str, change: dict[str, Any]) -> None:
    params = mnist(protocol=protocol, **change)
    assert (params.protocol, params.schedule_factor) == ("custom", 1.0)


@pytest.mark.parametrize("protocol", ["paper", "short", "smoke"])
def test_the_planned_schedule_set_by_hand_keeps_its_protocol(protocol: str) -> None:
    planned = mnist(protocol=protocol)
    by_hand = {name: getattr(planned, name) for name in ("rounds", "milestones", "lr", "num_clients")}
    assert mnist(protocol=protocol, **by_hand) == planned


@pytest.mark.parametrize("change", [{"eval_every": 3}, {"seed": 7}, {"norm": "gn"}, {"assignment": "fix"}])
def test_what_is_no_schedule_keeps_the_protocol(change: dict[str, Any]) -> None:
    assert mnist(**change).protocol == "paper"


def test_digits_have_a_custom_schedule_of_their_own() -> None:
    params = run_params(dataset="digits", levels="e")
    assert (params.protocol, params.arch) == ("custom", "cnn")


@pytest.mark.parametrize(
    ("levels", "asked", "assignment"),
    [
        ("a", None, "fix"),
        ("a", "dynamic", "fix"),
        ("a-e", None, "dynamic"),
        ("a-e", "fix", "fix"),
        ("a3-e7", "dynamic", "dynamic"),
    ],
)
def test_a_single_level_is_always_fix_and_a_mix_dynamic_by_default(
    levels: str, asked: str | None, assignment: str
) -> None:
    assert mnist(levels=levels, assignment=asked).assignment == assignment


@pytest.mark.parametrize(
    ("rounds", "eval_every"), [(1, 1), (39, 1), (40, 1), (79, 1), (80, 2), (200, 5), (400, 10)]
)
def test_a_curve_has_forty_points_unless_told_otherwise(rounds: int, eval_every: int) -> None:
    assert mnist(rounds=rounds).eval_every == eval_every
    assert mnist(rounds=rounds, eval_every=7).eval_every == 7


def test_a_factor_written_as_text_scales_too() -> None:
    assert mnist(protocol="short", schedule_factor="1e-1") == mnist(protocol="short", schedule_factor=0.1)


def test_a_factor_without_the_short_protocol_is_refused() -> None:
    with pytest.raises(InputError, match="schedule_factor"):
        mnist(schedule_factor=0.5)


# The name of a run

some_params = st.fixed_dictionaries(
    {
        "dataset": st.sampled_from(["digits", "mnist"]),
        "levels": st.sampled_from(["a", "e", "a-e", "a3-e7", "a7-e3"]),
    },
    optional={
        "partition": st.sampled_from(["iid", "non-iid-1", "non-iid-2"]),
        "assignment": st.sampled_from(["fix", "dynamic"]),
        "norm": st.sampled_from(["sbn", "none", "in", "gn", "ln", "bn"]),
        "scaler": st.booleans(),
        "masked_loss": st.sampled_from(["zero", "neg_inf", "detach", "none"]),
        "protocol": st.sampled_from(["smoke", "custom"]),
        "num_clients": st.sampled_from([10, 100]),
        "participation": st.sampled_from([0.1, 1]),
        "rounds": st.integers(1, 500),
        "lr": st.floats(1e-9, 1e9),
        "milestones": st.sets(st.integers(1, 500), max_size=3).map(sorted),
        "eval_every": st.integers(1, 500),
        "seed": st.integers(0, 2**70),
    },
).map(lambda values: run_params(**values))


@given(st.lists(some_params, min_size=2, max_size=20))
def test_runs_have_the_same_name_if_and_only_if_all_their_settings_agree(runs: list[RunParams]) -> None:
    settings = {run.model_dump_json() for run in runs}
    assert len({run.run_id for run in runs}) == len(settings)


CHANGES: dict[str, Any] = {
    "dataset": "digits",
    "levels": "a-b",
    "partition": "non-iid-2",
    "assignment": "fix",
    "norm": "bn",
    "scaler": False,
    "masked_loss": "neg_inf",
    "protocol": "smoke",
    "num_clients": 101,
    "participation": 0.2,
    "rounds": 201,
    "local_epochs": 6,
    "batch_size": 11,
    "lr": 0.02,
    "milestones": [],
    "momentum": 0,
    "weight_decay": 0,
    "clip_norm": 2,
    "eval_every": 3,
    "seed": 1,
}


@pytest.mark.parametrize("name", sorted(RunParams.model_fields.keys() - {"method", "arch"}))  # one value only
def test_each_setting_is_part_of_the_name(name: str) -> None:
    settings = mnist(protocol="short").model_dump()
    changed = settings | {name: CHANGES.get(name, 0.2)}
    assert RunParams(**changed).run_id != RunParams(**settings).run_id


@given(some_params, st.randoms(use_true_random=False))
def test_the_name_survives_a_record_and_any_order_of_the_settings(params: RunParams, random: Any) -> None:
    for dump in (params.model_dump(mode="json"), params.model_dump()):
        shuffled = dict(random.sample(list(dump.items()), len(dump)))
        assert RunParams.model_validate(shuffled).run_id == params.run_id
        assert run_params(**shuffled) == params


def test_a_parameter_that_is_added_later_does_not_change_the_name() -> None:
    class Later(RunParams):
        dropout: float = 0.0

    assert Later(**mnist().model_dump()).run_id == mnist().run_id
    assert Later(**mnist().model_dump(), dropout=0.5).run_id != mnist().run_id


def test_the_order_in_which_parameters_are_declared_does_not_change_the_name() -> None:
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in reversed(RunParams.model_fields.items())
    }
    reordered = create_model("Reordered", **fields)(**mnist().model_dump())
    assert vars(RunParams)["run_id"].fget(reordered) == mnist().run_id


def test_a_parameter_spelled_out_at_its_default_does_not_change_the_name() -> None:
    spelled_out = {
        "method": "heterofl",
        "partition": "iid",
        "norm": "sbn",
        "scaler": True,
        "masked_loss": "zero",
        "schedule_factor": 1.0,
        "eval_every": 5,
        "seed": 0,
        "participation": "0.1",  # a text, as a shell may hand it over
    }
    assert mnist(**spelled_out).run_id == mnist().run_id


def test_the_name_tells_people_what_the_run_is() -> None:
    name = mnist(partition="non-iid-2", protocol="short", seed=3).run_id
    assert name.rpartition("_")[0] == "mnist_non-iid-2_a-e_dynamic_short_s3"


# What a wrong setting is told

MIX = "levels a to e from large to small, such as 'e', 'a-e' or 'a3-e7'"
AT_MOST = "Input should be less than or equal to"
INTEGER = "Input should be a valid integer"
RULE = "parameter {!r} has the value {!r}, which is not allowed: {}"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rouds": 5}, "parameter 'rouds' (value 5) is unknown; did you mean 'rounds'?"),
        ({"xyzzy": 5}, "parameter 'xyzzy' (value 5) is unknown; allowed are dataset, levels, method, arch, "),
        ({"dataset": None}, "parameter 'dataset' is missing; it must be given"),
        ({"levels": None}, "parameter 'levels' is missing; it must be given"),
        ({"dataset": "mnits"}, RULE.format("dataset", "mnits", "Input should be 'digits' or 'mnist'")),
        ({"levels": "a-f"}, f"levels 'a-f' is not a mix of {MIX}"),
        ({"levels": ""}, f"levels '' is not a mix of {MIX}"),
        ({"levels": "e-a"}, f"levels 'e-a' repeats a level or is out of order; allowed are {MIX}"),
        ({"levels": "a-a"}, f"levels 'a-a' repeats a level or is out of order; allowed are {MIX}"),
        ({"levels": "a3-e"}, "levels 'a3-e' has a number on some levels only; give all or none"),
        (
            {"levels": "a3-e6"},
            (
                "levels 'a3-e6' adds up to 9; the numbers are tenths or hundredths of the clients and must "
                "add up to 10 or 100"
            ),
        ),
        ({"levels": 5}, RULE.format("levels", 5, "Input should be a valid string")),
        ({"participation": 0}, RULE.format("participation", 0, "Input should be greater than 0")),
        (
            {"participation": 1.5},
            RULE.format("participation", 1.5, f"{AT_MOST} 1"),
        ),
        ({"rounds": 0}, RULE.format("rounds", 0, "Input should be greater than or equal to 1")),
        ({"rounds": 2.5}, RULE.format("rounds", 2.5, INTEGER)),
        ({"rounds": True}, RULE.format("rounds", True, INTEGER)),
        ({"rounds": [4]}, RULE.format("rounds", [4], INTEGER)),
        ({"rounds": "many"}, RULE.format("rounds", "many", INTEGER)),
        (
            {"scaler": "maybe"},
            RULE.format("scaler", "maybe", "Input should be a valid boolean, unable to interpret input"),
        ),
        ({"lr": math.nan}, RULE.format("lr", math.nan, "Input should be a finite number")),
        ({"lr": math.inf}, RULE.format("lr", math.inf, "Input should be a finite number")),
        ({"lr": -0.1}, RULE.format("lr", -0.1, "Input should be greater than 0")),
        ({"momentum": 1}, RULE.format("momentum", 1, "Input should be less than 1")),
        ({"seed": -1}, RULE.format("seed", -1, "Input should be greater than or equal to 0")),
        ({"milestones": 5}, RULE.format("milestones", 5, "Input should be a valid tuple")),
        (
            {"milestones": [50, 20]},
            "milestones [50, 20] is not allowed; give rounds from 1 on, ascending",
        ),
        ({"milestones": [5, 5]}, "milestones [5, 5] is not allowed; give rounds from 1 on, ascending"),
        ({"milestones": [0, 5]}, "milestones [0, 5] is not allowed; give rounds from 1 on, ascending"),
        (
            {"partition": "non-iid-0"},
            (
                "partition 'non-iid-0' is unknown; allowed are iid, and non-iid-k for at most k labels a "
                "client, such as non-iid-2"
            ),
        ),
        (
            {"protocol": "long"},
            RULE.format("protocol", "long", "Input should be 'paper', 'short', 'smoke' or 'custom'"),
        ),
        (
            {"protocol": "short", "schedule_factor": 1.5},
            RULE.format("schedule_factor", 1.5, f"{AT_MOST} 1"),
        ),
        (
            {"protocol": "short", "schedule_factor": math.nan},
            RULE.format("schedule_factor", math.nan, "Input should be a finite number"),
        ),
        (
            {"dataset": "digits", "protocol": "paper"},
            (
                "protocol 'paper' does not exist for dataset 'digits', which the paper does not use; allowed "
                "are custom, smoke"
            ),
        ),
        (
            {"assignment": "fix", "num_clients": 1},
            "num_clients 1 is too few for levels a-e: each level needs a client of its own",
        ),
    ],
    ids=str,
)
def test_a_wrong_setting_is_answered_by_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as failure:
        mnist(**values)
    answer = str(failure.value)
    assert answer.startswith(sentence)
    assert answer == sentence or sentence.endswith(", ")  # only a list of names is cut short here
    assert "\n" not in answer


@pytest.mark.parametrize(("name", "value"), [("workers", 0), ("workers", "two"), ("force", "perhaps")])
def test_a_wrong_setting_of_the_execution_is_named_too(name: str, value: object) -> None:
    with pytest.raises(
        InputError, match=f"^parameter '{name}' has the value {value!r}, which is not allowed"
    ):
        split_settings({"dataset": "digits", "levels": "e", name: value})


def test_a_misspelt_setting_of_the_execution_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean 'workers'"):
        split_settings({"dataset": "digits", "levels": "e", "worker": 2})


def test_how_a_run_is_executed_is_no_part_of_its_parameters() -> None:
    params, execution = split_settings({"dataset": "mnist", "levels": "a-e", "workers": 2, "force": True})
    assert params == mnist()
    assert (execution.workers, execution.force) == (2, True)


# Notebooks


def test_a_notebooks_variables_are_its_settings() -> None:
    namespace: dict[str, object] = {
        "dataset": "mnist",
        "levels": "a-e",
        "rounds": None,
        "workers": 2,
        "np": np,
        "run_params": run_params,
        "RunParams": RunParams,
        "_private": 5,
        "__name__": "__main__",
        "In": ["", "dataset = 'mnist'"],
        "Out": {},
    }
    params, execution = from_namespace(namespace)
    assert params == mnist()
    assert execution.workers == 2


def test_a_misspelt_variable_that_papermill_injected_is_found() -> None:
    with pytest.raises(InputError, match=r"^parameter 'levles' \(value 'a-c'\) is unknown; did you mean"):
        from_namespace({"dataset": "mnist", "levels": "a-e", "levles": "a-c"})


# Files


def test_a_file_holds_names_and_values(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("dataset: mnist\nlevels: a-e  # equal parts\nmilestones: [5, 9]\nlr: 1e-2\n")
    params = run_params(**read_yaml(path))
    assert (params.milestones, params.lr, params.levels) == ((5, 9), 0.01, "a-e")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "parameter file {} cannot be read: No such file or directory"),
        (b"levels: [a", "parameter file {} is not YAML: "),
        (b"levels: \xff", "parameter file {} is not YAML: "),
        (b"- a\n- b\n", "parameter file {} must hold lines of the form 'name: value'"),
        (b"", "parameter file {} must hold lines of the form 'name: value'"),
        (b"levels", "parameter file {} must hold lines of the form 'name: value'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as failure:
        read_yaml(path)
    assert str(failure.value).startswith(sentence.format(path))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("line", ["1: 2", "on: 5"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"dataset: mnist\nlevels: e\n{line}\n")
    with pytest.raises(InputError):
        split_settings(read_yaml(path))
