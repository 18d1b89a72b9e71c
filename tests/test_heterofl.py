"""Slicing and aggregation: by hand, by properties, and against slow literal implementations."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heterofl_core.heterofl import aggregate, slice_parameters
from heterofl_core.models import build_model
from heterofl_core.selection import (
    LABELS,
    TOKENS,
    Axes,
    Axis,
    Index,
    prefix,
    random_subset,
    rolling_window,
    static_index,
)

OUT, IN = Axis("out", 4), Axis("in", 4)
WEIGHT: Axes = {"weight": (OUT, IN)}
RATES = [1.0, 0.5, 0.25, 0.125, 0.0625]
Update = tuple[Index, dict[str, Tensor]]


def index_of(width: int) -> Index:
    """Of a client that holds the first rows and columns of the 4×4 example."""
    return {"out": np.arange(width), "in": np.arange(width)}


def constant(width: int, value: float) -> Update:
    """Such a client, with one value everywhere."""
    return index_of(width), {"weight": torch.full((width, width), value)}


# The paper's Figure 1


def test_six_clients_of_three_levels_as_in_figure_1() -> None:
    """Equations (1) to (3): blue is the mean of all six, orange of four, red of two."""
    clients = [(4, 1.0), (4, 2.0), (2, 3.0), (2, 4.0), (1, 5.0), (1, 9.0)]
    updates = [constant(width, value) for width, value in clients]
    aggregated = aggregate({"weight": torch.zeros(4, 4)}, WEIGHT, updates)
    blue, orange, red = 4.0, 2.5, 1.5  # (1+2+3+4+5+9)/6, (1+2+3+4)/4, (1+2)/2
    assert aggregated["weight"].tolist() == [
        [blue, orange, red, red],
        [orange, orange, red, red],
        [red, red, red, red],
        [red, red, red, red],
    ]


def test_a_level_receives_the_upper_left_block() -> None:
    weight = torch.arange(16.0).reshape(4, 4)
    local = slice_parameters({"weight": weight}, WEIGHT, index_of(2))
    assert local["weight"].tolist() == [[0.0, 1.0], [4.0, 5.0]]


def test_grouped_axes_receive_the_first_coordinates_of_each_group() -> None:
    axes: Axes = {"weight": (Axis("queries", 4, groups=2), None), "bias": (Axis("queries", 4, groups=2),)}
    parameters = {"weight": torch.arange(8.0).reshape(4, 2), "bias": torch.arange(4.0)}
    local = slice_parameters(parameters, axes, static_index(axes, 0.5))
    assert local["weight"].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert local["bias"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("norm", ["sbn", "bn"])
def test_a_slice_is_a_copy(norm: str) -> None:
    """Training a client in this process must not touch the server's parameters."""
    model = build_model("cnn", 1 / 16, norm=norm)
    parameters = {name: value.clone() for name, value in model.state_dict().items()}
    for width_rate in (1.0, 0.5):
        for value in slice_parameters(
            parameters, model.axes(), static_index(model.axes(), width_rate)
        ).values():
            value += 1
    assert [
        name for name, value in model.state_dict().items() if not torch.equal(parameters[name], value)
    ] == []


# Means


@pytest.mark.parametrize("num_clients", [1, 3, 10])
def test_clients_of_the_largest_level_are_averaged_as_in_fedavg(num_clients: int) -> None:
    """Bit for bit the float64 mean rounded once; within one unit in the last place of the float32 mean."""
    torch.manual_seed(num_clients)
    model = build_model("cnn", 1 / 16)
    index = static_index(model.axes(), 1.0)
    locals_ = [
        {name: torch.randn_like(value) for name, value in model.state_dict().items()}
        for _ in range(num_clients)
    ]
    aggregated = aggregate(model.state_dict(), model.axes(), [(index, local) for local in locals_])
    for name, value in aggregated.items():
        stacked = torch.stack([local[name] for local in locals_])
        assert torch.equal(value, stacked.double().mean(dim=0).float()), name
        in_float32, one_ulp = stacked.mean(dim=0), 2.0**-23 * stacked.abs().amax(dim=0)
        assert bool(((value - in_float32).abs() <= one_ulp).all()), name


def test_the_mean_does_not_weigh_clients_by_their_data() -> None:
    aggregated = aggregate({"weight": torch.zeros(4, 4)}, WEIGHT, [constant(4, 1.0), constant(4, 2.0)])
    assert aggregated["weight"].tolist() == [[1.5] * 4] * 4


def test_one_client_that_changes_nothing_changes_nothing() -> None:
    torch.manual_seed(0)
    parameters = {"weight": torch.randn(4, 4)}
    for width in (1, 2, 4):
        local = slice_parameters(parameters, WEIGHT, index_of(width))
        aggregated = aggregate(parameters, WEIGHT, [(index_of(width), local)])
        assert torch.equal(aggregated["weight"], parameters["weight"])


def test_one_client_changes_exactly_its_block() -> None:
    parameters = {"weight": torch.zeros(4, 4)}
    aggregated = aggregate(parameters, WEIGHT, [constant(2, 7.0)])
    expected = [[7.0, 7.0, 0.0, 0.0], [7.0, 7.0, 0.0, 0.0], [0.0] * 4, [0.0] * 4]
    assert aggregated["weight"].tolist() == expected
    assert parameters["weight"].tolist() == [[0.0] * 4] * 4  # what came in stays as it was


def test_coordinates_that_nobody_holds_keep_their_value_bit_for_bit() -> None:
    """Even values that no sum would leave alone; setting them to 0 would destroy what they learned."""
    odd = torch.tensor([[0.1, -0.0, 1e-45, 3e38]] * 4)
    aggregated = aggregate({"weight": odd}, WEIGHT, [constant(1, 5.0), constant(1, 7.0)])["weight"]
    expected = odd.clone()
    expected[0, 0] = 6.0
    assert torch.equal(aggregated.view(torch.int32), expected.view(torch.int32))


def test_a_round_without_updates_keeps_everything() -> None:
    parameters = {"weight": torch.randn(4, 4), "counter": torch.tensor(3)}
    aggregated = aggregate(parameters, {"weight": (OUT, IN), "counter": ()}, [])
    assert torch.equal(aggregated["weight"], parameters["weight"])
    assert torch.equal(aggregated["counter"], parameters["counter"])


def test_a_classifiers_row_is_averaged_over_the_clients_that_hold_its_label() -> None:
    axes: Axes = {
        "weight": (Axis(LABELS, 4, shrinks=False), Axis("in", 2)),
        "bias": (Axis(LABELS, 4, shrinks=False),),
    }
    parameters = {"weight": torch.zeros(4, 2), "bias": torch.zeros(4)}
    wide = {"in": np.arange(2), LABELS: np.array([0, 1])}
    narrow = {"in": np.arange(1), LABELS: np.array([1, 3])}
    updates = [
        (wide, {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([1.0, 2.0])}),
        (narrow, {"weight": torch.tensor([[5.0], [6.0]]), "bias": torch.tensor([4.0, 8.0])}),
    ]
    aggregated = aggregate(parameters, axes, updates)
    assert aggregated["weight"].tolist() == [[1.0, 2.0], [4.0, 4.0], [0.0, 0.0], [6.0, 0.0]]
    assert aggregated["bias"].tolist() == [1.0, 3.0, 0.0, 8.0]


def test_what_diverged_spoils_what_its_client_holds_and_nothing_else() -> None:
    """A mean that left NaN out would hide that."""
    axes: Axes = {"weight": (Axis("rows", 2), Axis("columns", 2))}
    narrow = {"rows": np.array([0]), "columns": np.array([0])}
    updates: list[tuple[Index, dict[str, Tensor]]] = [
        ({}, {"weight": torch.ones(2, 2)}),
        (narrow, {"weight": torch.tensor([[math.nan]])}),
    ]
    found = aggregate({"weight": torch.zeros(2, 2)}, axes, updates)["weight"]
    assert found.isnan().tolist() == [[True, False], [False, False]]
    assert found[~found.isnan()].tolist() == [1.0, 1.0, 1.0]


# Random networks against an implementation that visits one coordinate at a time


@dataclass
class Case:
    """A random network and its clients, each with the coordinates that it holds of each axis."""

    axes: dict[str, tuple[Axis | None, ...]]
    parameters: dict[str, Tensor]
    clients: list[dict[str, list[int]]]
    updates: list[Update]


def literal_prefix(axis: Axis, width_rate: float) -> list[int]:
    """The coordinates that a level holds of an axis, from the definition."""
    width = axis.size // axis.groups
    kept = math.ceil(Fraction(width_rate) * width)
    return [group * width + place for group in range(axis.groups) for place in range(kept)]


def literal_indices(axis: Axis | None, size: int, held: dict[str, list[int]]) -> list[int]:
    """The coordinates that a client holds of one dimension."""
    return held[axis.name] if axis else list(range(size))


def literal_aggregate(case: Case) -> dict[str, list[float]]:
    """Equations (1) to (3) with one exact fraction for each coordinate, flattened."""
    result: dict[str, list[float]] = {}
    for name, value in case.parameters.items():
        held_by = [
            [
                literal_indices(axis, size, client)
                for axis, size in zip(case.axes[name], value.shape, strict=True)
            ]
            for client in case.clients
        ]
        result[name] = []
        for coordinate in itertools.product(*(range(size) for size in value.shape)):
            values = []
            for held, (_, local) in zip(held_by, case.updates, strict=True):
                if all(place in kept for place, kept in zip(coordinate, held, strict=True)):
                    inside = tuple(kept.index(place) for place, kept in zip(coordinate, held, strict=True))
                    values.append(Fraction(local[name][inside].item()))
            mean = float(sum(values, Fraction(0)) / len(values)) if values else value[coordinate].item()
            result[name].append(float(np.float32(mean)))
    return result


def numbers(shape: list[int], rng: np.random.Generator) -> Tensor:
    """Multiples of 2^-16 of magnitude at most 8: their sums are exact in float64."""
    return torch.tensor(rng.integers(-(2**19), 2**19, shape, endpoint=True) / 2.0**16, dtype=torch.float32)


def some(axis: Axis, width_rate: float, rng: np.random.Generator) -> np.ndarray:
    """Any coordinates of an axis, one at least, in ascending order."""
    return np.sort(rng.choice(axis.size, rng.integers(1, axis.size, endpoint=True), replace=False))


WAYS: dict[str, Callable[[Axis, float, np.random.Generator], np.ndarray]] = {
    "static": lambda axis, width_rate, rng: prefix(axis, width_rate),
    "random": random_subset,
    "rolling": lambda axis, width_rate, rng: rolling_window(axis, width_rate, int(rng.integers(1, 20))),
    "any": some,
}
"""How a client may have come to hold what it holds."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Two parameters along a few shared axes, one of them grouped and one of labels; up to 5 clients, whose
    sub-models are prefixes, random, windows that may wrap around, or any.
    """
    groups = draw(st.integers(1, 3))
    choices: list[Axis | None] = [
        Axis("hidden", draw(st.integers(1, 7))),
        Axis("heads", groups * draw(st.integers(1, 4)), groups),
        Axis(LABELS, 4, shrinks=False),
        None,
    ]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axes, parameters = {}, {}
    for name in ("first", "second"):
        chosen = draw(st.lists(st.sampled_from(choices), min_size=0, max_size=3, unique=True))
        axes[name] = tuple(chosen)
        parameters[name] = numbers([axis.size if axis else 2 for axis in chosen], rng)
    labels = st.sets(st.integers(0, 3), min_size=1).map(sorted)
    drawn = st.tuples(st.sampled_from(sorted(WAYS)), st.sampled_from(RATES), labels)
    clients: list[dict[str, list[int]]] = []
    updates: list[Update] = []
    for way, width_rate, own in draw(st.lists(drawn, min_size=0, max_size=5)):
        widths = [axis for axis in choices if axis and axis.shrinks]
        index = {axis.name: WAYS[way](axis, width_rate, rng) for axis in widths}
        held = {
            axis.name: literal_prefix(axis, width_rate) if way == "static" else index[axis.name].tolist()
            for axis in widths
        }
        clients.append({**held, LABELS: own})
        shapes = {
            name: [
                len(literal_indices(axis, size, clients[-1]))
                for axis, size in zip(axes[name], value.shape, strict=True)
            ]
            for name, value in parameters.items()
        }
        local = {name: numbers(shape, rng) for name, shape in shapes.items()}
        updates.append(({**index, LABELS: np.array(own)}, local))
    return Case(axes, parameters, clients, updates)


@settings(max_examples=150)
@given(cases())
def test_slices_agree_with_the_definition_coordinate_by_coordinate(case: Case) -> None:
    for client, (index, _) in zip(case.clients, case.updates, strict=True):
        local = slice_parameters(case.parameters, case.axes, index)
        for name, value in case.parameters.items():
            held = [
                literal_indices(axis, size, client)
                for axis, size in zip(case.axes[name], value.shape, strict=True)
            ]
            assert list(local[name].shape) == [len(kept) for kept in held]
            assert local[name].flatten().tolist() == [value[at].item() for at in itertools.product(*held)]


@settings(max_examples=150)
@given(cases())
def test_aggregates_agree_with_the_definition_coordinate_by_coordinate(case: Case) -> None:
    aggregated = aggregate(case.parameters, case.axes, case.updates)
    flat = {name: value.flatten().tolist() for name, value in aggregated.items()}
    assert flat == literal_aggregate(case)


@settings(max_examples=50)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_clients_does_not_matter_where_sums_are_exact_in_float64(
    case: Case, random: Random
) -> None:
    shuffled = random.sample(case.updates, len(case.updates))
    first = aggregate(case.parameters, case.axes, case.updates)
    second = aggregate(case.parameters, case.axes, shuffled)
    assert all(torch.equal(first[name], second[name]) for name in first)


# The paper's CNN against prefixes and NaN-aware means


CNN_WIDTHS = [64, 128, 256, 512]


def cnn_shape(name: str, width_rate: float, num_labels: int = 10) -> tuple[int, ...]:
    """The shape of one of the CNN's parameters at a level, from the architecture in Table 4."""
    outputs = [1, *(int(width * width_rate) for width in CNN_WIDTHS)]
    kind, *rest = name.split(".")
    if kind == "linear":
        return (num_labels, outputs[-1]) if rest == ["weight"] else (num_labels,)
    block = int(rest[0])
    if rest[1:] == ["convolution", "weight"]:
        return (outputs[block + 1], outputs[block], 3, 3)
    return (outputs[block + 1],)


@pytest.mark.parametrize("width_rate", RATES)
def test_the_cnns_slices_are_its_leading_blocks(width_rate: float) -> None:
    model = build_model("cnn")
    local = slice_parameters(model.state_dict(), model.axes(), static_index(model.axes(), width_rate))
    for name, value in model.state_dict().items():
        block = tuple(slice(0, size) for size in cnn_shape(name, width_rate))
        assert torch.equal(local[name], value[block]), name


def test_the_cnns_aggregate_is_a_mean_that_leaves_out_what_is_missing() -> None:
    """One client of each level, with different labels, at full size."""
    torch.manual_seed(0)
    model = build_model("cnn")
    parameters = model.state_dict()
    labels = [[0, 1], [1, 2], [2, 3], [0, 9], [5]]
    updates: list[Update] = []
    extended: dict[str, list[np.ndarray]] = {name: [] for name in parameters}
    for width_rate, held in zip(RATES, labels, strict=True):
        local = {}
        for name, value in parameters.items():
            whole = np.full(value.shape, np.nan, dtype=np.float32)
            part = torch.randn(cnn_shape(name, width_rate))
            whole[tuple(slice(0, size) for size in part.shape)] = part.numpy()
            if name.startswith("linear"):
                whole[[label for label in range(10) if label not in held]] = np.nan
                part = part[held]
            extended[name].append(whole)
            local[name] = part
        updates.append(({**static_index(model.axes(), width_rate), LABELS: np.array(held)}, local))
    aggregated = aggregate(parameters, model.axes(), updates)
    for name, value in parameters.items():
        stacked = np.stack(extended[name]).astype(np.float64)
        nobody = np.isnan(stacked).all(axis=0)
        assert nobody.any() == name.startswith("linear")
        stacked[:, nobody] = value.numpy()[nobody]
        np.testing.assert_array_equal(
            aggregated[name].numpy(), np.nanmean(stacked, axis=0).astype(np.float32)
        )


# Every architecture against a rule for each tensor's name, coordinate by coordinate


ARCHITECTURES: dict[str, dict[str, int]] = {"cnn": {}, "preresnet18": {}, "transformer": {"num_tokens": 50}}
CLIENT_LABELS = [[0, 1], [1, 2, 9], [3], [0, 9], [5, 6]]
SAMPLES = 60  # coordinates of each tensor


def held_by_name(
    name: str, sizes: tuple[int, ...], local_sizes: tuple[int, ...], labels: list[int] | None
) -> list[list[int]]:
    """The coordinates that a client holds of each dimension, without the axes that the model declares.

    Args:
        local_sizes: of the tensor in the level's own model.
        labels: that the client holds; None for all.
    """
    held = [list(range(size)) for size in local_sizes]
    projections = tuple(f"attention.{which}" for which in ("query", "key", "value"))
    if any(projection in name for projection in projections):
        held[0] = [32 * head + place for head in range(8) for place in range(local_sizes[0] // 8)]
    if "attention.output.weight" in name:
        held[1] = [32 * head + place for head in range(8) for place in range(local_sizes[1] // 8)]
    if labels is not None and (name.startswith("linear.") or name == "token.weight"):
        held[0] = labels
    assert all(max(kept) < size for kept, size in zip(held, sizes, strict=True))
    return held


def sample_coordinates(
    sizes: tuple[int, ...], clients: list[list[list[int]]], rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Some coordinates of a tensor: of any client's block, and from anywhere."""
    everything = [list(range(size)) for size in sizes]
    blocks = [*clients, everything]
    return [
        tuple(int(rng.choice(places)) for places in blocks[rng.integers(len(blocks))]) for _ in range(SAMPLES)
    ]


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architectures_slices_and_aggregate_agree_with_the_definition_at_sampled_coordinates(
    arch: str, restricted: bool
) -> None:
    """One client of each level, at full width, with a few labels each."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = build_model(arch, **ARCHITECTURES[arch])
    axes = model.axes()
    parameters = {name: numbers(list(value.shape), rng) for name, value in model.state_dict().items()}
    shapes = [
        {
            name: tuple(value.shape)
            for name, value in build_model(arch, rate, **ARCHITECTURES[arch]).state_dict().items()
        }
        for rate in RATES
    ]
    held = {
        name: [
            held_by_name(name, tuple(value.shape), local[name], labels if restricted else None)
            for local, labels in zip(shapes, CLIENT_LABELS, strict=True)
        ]
        for name, value in parameters.items()
    }
    updates: list[Update] = []
    for client, (rate, labels) in enumerate(zip(RATES, CLIENT_LABELS, strict=True)):
        rows = {LABELS: np.array(labels), TOKENS: np.array(labels)} if restricted else {}
        index = {**static_index(axes, rate), **rows}
        sliced = slice_parameters(parameters, axes, index)
        for name, value in sliced.items():
            assert [len(kept) for kept in held[name][client]] == list(value.shape), name
        for name, value in parameters.items():
            for inside in sample_coordinates(tuple(sliced[name].shape), [], rng):
                at = tuple(kept[place] for kept, place in zip(held[name][client], inside, strict=True))
                assert sliced[name][inside] == value[at], name
        updates.append((index, {name: numbers(list(value.shape), rng) for name, value in sliced.items()}))
    aggregated = aggregate(parameters, axes, updates)
    averaged = kept = 0
    for name, value in parameters.items():
        for at in sample_coordinates(tuple(value.shape), held[name], rng):
            values = [
                Fraction(local[name][tuple(k.index(p) for k, p in zip(client, at, strict=True))].item())
                for client, (_, local) in zip(held[name], updates, strict=True)
                if all(place in places for place, places in zip(at, client, strict=True))
            ]
            mean = float(sum(values, Fraction(0)) / len(values)) if values else value[at].item()
            assert aggregated[name][at].item() == float(np.float32(mean)), (name, at)
            averaged, kept = averaged + (len(values) > 1), kept + (not values)
    assert averaged > 500  # coordinates that several clients hold
    assert (kept > 0) == restricted  # with a level a client that has all labels, none is left alone
