"""Parameters of a run: how few settings become all of them, and what a wrong one is told."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import create_model

from heterofl_core.errors import InputError
from heterofl_core.params import RunParams, run_params
from heterofl_core.settings import command, from_namespace, read_yaml, split_settings, telling

PAPER: dict[str, Any] = {
    "num_clients": 100,
    "participation": 0.1,
    "local_epochs": 5,
    "batch_size": 10,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "clip_norm": 1.0,
    "method": "heterofl",
    "selection": "static",
    "scaler": True,
    "masked_loss": "zero",
    "label_restricted": True,
    "blocks": None,
    "trace": None,
}
"""What the runs of the paper have in common, text aside."""

TABLE_4: dict[str, dict[str, Any]] = {
    "mnist": {
        **PAPER,
        "arch": "cnn",
        "norm": "sbn",
        "lr": 0.01,
        "augmented": False,
        "augmented_statistics": False,
    },
    "cifar10": {
        **PAPER,
        "arch": "preresnet18",
        "norm": "sbn",
        "lr": 0.1,
        "augmented": True,
        "augmented_statistics": True,
    },
    "wikitext2": {
        **PAPER,
        "arch": "transformer",
        "norm": "ln",
        "lr": 0.1,
        "local_epochs": 1,
        "batch_size": 100,
        "augmented": False,
        "augmented_statistics": False,
    },
}


def mnist(**values: Any) -> RunParams:
    return run_params(**{"dataset": "mnist", "levels": "a-e", **values})


# Schedules


@pytest.mark.parametrize(
    ("dataset", "partition", "rounds", "milestones"),
    [
        ("mnist", "iid", 200, (100,)),
        ("mnist", "non-iid-2", 400, (200,)),
        ("cifar10", "iid", 400, (150, 250)),
        ("cifar10", "non-iid-2", 800, (300, 500)),
        ("wikitext2", "iid", 100, (25, 50)),
    ],
)
def test_the_paper_protocol_is_table_4(
    dataset: str, partition: str, rounds: int, milestones: tuple[int, ...]
) -> None:
    params = run_params(dataset=dataset, levels="a-e", partition=partition)
    assert params.model_dump(include=set(TABLE_4[dataset])) == TABLE_4[dataset]
    assert (params.rounds, params.milestones) == (rounds, milestones)
    assert (params.protocol, params.schedule_factor, params.seed) == ("paper", 1.0, 0)


@pytest.mark.parametrize(
    ("factor", "rounds", "milestones"), [(None, 20, (10,)), (0.5, 100, (50,)), (0.01, 2, (1,))]
)
def test_short_scales_rounds_and_milestones_by_the_recorded_factor(
    factor: float | None, rounds: int, milestones: tuple[int, ...]
) -> None:
    params = mnist(protocol="short", schedule_factor=factor)
    assert (params.rounds, params.milestones) == (rounds, milestones)
    assert (params.protocol, params.schedule_factor) == ("short", factor or 0.1)
    assert params.model_dump(include=set(TABLE_4["mnist"])) == TABLE_4["mnist"]


@pytest.mark.parametrize("dataset", ["mnist", "digits", "cifar10", "wikitext2"])
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


def test_a_partition_by_dirichlet_has_the_schedule_of_label_skew() -> None:
    params = mnist(partition="dirichlet-0.5")
    assert (params.partition, params.rounds, params.milestones) == ("dirichlet-0.5", 400, (200,))


# What follows from a schedule


@pytest.mark.parametrize(
    ("eval_every", "milestones", "rounds", "evaluated"),
    [(1, [], 3, [1, 2, 3]), (4, [], 9, [4, 8, 9]), (100, [2, 5], 7, [2, 5, 7]), (3, [3, 50], 6, [3, 6])],
)
def test_milestones_and_the_last_round_are_evaluated_whatever_the_interval(
    eval_every: int, milestones: list[int], rounds: int, evaluated: list[int]
) -> None:
    params = mnist(eval_every=eval_every, milestones=milestones, rounds=rounds)
    assert [number for number in range(1, rounds + 1) if params.is_evaluated(number)] == evaluated


@pytest.mark.parametrize(
    ("num_clients", "participation", "active"),
    [
        (100, 0.1, 10),
        (100, 1.0, 100),
        (10, 0.25, 3),
        (10, 0.24, 2),
        (5, 0.1, 1),
        (3, 0.1, 1),
        (100, 0.001, 1),
    ],
)
def test_max_of_c_m_and_1_clients_are_active_and_a_half_counts_as_one(
    num_clients: int, participation: float, active: int
) -> None:
    assert mnist(num_clients=num_clients, participation=participation).num_active == active


# Methods and architectures


@pytest.mark.parametrize("method", ["fedavg", "standalone", "lg-fedavg"])
def test_a_baseline_has_no_mask_no_restricted_labels_and_no_scaler(method: str) -> None:
    params = mnist(levels="a", method=method)
    assert (params.masked_loss, params.label_restricted, params.scaler) == ("none", False, False)
    assert (params.protocol, params.assignment, params.shared_layers) == ("paper", "fix", 3)


@pytest.mark.parametrize(
    ("dataset", "arch", "norm"),
    [
        ("mnist", "cnn", "sbn"),
        ("mnist", "preresnet18", "sbn"),
        ("cifar10", "cnn", "sbn"),
        ("cifar10", "mlp", "none"),
        ("digits", "mlp", "none"),
        ("wikitext2", "transformer", "ln"),
    ],
)
def test_an_architecture_brings_its_norm(dataset: str, arch: str, norm: str) -> None:
    assert run_params(dataset=dataset, levels="a", arch=arch).norm == norm


@pytest.mark.parametrize(
    "dataset",
    [
        "cifar10",
        pytest.param("mnist"),
        pytest.param("digits"),
    ],
)
def test_blocks_belong_to_a_preresnet_on_any_images(dataset: str) -> None:
    params = run_params(dataset=dataset, levels="a", arch="preresnet18", blocks=[2, 2, 2, 2])
    assert (params.arch, params.blocks) == ("preresnet18", (2, 2, 2, 2))


# Traces

HUNDRED = "aaeea" * 20  # a level for each of Table 4's clients


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., str]:
    """A function that writes a trace, one text `client,level` a line, and gives its path."""

    def write(*lines: str, header: str = "client,level", name: str = "trace.csv") -> str:
        path = tmp_path / name
        path.write_text("\n".join([header, *lines, ""]))
        return str(path)

    return write


def lines(levels: str) -> list[str]:
    """A table's lines, last client first."""
    return [f"{client},{level}" for client, level in enumerate(levels)][::-1]


def test_a_table_of_levels_becomes_their_text(table: Callable[..., str]) -> None:
    params = mnist(trace=table(*lines(HUNDRED)))
    assert (params.assignment, params.trace, params.protocol) == ("trace", HUNDRED, "paper")


def test_the_name_follows_a_traces_levels_and_not_its_path(table: Callable[..., str]) -> None:
    one, other = table(*lines(HUNDRED), name="one.csv"), table(*lines(HUNDRED)[::-1], name="other.csv")
    names = {mnist(trace=trace, assignment="trace").run_id for trace in (one, other, HUNDRED)}
    assert len(names) == 1
    changed = table(*lines(HUNDRED[::-1].replace("a", "e", 1)))
    assert mnist(trace=changed).run_id not in names


def test_a_trace_may_have_any_number_of_clients(table: Callable[..., str]) -> None:
    assert mnist(num_clients=3, trace=table("0,a", "1,e", "2,e")).trace == "aee"


def test_a_single_level_needs_no_trace() -> None:
    params = mnist(levels="e", trace="e" * 100)
    assert (params.assignment, params.trace) == ("fix", None)


NO_TABLE = "trace {} is not a table with the columns client and level ("
NO_COUNT = "parameter 'num_clients' has the value 'two', which is not allowed: "
NO_CLIENT = "trace {{}} names the unknown client {!r}; its {} lines must be about the clients 0 to {}"
TWICE_NAMED = "trace {{}} names client {} twice; each needs one line"
NO_LEVEL = "trace {{}} has the level {!r}, which is none of a to e"


@pytest.mark.parametrize(
    ("rows", "num_clients", "sentence"),
    [
        (["0,a", "2,e"], 2, NO_CLIENT.format("2", 2, 1)),
        (["-1,a", "0,e"], 2, NO_CLIENT.format("-1", 2, 1)),
        (["0.5,a", "1,e"], 2, NO_CLIENT.format("0.5", 2, 1)),
        (["ada,a", "bob,e"], 2, NO_CLIENT.format("ada", 2, 1)),
        (["0,a", "ada,e"], 2, NO_CLIENT.format("ada", 2, 1)),
        (["0,a", "01,e"], 2, NO_CLIENT.format("01", 2, 1)),
        (["0,a", ",e"], 2, NO_CLIENT.format(math.nan, 2, 1)),
        (["0,a", "0,e", "3,e"], 3, NO_CLIENT.format("3", 3, 2)),
        (["0,a", "0,e"], 2, TWICE_NAMED.format(0)),
        (["0,a", "0,a", "1,e"], 3, TWICE_NAMED.format(0)),
        (["0,a", "2,e"], 3, NO_CLIENT.format("2", 2, 1)),
        (["1,a", "2,e"], 3, NO_CLIENT.format("2", 2, 1)),
        (["0,a", "1,f"], 2, NO_LEVEL.format("f")),
        (["0,a", "1,E"], 2, NO_LEVEL.format("E")),
        (["0,a", "1,"], 2, NO_LEVEL.format(math.nan)),
        ([], 2, "trace has 0 levels; num_clients asks for 2"),
        (["0,e", "1,e"], 2, "trace has no client of level 'a', which levels 'a-e' asks for"),
        (["0,a", "1,b"], 2, "trace has the level 'b', which levels 'a-e' does not have"),
        (["0,a", "1,e"], 3, "trace has 2 levels; num_clients asks for 3"),
        (["0,a", "1,e"], None, "trace has 2 levels; num_clients asks for 100"),
        (["0,a", "1,e,a"], 2, NO_TABLE),
        pytest.param(*(["0,a", "1,e"], "two", NO_COUNT)),
    ],
    ids=str,
)
def test_a_wrong_trace_is_answered_by_one_sentence(
    table: Callable[..., str], rows: list[str], num_clients: Any, sentence: str
) -> None:
    path = table(*rows)
    with pytest.raises(InputError) as failure:
        mnist(trace=path, num_clients=num_clients)
    answer = str(failure.value)
    assert answer.startswith(sentence.format(path))
    assert answer == sentence.format(path) or sentence in (NO_TABLE, NO_COUNT)
    assert "\n" not in answer


def test_each_client_of_a_trace_has_one_letter(table: Callable[..., str]) -> None:
    path = table("0,ae", *(f"{client},a" for client in range(1, 99)))
    with pytest.raises(InputError) as failure:
        mnist(trace=path)
    assert str(failure.value) == NO_LEVEL.format("ae").format(path)


@pytest.mark.parametrize(
    ("trace", "absent"), [("bce", None), ("eee", "b"), ("cce", "b"), ("bee", "c"), ("bbb", "c"), ("bcb", "e")]
)
def test_a_trace_must_have_every_level_of_the_mix(
    table: Callable[..., str], trace: str, absent: str | None
) -> None:
    for given_as in (trace, table(*lines(trace))):
        if absent is None:
            assert mnist(levels="b-c-e", num_clients=3, trace=given_as).trace == trace
            continue
        with pytest.raises(InputError) as failure:
            mnist(levels="b-c-e", num_clients=3, trace=given_as)
        assert str(failure.value) == (
            f"trace has no client of level {absent!r}, which levels 'b-c-e' asks for"
        )


@pytest.mark.parametrize("header", ["client", "level", "clients,levels", "client, level"])
def test_a_trace_without_its_columns_is_refused(table: Callable[..., str], header: str) -> None:
    path = table(header=header)
    with pytest.raises(InputError, match=r"^trace \S+ is not a table with the columns client and level \(."):
        mnist(trace=path)


@pytest.mark.parametrize("content", [b"", b"client,level\n0,\xff\n"])
def test_a_trace_that_is_no_table_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as failure:
        mnist(trace=str(path))
    assert str(failure.value).startswith(NO_TABLE.format(path))
    assert "\n" not in str(failure.value)


def test_a_trace_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    with pytest.raises(InputError) as failure:
        mnist(trace=str(path))
    assert str(failure.value) == f"trace {path} cannot be read: No such file or directory"
    path.mkdir()
    with pytest.raises(InputError) as failure:
        mnist(trace=str(path))
    assert str(failure.value) == f"trace {path} cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("trace", "assignment"), [(None, "trace"), ("ae", "fix"), ("ae", "dynamic"), ("ae", "uniform")]
)
def test_a_trace_and_its_assignment_need_each_other(trace: str | None, assignment: str) -> None:
    with pytest.raises(InputError) as failure:
        mnist(trace=trace, assignment=assignment)
    assert str(failure.value) == (
        f"trace {trace!r} does not go with assignment {assignment!r}; assignment trace needs one, and no "
        "other allows it"
    )


@pytest.mark.parametrize(
    ("assignment", "trace"), [("uniform", None), ("trace", "a" * 50 + "e" * 50), ("trace", "aaa" + "e" * 97)]
)
def test_shares_that_would_not_be_followed_are_refused(assignment: str, trace: str | None) -> None:
    assert mnist(levels="a5-e5", assignment=assignment, trace=trace).levels == "a-e"
    with pytest.raises(InputError) as failure:
        mnist(levels="a3-e7", assignment=assignment, trace=trace)
    assert str(failure.value) == (
        f"levels 'a3-e7' has numbers, which assignment {assignment} does not follow; allowed is 'a-e', "
        "or assignment fix or dynamic"
    )


# The name of a run

SCHEDULES_BY_HAND: dict[str, st.SearchStrategy[Any]] = {
    "protocol": st.sampled_from(["smoke", "custom"]),
    "num_clients": st.sampled_from([10, 100]),
    "participation": st.sampled_from([0.1, 1]),
    "rounds": st.integers(1, 500),
    "lr": st.floats(1e-9, 1e9),
    "milestones": st.sets(st.integers(1, 500), max_size=3).map(sorted),
    "eval_every": st.integers(1, 500),
    "seed": st.integers(0, 2**70),
}
SWITCHES: dict[str, st.SearchStrategy[Any]] = {
    "scaler": st.booleans(),
    "masked_loss": st.sampled_from(["zero", "neg_inf", "detach", "none"]),
    "label_restricted": st.booleans(),
    "selection": st.sampled_from(["static", "random", "rolling"]),
}
PARTITIONS = st.sampled_from(["iid", "non-iid-1", "non-iid-2", "dirichlet-0.5", "dirichlet-0.50"])
MIXES = st.sampled_from(["a", "e", "a10", "a-e", "a5-e5", "a3-e7", "a30-e70", "a7-e3"])
TWICE = st.sampled_from([(1, 1, 1, 2), (2, 2, 2, 2)])
images = st.fixed_dictionaries(
    {"dataset": st.sampled_from(["digits", "mnist", "cifar10"]), "levels": MIXES},
    optional={
        "partition": PARTITIONS,
        "assignment": st.sampled_from(["fix", "dynamic"]),
        "norm": st.sampled_from(["sbn", "none", "in", "gn", "ln", "bn"]),
        "augmented": st.booleans(),
        "augmented_statistics": st.booleans(),
        **SWITCHES,
        **SCHEDULES_BY_HAND,
    },
)
deeper = st.fixed_dictionaries({"dataset": st.just("cifar10"), "levels": MIXES, "blocks": TWICE})
drawn_once = st.fixed_dictionaries(
    {
        "dataset": st.sampled_from(["mnist", "cifar10"]),
        "levels": st.sampled_from(["a", "a-e", "a5-e5"]),
        "assignment": st.just("uniform"),
    }
)
traced = st.builds(
    lambda dataset, trace: {
        "dataset": dataset,
        "levels": "a-e",
        "trace": f"a{trace}e",
        "num_clients": len(trace) + 2,
    },
    st.sampled_from(["mnist", "cifar10"]),
    st.text("ae", min_size=8, max_size=200),
)
baselines = st.fixed_dictionaries(
    {
        "dataset": st.sampled_from(["digits", "mnist", "cifar10"]),
        "levels": st.sampled_from(["a", "e"]),
        "method": st.sampled_from(["fedavg", "standalone", "lg-fedavg"]),
    },
    optional={
        "arch": st.just("mlp"),
        "shared_layers": st.integers(1, 4),
        "partition": PARTITIONS,
        **{name: SWITCHES[name] for name in ("scaler", "selection")},
        **SCHEDULES_BY_HAND,
    },
)
text = st.fixed_dictionaries(
    {"dataset": st.just("wikitext2"), "levels": MIXES},
    optional={
        "predicted": st.sampled_from(["all", "masked"]),
        "mask_trained": st.booleans(),
        **SWITCHES,
        **SCHEDULES_BY_HAND,
    },
)
some_params = st.one_of(images, deeper, drawn_once, traced, baselines, text).map(
    lambda values: run_params(**values)
)


@given(st.lists(some_params, min_size=2, max_size=20))
def test_runs_have_the_same_name_if_and_only_if_all_their_settings_agree(runs: list[RunParams]) -> None:
    settings = {run.model_dump_json() for run in runs}
    assert len({run.run_id for run in runs}) == len(settings)


@given(some_params)
def test_a_run_can_be_had_again_from_the_few_settings_that_tell_it_apart(params: RunParams) -> None:
    assert run_params(**telling(params)) == params


def test_the_command_of_a_run_names_what_does_not_follow() -> None:
    assert command(mnist()) == 'make run P="-p dataset=mnist -p levels=a-e"'
    changed = mnist(scaler=False, milestones=[3, 4], trace=HUNDRED)
    assert command(changed) == (
        f'make run P="-p dataset=mnist -p levels=a-e -p scaler=false -p milestones=[3,4] -p trace={HUNDRED}"'
    )


CHANGES: dict[str, Any] = {
    "dataset": "digits",
    "levels": "a-b",
    "method": "fedavg",
    "shared_layers": 2,
    "arch": "preresnet18",
    "blocks": (1, 1, 1, 2),
    "partition": "non-iid-2",
    "assignment": "fix",
    "trace": HUNDRED.replace("a", "e", 1),
    "selection": "rolling",
    "norm": "bn",
    "scaler": False,
    "masked_loss": "neg_inf",
    "label_restricted": False,
    "predicted": "masked",
    "mask_trained": True,
    "augmented": True,
    "augmented_statistics": True,
    "protocol": "smoke",
    "schedule_factor": 0.2,
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
    "precision": "bf16",
    "eval_every": 3,
    "seed": 1,
}
TEXT = run_params(dataset="wikitext2", levels="a-e").model_dump()
NEEDS: dict[str, dict[str, Any]] = {
    "predicted": TEXT,
    "mask_trained": TEXT,
    "method": {"levels": "a", "assignment": "fix", "masked_loss": "none", "label_restricted": False},
    "blocks": {"arch": "preresnet18"},
    "trace": {"assignment": "trace", "trace": HUNDRED},
}
"""What some settings can only be changed beside."""


@pytest.mark.parametrize("name", sorted(RunParams.model_fields))
def test_each_setting_is_part_of_the_name(name: str) -> None:
    settings = mnist(protocol="short").model_dump() | NEEDS.get(name, {})
    changed = settings | {name: CHANGES[name]}
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
        "shared_layers": 3,
        "selection": "static",
        "blocks": None,
        "trace": None,
        "label_restricted": True,
        "predicted": "all",
        "mask_trained": False,
        "augmented": False,
        "augmented_statistics": False,
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


def test_the_papers_blocks_spelled_out_are_the_same_run() -> None:
    spelled_out = run_params(dataset="cifar10", levels="a", blocks=[1, 1, 1, 2])
    assert spelled_out.run_id == run_params(dataset="cifar10", levels="a").run_id


def test_where_all_rows_come_back_that_of_mask_needs_no_setting() -> None:
    plain, spelled_out = (
        run_params(dataset="wikitext2", levels="e", label_restricted=False, **more)
        for more in ({}, {"mask_trained": True})
    )
    assert plain == spelled_out


@pytest.mark.parametrize("partition", ["dirichlet-0.50", "dirichlet-5e-1", "dirichlet-.5"])
def test_a_partition_has_one_name(partition: str) -> None:
    assert mnist(partition=partition).partition == "dirichlet-0.5"
    assert mnist(partition=partition) == mnist(partition="dirichlet-0.5")
    assert mnist(partition=partition).run_id == mnist(partition="dirichlet-0.5").run_id


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"levels": "a5-e5"}, {"levels": "a-e"}),
        ({"levels": "a30-e70"}, {"levels": "a3-e7"}),
        ({"levels": "e10"}, {"levels": "e"}),
        ({"levels": "e", "selection": "rolling"}, {"levels": "e"}),
        ({"levels": "e", "selection": "random", "assignment": "dynamic"}, {"levels": "e"}),
        ({"levels": "e", "scaler": False}, {"levels": "e"}),
        ({"protocol": "short", "schedule_factor": 1}, {}),
        ({"protocol": "short", "schedule_factor": 1, "rounds": 7}, {"rounds": 7}),
        ({"shared_layers": 2}, {}),
        ({"levels": "a", "method": "fedavg", "shared_layers": 2}, {"levels": "a", "method": "fedavg"}),
        (
            {"levels": "a", "method": "standalone", "shared_layers": 2},
            {"levels": "a", "method": "standalone"},
        ),
        ({"arch": "preresnet18", "blocks": [1, 1, 1, 2]}, {"arch": "preresnet18"}),
    ],
    ids=str,
)
def test_settings_that_change_nothing_are_the_same_run(
    settings: dict[str, Any], same: dict[str, Any]
) -> None:
    assert mnist(**settings) == mnist(**same)
    assert mnist(**settings).run_id == mnist(**same).run_id


def test_settings_that_change_something_are_kept() -> None:
    assert mnist(selection="rolling").selection == "rolling"
    assert mnist(levels="a", method="lg-fedavg", shared_layers=2).shared_layers == 2
    assert not mnist(scaler=False).scaler
    assert mnist(protocol="short", schedule_factor=0.5).protocol == "short"


@pytest.mark.parametrize("method", ["fedavg", "standalone", "lg-fedavg"])
def test_a_baseline_has_one_name_with_the_scaler_or_without(method: str) -> None:
    for scaler in (True, False):
        assert mnist(levels="e", method=method, scaler=scaler) == mnist(levels="e", method=method)
    assert not mnist(levels="e", method=method).scaler


def test_the_name_tells_people_what_the_run_is() -> None:
    name = mnist(partition="non-iid-2", protocol="short", seed=3).run_id
    assert name.rpartition("_")[0] == "mnist_non-iid-2_a-e_dynamic_short_s3"


@pytest.mark.parametrize("method", ["fedavg", "standalone", "lg-fedavg"])
def test_the_name_of_a_baseline_tells_its_method(method: str) -> None:
    name = mnist(levels="a", method=method).run_id
    assert name.rpartition("_")[0] == f"mnist_{method}_iid_a_fix_paper_s0"


# What a wrong setting is told

MIX = "levels a to e from large to small, such as 'e', 'a-e' or 'a3-e7'"
AT_MOST = "Input should be less than or equal to"
INTEGER = "Input should be a valid integer"
RULE = "parameter {!r} has the value {!r}, which is not allowed: {}"
UNKNOWN_DATASET = (
    "dataset 'mnits' is unknown; allowed are mnist, cifar10, wikitext2, digits, and own-NAME for a folder "
    "of your own (small letters, digits and hyphens)"
)
UNKNOWN_ARCH = (
    "arch 'vgg' is unknown; allowed are cnn, preresnet18, transformer, mlp, and MODULE:CLASS for your own"
)
UNKNOWN_PARTITION = (
    "partition {!r} is unknown; allowed are iid, non-iid-k for at most k labels a client, such as non-iid-2, "
    "and dirichlet-α, such as dirichlet-0.3"
)
ALPHA = "partition {!r} has α = {}, which is not allowed; α must be finite and above 0"
IMAGES_ONLY = "method {!r} is for images; dataset wikitext2 allows heterofl, fedavg"
TEXT_PARTITION = "partition {!r} is not possible with dataset 'wikitext2'; allowed is iid"
HETEROFLS = "{} is part of HeteroFL, and not of method {!r}; allowed is {!r}, or method heterofl"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rouds": 5}, "parameter 'rouds' (value 5) is unknown; did you mean 'rounds'?"),
        ({"xyzzy": 5}, "parameter 'xyzzy' (value 5) is unknown; allowed are dataset, levels, method, "),
        ({"dataset": None}, "parameter 'dataset' is missing; it must be given"),
        ({"levels": None}, "parameter 'levels' is missing; it must be given"),
        (
            {"dataset": "cifar10", "blocks": [1, 1]},
            "parameter 'blocks' has the value [1, 1], which is not allowed: it has too few elements",
        ),
        ({"dataset": "mnits"}, UNKNOWN_DATASET),
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
        ({"rounds": True}, RULE.format("rounds", True, "it is not a switch")),
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
        ({"lr": True}, RULE.format("lr", True, "it is not a switch")),
        ({"milestones": [True]}, RULE.format("milestones.0", True, INTEGER)),
        ({"milestones": 5}, RULE.format("milestones", 5, "Input should be a valid tuple")),
        (
            {"milestones": [50, 20]},
            "milestones [50, 20] is not allowed; give rounds from 1 on, ascending",
        ),
        ({"milestones": [5, 5]}, "milestones [5, 5] is not allowed; give rounds from 1 on, ascending"),
        ({"milestones": [0, 5]}, "milestones [0, 5] is not allowed; give rounds from 1 on, ascending"),
        ({"partition": "non-iid-0"}, UNKNOWN_PARTITION.format("non-iid-0")),
        ({"partition": "dirichlet"}, UNKNOWN_PARTITION.format("dirichlet")),
        ({"partition": "dirichlet-x"}, ALPHA.format("dirichlet-x", "x")),
        ({"partition": "dirichlet-"}, ALPHA.format("dirichlet-", "")),
        ({"partition": "dirichlet-0"}, ALPHA.format("dirichlet-0", "0")),
        ({"partition": "dirichlet-0.0"}, ALPHA.format("dirichlet-0.0", "0.0")),
        ({"partition": "dirichlet-inf"}, ALPHA.format("dirichlet-inf", "inf")),
        ({"partition": "dirichlet-nan"}, ALPHA.format("dirichlet-nan", "nan")),
        pytest.param(*({"partition": "dirichlet--1"}, ALPHA.format("dirichlet--1", "-1"))),
        (
            {"arch": "transformer"},
            "arch 'transformer' is not for dataset 'mnist'; allowed there: cnn, preresnet18, mlp, ",
        ),
        (
            {"dataset": "wikitext2", "arch": "mlp"},
            "arch 'mlp' is not for dataset 'wikitext2'; allowed there: transformer",
        ),
        ({"arch": "mlp", "norm": "sbn"}, "norm 'sbn' is not possible with arch 'mlp'; allowed is none"),
        (
            {"dataset": "wikitext2", "norm": "sbn"},
            "norm 'sbn' is not possible with arch 'transformer'; allowed is ln",
        ),
        ({"blocks": [1, 1, 1, 2]}, "blocks [1, 1, 1, 2] is for arch preresnet18 only, not for cnn"),
        (
            {"method": "fedavg"},
            "levels 'a-e' is a mix, but method fedavg allows one level only",
        ),
        (
            {"method": "standalone"},
            "levels 'a-e' is a mix, but method standalone allows one level only",
        ),
        (
            {"method": "lg-fedavg"},
            "levels 'a-e' is a mix, but method lg-fedavg allows one level only",
        ),
        (
            {"dataset": "wikitext2", "levels": "a", "method": "standalone"},
            IMAGES_ONLY.format("standalone"),
        ),
        (
            {"dataset": "wikitext2", "levels": "a", "method": "lg-fedavg"},
            IMAGES_ONLY.format("lg-fedavg"),
        ),
        *(
            (
                {"dataset": "wikitext2", "partition": "non-iid-2", "protocol": it},
                TEXT_PARTITION.format("non-iid-2"),
            )
            for it in (None, "paper", "short", "smoke", "custom")
        ),
        ({"dataset": "wikitext2", "partition": "dirichlet-0.3"}, TEXT_PARTITION.format("dirichlet-0.3")),
        *(
            (
                {"levels": "a", "method": method, name: value},
                HETEROFLS.format(f"{name} {value!r}", method, allowed),
            )
            for method in ("fedavg", "standalone", "lg-fedavg")
            for name, value, allowed in (
                ("label_restricted", True, False),
                ("masked_loss", "zero", "none"),
                ("masked_loss", "neg_inf", "none"),
                ("masked_loss", "detach", "none"),
            )
        ),
        *(
            (
                {"dataset": "wikitext2", name: True},
                f"{name} True is for images; dataset wikitext2 allows False",
            )
            for name in ("augmented", "augmented_statistics")
        ),
        ({"predicted": "masked"}, "predicted 'masked' is for dataset wikitext2 only, not for mnist"),
        ({"mask_trained": True}, "mask_trained True is for dataset wikitext2 only, not for mnist"),
        pytest.param(*({"arch": ["cnn"]}, RULE.format("arch", ["cnn"], "Input should be a valid string"))),
        ({"arch": "vgg"}, UNKNOWN_ARCH),
        ({"shared_layers": 0}, RULE.format("shared_layers", 0, "Input should be greater than or equal to 1")),
        (
            {"selection": "dynamic"},
            RULE.format("selection", "dynamic", "Input should be 'static', 'random' or 'rolling'"),
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


def test_a_study_has_no_settings_of_the_execution() -> None:
    with pytest.raises(
        InputError, match=r"^parameter 'workers' \(value 2\) belongs to an execution; give it with -p$"
    ):
        run_params(dataset="digits", levels="e", workers=2)


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


def test_a_setting_of_a_type_that_no_setting_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"^parameter 'lr' has the value {'x': 1}, which is not allowed"):
        from_namespace({"dataset": "mnist", "levels": "a-e", "lr": {"x": 1}})


def test_names_that_are_merged_may_be_given_anew(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("usual: &usual {dataset: mnist, lr: 0.1}\nrun: {<<: *usual, lr: 0.2}\n")
    assert read_yaml(path)["run"] == {"dataset": "mnist", "lr": 0.2}


def test_a_misspelt_variable_that_papermill_injected_is_found() -> None:
    with pytest.raises(InputError, match=r"^parameter 'levles' \(value 'a-c'\) is unknown; did you mean"):
        from_namespace({"dataset": "mnist", "levels": "a-e", "levles": "a-c"})


@pytest.mark.parametrize(
    ("precision", "device", "instructions", "warned"),
    [
        ("bf16", "cpu", "avx2", True),
        ("bf16", "cpu", "avx512_bf16", False),
        ("bf16", "cpu", None, False),
        ("bf16", "cuda", "avx2", False),
        ("fp32", "cpu", "avx2", False),
    ],
)
def test_who_waits_for_a_precision_that_is_slow_here_is_told(
    precision: str,
    device: str,
    instructions: str | None,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("heterofl_core.processor.instructions", lambda: instructions)
    from_namespace({"dataset": "mnist", "levels": "e", "precision": precision, "device": device})
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("precision 'bf16' is slow here: ") == warned
    assert said.err.count("\n") == warned


# Files


def test_a_file_holds_names_and_values(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("dataset: mnist\nlevels: a-e  # equal parts\nmilestones: [5, 9]\nlr: 1e-2\n")
    params = run_params(**read_yaml(path))
    assert (params.milestones, params.lr, params.levels) == ((5, 9), 0.01, "a-e")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "file {} cannot be read: No such file or directory"),
        (b"levels: [a", "file {} is not YAML: "),
        (b"levels: \xff", "file {} is not YAML: "),
        (b"lr: 1\nlevels: e\nlr: 2\n", "file {} is not YAML: 'lr' stands in line 1, and again in "),
        (
            b"runs:\n- {levels: a, seed: 0, levels: e}\n",
            "file {} is not YAML: 'levels' stands in line 2",
        ),
        (b"trace: 2024-99-01", "file {} is not YAML: month must be in 1..12"),
        (b"[" * 5000, "file {} is not YAML: it is nested too deeply"),
        (b"- a\n- b\n", "file {} must hold lines of the form 'name: value'"),
        (b"", "file {} must hold lines of the form 'name: value'"),
        (b"levels", "file {} must hold lines of the form 'name: value'"),
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
    with pytest.raises(InputError, match=f"^file {path} must hold lines of the form"):
        split_settings(read_yaml(path))


@pytest.mark.parametrize(("dataset", "factor"), [("cifar10", 0.002), ("mnist", 0.005)])
def test_a_factor_that_loses_a_decay_is_refused(dataset: str, factor: float) -> None:
    """Of CIFAR10's two milestones both would be the first round, and MNIST's one would be the last."""
    settings: dict[str, Any] = {"dataset": dataset, "levels": "e", "schedule_factor": factor}
    with pytest.raises(
        InputError, match=f"^schedule_factor {factor} leaves 1 rounds .* a decay would be lost"
    ):
        run_params(**settings, protocol="short")
    assert run_params(**settings, protocol="short", milestones=[1]).milestones == (1,)
