"""Algorithm 1: who takes part, at which level and learning rate, and what a round does.

A communication round is t, as in the algorithm, so that `round` stays Python's.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from heterofl_core.classification import Classification
from heterofl_core.clients import ClientTask, client_update
from heterofl_core.cost import Cost, model_cost
from heterofl_core.data import Images, load_images
from heterofl_core.errors import InputError
from heterofl_core.examples import ImageExamples, normalise
from heterofl_core.executor import on_one_thread, one_thread
from heterofl_core.federation import Federation, Weights
from heterofl_core.heterofl import aggregate, slice_parameters
from heterofl_core.levels import width_rate
from heterofl_core.models import build_model
from heterofl_core.params import run_params
from heterofl_core.randomness import generator
from heterofl_core.selection import static_index


def federation_of(levels: str = "e", **settings: Any) -> Federation:
    """On digits, with settings that differ from the defaults only where a test says so."""
    return Federation(run_params(dataset="digits", levels=levels, **settings))


def run(federation: Federation, rounds: int = 1, workers: int = 1) -> dict[str, Tensor]:
    """W_g after some rounds."""
    weights = federation.initial_weights()
    for t in range(1, rounds + 1):
        weights, _ = federation.run_round(weights, t, workers)
    assert weights.personal == {}
    return weights.shared


def images_of(federation: Federation) -> Classification:
    """The task, which is one of images."""
    assert isinstance(federation.task, Classification)
    return federation.task


def task_of(
    federation: Federation, weights: Weights, t: int, client: int, level: str, index: dict[str, np.ndarray]
) -> ClientTask:
    """What a client is sent."""
    return federation.client_task(weights, t, client, level, federation.task.share(client), index)


def assert_identical(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Images:
    """The first 80 digits instead of all, which hold every label several times."""
    whole = load_images("digits")
    few = Images(whole.train_inputs[:80], whole.train_labels[:80], whole.test_inputs, whole.test_labels)
    assert set(few.train_labels) == set(range(10))
    monkeypatch.setattr("heterofl_core.classification.load_images", lambda _: few)
    return few


# Who takes part


@pytest.mark.parametrize(
    ("num_clients", "participation", "active"),
    [(100, 0.1, 10), (100, 1.0, 100), (10, 0.25, 3), (5, 0.1, 1), (3, 0.1, 1), (100, 0.001, 1)],
)
def test_max_of_c_m_and_1_clients_take_part_without_replacement(
    num_clients: int, participation: float, active: int
) -> None:
    federation = federation_of(num_clients=num_clients, participation=participation)
    for t in range(1, 20):
        clients = federation.active_clients(t)
        assert len(clients) == active
        assert clients == sorted(set(clients))
        assert set(clients) <= set(range(num_clients))


def test_every_client_takes_part_equally_often() -> None:
    """In 2000 rounds each of ten clients is active 200 times, within four deviations."""
    federation = federation_of(num_clients=10)
    counts = np.bincount(np.concatenate([federation.active_clients(t) for t in range(2000)]))
    assert np.abs(counts - 200).max() < 4 * np.sqrt(2000 * 0.1 * 0.9)


def test_who_takes_part_changes_with_the_round_and_the_seed_and_with_nothing_else() -> None:
    def drawn(levels: str = "e", **settings: Any) -> list[list[int]]:
        federation = federation_of(levels, **settings)
        return [federation.active_clients(t) for t in (3, 1, 2)]

    first = drawn()
    assert len({tuple(clients) for clients in first}) == 3
    assert drawn("a-e", partition="non-iid-2", norm="gn", lr=0.5, rounds=7, masked_loss="none") == first
    assert drawn(seed=1) != first


def test_the_partition_depends_on_the_seed_and_not_on_the_model() -> None:
    plain, other, reseeded = (
        [own.tolist() for own in images_of(federation).partition.train]
        for federation in (federation_of(), federation_of("a-e", norm="gn", lr=0.5), federation_of(seed=1))
    )
    assert plain == other
    assert plain[0] != reseeded[0]


# Learning rates and levels


def test_the_learning_rate_decays_after_each_milestone() -> None:
    federation = federation_of(lr=0.01, rounds=200, milestones=[100, 150])
    rates = [federation.learning_rate(t) for t in (1, 100, 101, 150, 151, 200)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_clients_train_with_the_rounds_learning_rate() -> None:
    federation = federation_of(lr=0.5, rounds=4, milestones=[2])
    weights = federation.initial_weights()
    rates = [task_of(federation, weights, t, 0, "e", {}).lr for t in (2, 3)]
    assert rates == pytest.approx([0.5, 0.05])


def test_fix_gives_a_client_the_same_level_in_every_round() -> None:
    federation = federation_of("a3-e7", assignment="fix")
    for t in (1, 2, 30):
        assert [federation.level(t, client) for client in range(100)] == ["a"] * 30 + ["e"] * 70


def test_dynamic_draws_a_clients_level_anew_in_every_round() -> None:
    federation = federation_of("a3-e7", assignment="dynamic")
    rounds = [[federation.level(t, client) for client in range(100)] for t in range(1, 41)]
    assert all(before != after for before, after in pairwise(rounds))
    assert all({levels[client] for levels in rounds} == {"a", "e"} for client in range(100))
    share = np.mean([level == "a" for levels in rounds for level in levels])
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)


def test_dynamic_levels_can_be_asked_for_in_any_order() -> None:
    federation = federation_of("a-b-c-d-e")
    forwards = [federation.level(1, client) for client in range(20)]
    backwards = [federation.level(1, client) for client in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert [federation_of("a-b-c-d-e", seed=1).level(1, client) for client in range(20)] != forwards


def test_uniform_draws_a_clients_level_once() -> None:
    federation = federation_of("a-c-e", assignment="uniform")
    levels = [federation.level(1, client) for client in range(100)]
    assert set(levels) == {"a", "c", "e"}
    assert [federation.level(30, client) for client in range(100)] == levels
    again, other = (federation_of("a-c-e", assignment="uniform", seed=seed) for seed in (0, 1))
    assert [again.level(2, client) for client in range(100)] == levels
    assert [other.level(2, client) for client in range(100)] != levels


def test_a_trace_gives_each_client_its_level() -> None:
    federation = federation_of("a-c-e", num_clients=5, trace="aecca")
    assert federation.params.assignment == "trace"
    for t in (1, 7):
        assert "".join(federation.level(t, client) for client in range(5)) == "aecca"


# Costs


def level_cost(federation: Federation, level: str) -> Cost:
    """Of one client of this level."""
    options = federation.model_options(level, federation.task.sizes)
    return model_cost(federation.params.arch, federation.task.example, **options)


def assert_costs(federation: Federation, shares: dict[str, float]) -> None:
    """The mean cost is that of levels in these shares; the ratio is to the global model."""
    costs = {level: level_cost(federation, level) for level in shares}

    def mean(name: str) -> float:
        return sum(share * getattr(costs[level], name) for level, share in shares.items())

    names = ("parameters", "paper_flops", "macs", "attention_macs", "space_mb")
    ratio = mean("parameters") / level_cost(federation, federation.mix.largest).parameters
    expected = {name: mean(name) for name in names} | {"ratio": ratio}
    assert vars(federation.mean_cost()) == pytest.approx(expected, rel=1e-12)


def test_a_trace_of_99_small_clients_and_one_large_costs_what_that_mix_costs() -> None:
    trace = federation_of("a-e", trace="e" * 42 + "a" + "e" * 57)
    assert trace.mean_cost() == federation_of("a1-e99").mean_cost()
    assert trace.mean_cost() == federation_of("a1-e99", assignment="fix").mean_cost()
    assert_costs(trace, {"a": 0.01, "e": 0.99})
    assert trace.mean_cost().ratio < 0.02 < 0.5 < federation_of("a-e").mean_cost().ratio


def test_a_trace_costs_what_its_clients_cost() -> None:
    assert_costs(federation_of("b-c-e", num_clients=5, trace="ebece"), {"b": 0.2, "c": 0.2, "e": 0.6})


def test_fix_costs_what_the_clients_cost_that_came_out() -> None:
    """Three tenths of five clients are rounded to two."""
    federation = federation_of("a3-e7", assignment="fix", num_clients=5)
    assert [federation.level(1, client) for client in range(5)] == list("aaeee")
    assert_costs(federation, {"a": 0.4, "e": 0.6})


@pytest.mark.parametrize(("num_clients", "seed", "absent"), [(2, 0, "a"), (10, 1, "e")])
def test_uniform_refuses_a_draw_without_one_of_the_levels(num_clients: int, seed: int, absent: str) -> None:
    """Nobody would train what only the largest has, and the slice of another would be nobody's."""
    sentence = rf"^seed {seed} gives none of {num_clients} clients level {absent} of levels 'a-b-c-d-e' under"
    with pytest.raises(InputError, match=sentence):
        federation_of("a-b-c-d-e", assignment="uniform", num_clients=num_clients, seed=seed)


def test_uniform_costs_what_the_drawn_levels_cost() -> None:
    federation = federation_of("a-c-e", assignment="uniform", num_clients=10)
    drawn = [federation.level(1, client) for client in range(10)]
    shares = {level: drawn.count(level) / 10 for level in "ace"}
    assert max(shares.values()) > 0.35  # which is not a third of the clients
    assert_costs(federation, shares)


@pytest.mark.parametrize("num_clients", [5, 100])
def test_dynamic_costs_what_a_client_costs_in_expectation(num_clients: int) -> None:
    assert_costs(federation_of("a3-e7", num_clients=num_clients), {"a": 0.3, "e": 0.7})


def test_one_level_costs_what_every_client_costs() -> None:
    federation = federation_of("d")
    assert federation.mean_cost() == level_cost(federation, "d")


# Sub-models


def test_static_sub_models_of_a_level_are_the_same_prefix_for_everybody() -> None:
    federation = federation_of("b-e")
    expected = {f"block{block}": list(range(width)) for block, width in enumerate((4, 8, 16, 32))}
    for t, client in ((1, 0), (2, 0), (1, 5)):
        index = federation.sub_model(t, client, "e")
        assert {name: held.tolist() for name, held in index.items()} == expected


def test_random_sub_models_differ_by_round_client_and_seed() -> None:
    def drawn(t: int, client: int, seed: int = 0) -> list[int]:
        return (
            federation_of("a-e", selection="random", seed=seed).sub_model(t, client, "e")["block3"].tolist()
        )

    first = drawn(1, 2)
    assert drawn(1, 2) == first
    assert len(first) == 32
    others = [drawn(2, 2), drawn(1, 3), drawn(2, 1), drawn(1, 2, seed=1)]
    assert first not in others
    assert len({tuple(other) for other in others}) == 4


def test_rolling_sub_models_are_the_same_for_everybody_and_move_each_round() -> None:
    federation = federation_of("a-e", selection="rolling")
    for client in (0, 7):
        assert federation.sub_model(1, client, "e")["block0"].tolist() == [0, 1, 2, 3]
        assert federation.sub_model(62, client, "e")["block0"].tolist() == [0, 61, 62, 63]
        assert federation.sub_model(62, client, "e")["block1"].tolist() == list(range(61, 69))


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("selection", ["random", "rolling"])
def test_a_round_moves_the_selected_coordinates_and_nothing_else(selection: str) -> None:
    federation = federation_of(
        "c-e",
        assignment="fix",
        num_clients=2,
        participation=0.5,
        local_epochs=1,
        selection=selection,
    )
    t = next(t for t in range(2, 50) if federation.active_clients(t) == [1])
    before = federation.initial_weights()
    after, summary = federation.run_round(before, t, workers=1)
    assert summary.levels == ["e"]
    index = federation.sub_model(t, 1, "e")
    inputs = [np.arange(1), *(index[f"block{block}"] for block in range(3))]
    for block, before_block in enumerate(inputs):
        name = f"blocks.{block}.convolution.weight"
        moved = (after.shared[name] != before.shared[name]).any(dim=(2, 3))
        expected = np.zeros(moved.shape, dtype=bool)
        expected[np.ix_(index[f"block{block}"], before_block)] = True
        np.testing.assert_array_equal(moved.numpy(), expected)
    assert index["block3"].tolist() != list(range(32))


@pytest.mark.usefixtures("few_digits")
def test_clients_of_one_level_each_train_the_random_sub_model_that_they_drew() -> None:
    """Two of level e: their sub-models have one shape, and hold different channels."""
    federation = federation_of(
        "d-e", num_clients=3, trace="dee", participation=1.0, local_epochs=1, selection="random"
    )
    before = federation.initial_weights()
    updates = []
    for client, level in enumerate("dee"):
        index = federation.sub_model(1, client, level)
        task = task_of(federation, before, 1, client, level, index)
        sent = on_one_thread(client_update, task).parameters
        tensors = {name: torch.from_numpy(value) for name, value in sent.items()}
        updates.append(({**index, **federation.task.share(client).upload}, tensors))
    (_, second, third) = (index["block0"].tolist() for index, _ in updates)
    assert second != third
    assert len(second) == len(third) == 4
    after, summary = federation.run_round(before, 1, workers=1)
    assert summary.levels == ["d", "e", "e"]
    assert_identical(after.shared, aggregate(before.shared, federation.axes, updates))


# Models


def test_the_largest_level_of_the_mix_is_the_global_model() -> None:
    shapes = {
        levels: federation_of(levels).global_model().state_dict()["linear.weight"].shape[1]
        for levels in ("e", "a-e", "c-d-e")
    }
    assert shapes == {"e": 32, "a-e": 512, "c-d-e": 128}


def test_clients_scale_by_their_width_relative_to_the_global_models() -> None:
    federation = federation_of("b-e")
    sizes = federation.task.sizes
    assert federation.model_options("b", sizes)["scale"] == 1
    assert federation.model_options("e", sizes) == {
        "width_rate": 1 / 16,
        "scale": 1 / 8,
        "norm": "sbn",
        "input_shape": (1, 16, 16),
        "num_labels": 10,
    }
    assert federation_of("b-e", scaler=False).model_options("e", sizes)["scale"] == 1


def test_sub_models_are_the_levels_slices_judged_as_models_of_their_own() -> None:
    federation = federation_of("c-d-e", partition="non-iid-2")
    weights = Weights(run(federation))
    found = federation.evaluate_sub_models(weights, workers=1)
    assert list(found) == ["d", "e"]
    for level, metrics in found.items():
        alone = federation_of(level, partition="non-iid-2")
        rate = federation.relative_width(level)
        part = slice_parameters(weights.shared, federation.axes, static_index(federation.axes, rate))
        assert metrics == alone.evaluate(Weights(part), workers=1)


@pytest.mark.parametrize("selection", ["random", "rolling"])
def test_where_a_level_has_no_slice_of_its_own_there_is_no_sub_model_to_judge(selection: str) -> None:
    federation = federation_of("d-e", selection=selection)
    assert federation.evaluate_sub_models(federation.initial_weights(), workers=1) == {}


def test_initial_parameters_depend_on_the_seed_only_and_leave_torchs_generator_alone() -> None:
    federation = federation_of()
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = federation.global_model().state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert_identical(first, federation.global_model().state_dict())
    assert not torch.equal(
        first["linear.weight"], federation_of(seed=1).global_model().get_parameter("linear.weight")
    )


# Rounds


@pytest.mark.usefixtures("few_digits")
def test_a_round_of_clients_that_are_all_level_a_is_fedavg() -> None:
    """The mean of their updates: exactly the float64 mean rounded once, bit for bit."""
    federation = federation_of("a", num_clients=4, participation=1.0, local_epochs=1, batch_size=10)
    held_by_client = images_of(federation).partition.held
    assert held_by_client.sum(axis=1).min() < 10  # so rows are averaged over their holders only
    before = federation.initial_weights()
    after, summary = federation.run_round(before, 1, workers=1)
    assert summary.levels == ["a"] * 4
    updates = [
        on_one_thread(client_update, task_of(federation, before, 1, client, "a", {})) for client in range(4)
    ]
    assert summary.train_loss == np.mean([update.loss for update in updates])
    for name, value in after.shared.items():
        if name.startswith("linear"):
            continue
        stacked = np.stack([update.parameters[name] for update in updates]).astype(np.float64)
        np.testing.assert_array_equal(value, stacked.mean(axis=0).astype(np.float32), err_msg=name)
        assert not torch.equal(value, before.shared[name])
    for label in range(10):
        for name in ("linear.weight", "linear.bias"):
            rows = []
            for held, update in zip(held_by_client, updates, strict=True):
                rows += list(update.parameters[name][np.flatnonzero(held) == label].astype(np.float64))
            mean = np.mean(rows, axis=0).astype(np.float32)
            np.testing.assert_array_equal(after.shared[name][label], mean)


def test_running_estimates_of_batch_normalisation_are_averaged_like_parameters() -> None:
    federation = federation_of("e", norm="bn", num_clients=4, participation=1.0, local_epochs=1)
    before = federation.initial_weights()
    after, _ = federation.run_round(before, 1, workers=1)
    sub_model = static_index(federation.axes, 1.0)
    updates = [
        on_one_thread(client_update, task_of(federation, before, 1, client, "e", sub_model))
        for client in range(4)
    ]
    estimates = [name for name in after.shared if name.endswith(("running_mean", "running_var"))]
    assert len(estimates) == 2 * 4  # one norm behind each convolution
    for name in estimates:
        stacked = np.stack([update.parameters[name] for update in updates]).astype(np.float64)
        np.testing.assert_array_equal(after.shared[name], stacked.mean(axis=0).astype(np.float32))
        assert not torch.equal(after.shared[name], before.shared[name])


def test_a_round_of_a_narrow_mix_works_on_the_narrow_global_model() -> None:
    federation = federation_of("e", num_clients=20, local_epochs=1)
    before = federation.global_model().state_dict()
    after = run(federation)
    assert sum(value.numel() for value in after.values()) == 6_594
    assert all(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.usefixtures("few_digits")
def test_a_round_moves_what_an_active_client_holds_and_nothing_else() -> None:
    """Of a and e, with only clients of level e active: the ring around e's block stays as it was."""
    federation = federation_of("a-e", assignment="fix", num_clients=4, participation=0.25, local_epochs=1)
    t = next(t for t in range(1, 50) if federation.active_clients(t) == [3])
    initial = federation.initial_weights()
    after, summary = federation.run_round(initial, t, workers=1)
    assert summary.levels == ["e"]
    before, held = initial.shared, torch.from_numpy(images_of(federation).partition.held[3])
    for name, value in after.shared.items():
        inside = torch.zeros_like(value, dtype=torch.bool)
        keep = [size if size in (1, 3, 10) else size // 16 for size in value.shape]
        inside[tuple(slice(0, size) for size in keep)] = True
        if name.startswith("linear"):
            inside[~held] = False
        assert torch.equal(value[~inside], before[name][~inside]), name
        assert bool((value[inside] != before[name][inside]).any()), name


@pytest.mark.usefixtures("few_digits")
def test_rows_of_labels_that_no_active_client_holds_stay() -> None:
    federation = federation_of("e", partition="non-iid-2", num_clients=10, local_epochs=1)
    before = federation.global_model().state_dict()
    (client,) = federation.active_clients(1)
    after = run(federation)
    for label in range(10):
        moved = not torch.equal(after["linear.weight"][label], before["linear.weight"][label])
        assert moved == images_of(federation).partition.held[client, label]


@pytest.mark.usefixtures("few_digits")
def test_a_round_leaves_the_parameters_it_was_given_as_they_were() -> None:
    federation = federation_of("d-e", num_clients=8, participation=0.5, norm="bn")
    given = federation.initial_weights()
    copy = {name: value.clone() for name, value in given.shared.items()}
    federation.run_round(given, 1, workers=1)
    assert_identical(given.shared, copy)


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("partition", ["iid", "non-iid-2"])
def test_the_number_of_workers_does_not_change_the_result(partition: str) -> None:
    """Bit for bit, over two rounds with three levels."""
    federation = federation_of(
        "c-d-e", num_clients=10, participation=0.5, local_epochs=1, partition=partition, rounds=2
    )
    assert_identical(run(federation, 2, workers=1), run(federation, 2, workers=2))


@pytest.mark.usefixtures("few_digits")
def test_a_run_can_be_taken_up_after_any_round() -> None:
    settings: dict[str, Any] = {"num_clients": 10, "participation": 0.5, "local_epochs": 1}
    whole = run(federation_of("d-e", **settings), 2)
    after_one = Weights(run(federation_of("d-e", **settings), 1))
    resumed, _ = federation_of("d-e", **settings).run_round(after_one, 2, workers=1)
    assert_identical(whole, resumed.shared)


@pytest.mark.usefixtures("few_digits")
def test_another_seed_gives_another_result() -> None:
    first, second = (run(federation_of("e", num_clients=10, local_epochs=1, seed=seed)) for seed in (0, 1))
    assert not torch.equal(first["linear.weight"], second["linear.weight"])


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("norm", ["sbn", "gn", "none"])
def test_bytes_down_are_the_space_of_the_levels_and_bytes_up_leave_out_absent_rows(norm: str) -> None:
    federation = federation_of(
        "a-c-e", num_clients=10, participation=0.5, local_epochs=1, partition="non-iid-2", norm=norm
    )
    _, summary = federation.run_round(federation.initial_weights(), 1, workers=1)
    assert len(summary.levels) == 5
    assert summary.bytes_down == 2**20 * sum(
        level_cost(federation, level).space_mb for level in summary.levels
    )
    missing = sum(
        4 * int((~images_of(federation).partition.held[client]).sum()) * (int(512 * width_rate(level)) + 1)
        for client, level in zip(federation.active_clients(1), summary.levels, strict=True)
    )
    assert missing > 0
    assert summary.bytes_up == summary.bytes_down - missing
    assert summary.peak_memory_mb
    assert all(memory > 0 for memory in summary.peak_memory_mb.values())


@pytest.mark.usefixtures("few_digits")
def test_preresnet18_with_all_clients_at_level_a_is_plain_fedavg_bit_for_bit() -> None:
    """Two rounds with Scaler and sBN, against SGD and a mean written out for the network with ordinary
    batch normalisation and without Scaler; the running estimates of that have no part in training.
    """
    settings: dict[str, Any] = {"num_clients": 4, "participation": 0.5, "local_epochs": 1, "batch_size": 10}
    federation = federation_of(
        "a", arch="preresnet18", masked_loss="none", label_restricted=False, **settings
    )
    assert (federation.params.scaler, federation.params.norm) == (True, "sbn")
    expected = run_plain_fedavg(federation, rounds=2)
    assert_identical(run(federation, rounds=2), expected)
    assert sum(value.numel() for value in expected.values()) == 9_622_090 - 2 * 64 * 9  # grey images


def run_plain_fedavg(federation: Federation, rounds: int) -> dict[str, Tensor]:
    """McMahan et al. (2017), unweighted, with the federation's clients, batches and first parameters."""
    params, task = federation.params, images_of(federation)
    parameters = federation.initial_weights().shared
    with one_thread():
        for t in range(1, rounds + 1):
            answers = []
            for client in federation.active_clients(t):
                model = build_model("preresnet18", norm="bn", **task.sizes).train()
                model.load_state_dict(parameters, strict=False)
                optimizer = torch.optim.SGD(
                    model.parameters(), params.lr, params.momentum, weight_decay=params.weight_decay
                )
                own, rng = task.partition.train[client], generator(params.seed, "batches", t, client)
                images = normalise(task.data.train_inputs[own], task.mean, task.deviation)
                labels = torch.from_numpy(task.data.train_labels[own])
                for batch in torch.from_numpy(rng.permutation(len(own))).split(params.batch_size):
                    optimizer.zero_grad()
                    F.cross_entropy(model(images[batch]), labels[batch]).backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
                    optimizer.step()
                answers.append(model.state_dict())
            parameters = {
                name: torch.stack([answer[name].double() for answer in answers]).mean(dim=0).float()
                for name in parameters
            }
    return parameters


def test_a_task_holds_the_clients_own_data_and_the_levels_slice() -> None:
    federation = federation_of("b-e", partition="non-iid-2", masked_loss="neg_inf", batch_size=7)
    weights, task_data = federation.initial_weights(), images_of(federation)
    task = task_of(federation, weights, 3, 42, "e", static_index(federation.axes, 1 / 8))
    own = task_data.partition.train[42]
    assert isinstance(task.examples, ImageExamples)
    np.testing.assert_array_equal(task.examples.inputs, task_data.data.train_inputs[own])
    np.testing.assert_array_equal(task.examples.labels, task_data.data.train_labels[own])
    assert set(np.flatnonzero(task.held)) == set(task.examples.labels)
    assert task.upload["labels"].tolist() == np.flatnonzero(task.held).tolist()
    assert (task.client, task.round, task.masked_loss, task.batch_size) == (42, 3, "neg_inf", 7)
    assert task.left_out == 0
    np.testing.assert_array_equal(
        task.model.parameters["blocks.1.convolution.weight"],
        weights.shared["blocks.1.convolution.weight"][:8, :4],
    )


def test_more_clients_than_digits_are_refused() -> None:
    with pytest.raises(InputError, match="num_clients 2000 is more than the 1437 training examples"):
        federation_of(num_clients=2000)


def test_the_blocks_of_preresnet18_reach_the_model() -> None:
    federation = federation_of("e", arch="preresnet18", blocks=(2, 1, 1, 1))
    assert federation.model_options("e", federation.task.sizes)["blocks"] == (2, 1, 1, 1)
    assert "blocks.1.convolution1.weight" in federation.axes
    assert federation.axes["blocks.1.convolution2.weight"][0] == federation.axes["convolution.weight"][0]
