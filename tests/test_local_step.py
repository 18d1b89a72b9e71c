"""One local step as a function: against PyTorch's own SGD and clipping, alone and for several clients."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heterofl_core.clients import ClientTask, ModelCopy
from heterofl_core.examples import ImageExamples, TextExamples
from heterofl_core.federation import Federation
from heterofl_core.layers import masked_cross_entropy
from heterofl_core.local_step import LocalStep, State, StepKind, apart, together
from heterofl_core.models import build_model
from heterofl_core.params import run_params
from heterofl_core.selection import LABELS

LR = torch.tensor(0.05, dtype=torch.float64)
YES, NO = torch.tensor(True), torch.tensor(False)
ARCHITECTURES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "cnn": ({"scale": 0.25, "norm": "sbn", "input_shape": (1, 8, 8), "num_labels": 5}, (4, 1, 8, 8)),
    "preresnet18": (
        {"scale": 0.25, "norm": "sbn", "input_shape": (3, 8, 8), "num_labels": 5, "blocks": (1, 1, 1, 1)},
        (4, 3, 8, 8),
    ),
    "transformer": ({"scale": 0.25, "norm": "ln", "num_tokens": 5}, (2, 7)),
    "mlp": ({"scale": 0.25, "norm": "none", "input_shape": (1, 4, 4), "num_labels": 5}, (4, 1, 4, 4)),
}


def kind_of(arch: str = "cnn", **changes: Any) -> StepKind:
    """Steps of a small model at level e; three out of five labels are held."""
    options, batch = ARCHITECTURES[arch]
    kind = StepKind(
        arch=arch,
        options={"width_rate": 1 / 16, **options},
        batch=batch,
        labels=5,
        clients=1,
        device="cpu",
        masked_loss="zero",
        left_out=0,
        momentum=0.9,
        weight_decay=0.01,
        clip_norm=1.0,
        precision="fp32",
    )
    return replace(kind, **changes)


HELD = torch.tensor([True, False, True, True, False])


def parameters_of(kind: StepKind, seed: int = 0) -> State:
    """Parameters in float64, where two ways to add up agree to many digits."""
    torch.manual_seed(seed)
    state = build_model(kind.arch, **kind.options).double().state_dict()
    return {
        name: value + torch.rand_like(value) / 2 if value.dim() == 1 else value
        for name, value in state.items()
    }


def still(parameters: State) -> State:
    """No velocity."""
    return {name: torch.zeros_like(value) for name, value in parameters.items()}


def batch_of(kind: StepKind, seed: int) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Inputs, draws of dropout, and targets among the held labels."""
    source = torch.Generator().manual_seed(seed)
    text = kind.arch == "transformer"
    targets = HELD.nonzero()[:, 0][torch.randint(3, kind.batch if text else kind.batch[:1], generator=source)]
    inputs = targets if text else torch.randn(kind.batch, generator=source, dtype=torch.float64)
    return inputs, build_model(kind.arch, **kind.options).noise(inputs, source), targets


def assert_close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    """Of states, relative to the largest element of each tensor; of tensors, likewise."""
    if isinstance(expected, Tensor):
        found, expected = {"": found}, {"": expected}
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= rtol * value.abs().max() + 1e-14, name


# Against PyTorch's own optimiser


def with_pytorch(kind: StepKind, steps: int) -> tuple[State, State, list[float], list[float]]:
    """Parameters, velocity, losses and gradient norms of `torch.optim.SGD`."""
    model = build_model(kind.arch, **kind.options).double().train()
    model.load_state_dict(parameters_of(kind))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR.item(), momentum=kind.momentum, weight_decay=kind.weight_decay
    )
    losses, norms = [], []
    for number in range(steps):
        inputs, noise, targets = batch_of(kind, number)
        loss = masked_cross_entropy(model(inputs, *noise), targets, HELD, kind.masked_loss, kind.left_out)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), kind.clip_norm).item())
        optimizer.step()
        losses.append(loss.item())
    velocity = {
        name: optimizer.state[value].get("momentum_buffer") for name, value in model.named_parameters()
    }
    return {name: value.detach() for name, value in model.named_parameters()}, velocity, losses, norms


def with_ours(kind: StepKind, steps: int) -> tuple[State, State, list[float]]:
    """Parameters, velocity and losses of `LocalStep`."""
    step, parameters, losses = LocalStep(kind), parameters_of(kind), []
    velocity = still(parameters)
    for number in range(steps):
        parameters, velocity, loss = step(parameters, velocity, *batch_of(kind, number), HELD, YES, LR)
        losses.append(loss.item())
    return parameters, velocity, losses


@pytest.mark.parametrize("clip_norm", [0.02, 1e6])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_three_steps_agree_with_pytorchs_sgd_and_clipping(arch: str, clip_norm: float) -> None:
    """With a bound so small that every step is clipped, and one so large that none is."""
    kind = kind_of(arch, clip_norm=clip_norm)
    parameters, velocity, losses, norms = with_pytorch(kind, steps=3)
    assert all((norm > clip_norm) == (clip_norm < 1) for norm in norms)
    found = with_ours(kind, steps=3)
    assert_close(found[0], parameters)
    assert_close(found[1], velocity)
    assert found[2] == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        *[{"masked_loss": name} for name in ("neg_inf", "detach", "none")],
        {"left_out": 7},
        {"momentum": 0.0, "weight_decay": 0.0},
    ],
    ids=str,
)
def test_settings_of_the_loss_and_of_sgd_agree_with_pytorch(changes: dict[str, Any]) -> None:
    kind = kind_of(**changes)
    parameters, _, losses, _ = with_pytorch(kind, steps=2)
    found = with_ours(kind, steps=2)
    assert_close(found[0], parameters)
    assert found[2] == pytest.approx(losses, rel=1e-12)


def test_bf16_rounds_products_and_leaves_parameters_as_wide_as_they_were() -> None:
    """In float32, as a client trains: bfloat16 has eight bits."""

    def one(precision: str) -> tuple[State, State, Tensor]:
        kind = kind_of(precision=precision)
        parameters = {name: value.float() for name, value in parameters_of(kind).items()}
        inputs, noise, targets = batch_of(kind, 0)
        return LocalStep(kind)(
            parameters, still(parameters), inputs.float(), noise, targets, HELD, YES, LR.float()
        )

    exact, rounded = one("fp32"), one("bf16")
    assert 1e-6 < abs(rounded[2] / exact[2] - 1) < 0.02
    assert {value.dtype for value in rounded[0].values()} == {torch.float32}


# Several clients at once


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_three_clients_together_move_as_each_of_them_alone(arch: str) -> None:
    """Each with parameters, velocity, a batch and held labels of its own."""
    kind = kind_of(arch)
    helds = [HELD, torch.ones(5, dtype=torch.bool), HELD]
    clients = [
        (parameters_of(kind, seed), parameters_of(kind, seed + 10), *batch_of(kind, seed), held, YES)
        for seed, held in enumerate(helds)
    ]
    parameters, velocity, losses = LocalStep(replace(kind, clients=3))(*together(clients), LR)
    alone = LocalStep(kind)
    for place, client in enumerate(clients):
        expected = alone(*client, LR)
        assert_close(apart(parameters, place), expected[0])
        assert_close(apart(velocity, place), expected[1])
        assert_close(losses[place], expected[2])
    assert len(set(losses.tolist())) == 3


@pytest.mark.parametrize("poison", [1.0, torch.nan], ids=["number", "nan"])
def test_a_client_that_waits_does_not_move_at_all_and_moves_no_other(poison: float) -> None:
    """Neither its parameters nor its velocity, bit for bit; not even if its batch is not a number."""
    kind = kind_of(clients=3)
    clients = [
        (parameters_of(kind, seed), parameters_of(kind, seed + 10), *batch_of(kind, seed), HELD, YES)
        for seed in range(3)
    ]
    moved = LocalStep(kind)(*together(clients), LR)
    clients[1] = (*clients[1][:2], clients[1][2] * poison, *clients[1][3:6], NO)
    parameters, velocity, _ = LocalStep(kind)(*together(clients), LR)
    for found, before in ((parameters, clients[1][0]), (velocity, clients[1][1])):
        assert all(torch.equal(value[1], before[name]) for name, value in found.items())
    for place in (0, 2):
        for found, expected in ((parameters, moved[0]), (velocity, moved[1])):
            assert all(torch.equal(value[place], expected[name][place]) for name, value in found.items())
            assert not any(torch.equal(value[place], value[1]) for value in found.values())


def test_a_client_alone_can_wait_too() -> None:
    kind = kind_of()
    parameters, velocity = parameters_of(kind, 0), parameters_of(kind, 1)
    after, moved, _ = LocalStep(kind)(parameters, velocity, *batch_of(kind, 0), HELD, NO, LR)
    assert all(torch.equal(value, parameters[name]) for name, value in after.items())
    assert all(torch.equal(value, velocity[name]) for name, value in moved.items())


# Stacking


def numbered(client: int) -> tuple[dict[str, Tensor], tuple[Tensor, ...], Tensor]:
    """A value with all that a step takes: a dictionary, a tuple, tensors of several dimensions."""
    return (
        {"kernel": torch.arange(24.0).reshape(2, 3, 2, 2) + 100 * client, "bias": torch.full((2,), client)},
        (torch.tensor(float(client)),),
        torch.tensor([client, -client]),
    )


@pytest.mark.parametrize("number", [1, 2, 5])
def test_what_was_put_together_comes_apart_again(number: int) -> None:
    values = [numbered(client) for client in range(number)]
    stacked = together(values)
    if number == 1:
        kernels, noise, last = stacked
    else:
        assert stacked[0]["kernel"].shape == (number, 2, 3, 2, 2)
        assert stacked[1][0].tolist() == list(range(number))
        kernels, noise, last = apart(stacked, number - 1)
    expected = values[-1]
    assert torch.equal(kernels["kernel"], expected[0]["kernel"])
    assert torch.equal(kernels["bias"], expected[0]["bias"])
    assert torch.equal(noise[0], expected[1][0])
    assert torch.equal(last, expected[2])


def test_no_draws_stay_no_draws() -> None:
    assert together([(), ()]) == apart((), 0) == ()


def test_memory_lies_as_the_shape_says_whatever_came_in() -> None:
    """Of several clients row by row; of one alone, images and kernels channels-last."""
    rows = torch.randn(2, 3, 4, 5)
    channels_last = rows.contiguous(memory_format=torch.channels_last)
    assert rows.stride() != channels_last.stride()
    for value in (rows, channels_last):
        assert together([value, value]).stride() == torch.empty(2, 2, 3, 4, 5).stride()
        assert together([value]).stride() == channels_last.stride()
        assert apart(together([value, value]), 1).stride() == channels_last.stride()
        assert torch.equal(together([value]), rows)
    matrix = torch.randn(3, 4)
    assert together([matrix]).stride() == matrix.stride()


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_placeholders_have_shape_type_and_layout_of_what_a_client_puts_in(arch: str, clients: int) -> None:
    """And a step gives back parameters that lie as those that it takes."""
    kind = kind_of(arch, clients=clients)
    parameters = {name: value.float() for name, value in parameters_of(kind).items()}
    inputs, noise, targets = batch_of(kind, 0)
    inputs = inputs if arch == "transformer" else inputs.float()
    one = (parameters, still(parameters), inputs, noise, targets, HELD, YES)
    put_in = (*together([one] * clients), LR.float())
    step = LocalStep(kind)
    assert look(step.placeholders()) == look(put_in)
    after, moved, loss = step(*put_in)
    assert look((after, moved)) == look(put_in[:2])
    assert loss.shape == (() if clients == 1 else (clients,))


def look(value: Any) -> Any:
    """Shape, type and layout of each tensor; a stride along a dimension of one element says nothing."""
    match value:
        case dict():
            return {name: look(part) for name, part in value.items()}
        case tuple():
            return tuple(map(look, value))
    strides = [step for step, size in zip(value.stride(), value.shape, strict=True) if size > 1]
    return tuple(value.shape), value.dtype, strides


# Kinds


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_kind_is_the_same_after_a_journey_as_json(arch: str) -> None:
    """Tuples too: blocks, the shape of an image, and that of a batch."""
    kind = kind_of(arch)
    assert StepKind.from_json(json.loads(json.dumps(kind.as_json()))) == kind


@pytest.mark.parametrize(
    ("dataset", "settings"),
    [
        ("digits", {}),
        ("digits", {"arch": "preresnet18", "blocks": [1, 1, 1, 1]}),
        ("digits", {"arch": "mlp"}),
    ],
)
def test_the_kind_of_a_federations_client_survives_the_journey(
    dataset: str, settings: dict[str, Any]
) -> None:
    federation = Federation(run_params(dataset=dataset, levels="e", **settings))
    task = federation.client_task(
        federation.initial_weights(),
        1,
        0,
        "e",
        federation.task.share(0),
        federation.sub_model(1, 0, "e"),
    )
    kind = StepKind.of(task, clients=5)
    assert kind.clients == 5
    assert StepKind.from_json(json.loads(json.dumps(kind.as_json()))) == kind
    assert LocalStep(kind).model.axes() == task.model.axes()


def image_task(**changes: Any) -> ClientTask:
    """Nine images in batches of four."""
    task = ClientTask(
        client=3,
        round=2,
        seed=0,
        model=ModelCopy("cnn", kind_of().options, {}),
        examples=ImageExamples(
            inputs=np.zeros((9, 1, 8, 8), dtype=np.uint8),
            labels=np.zeros(9, dtype=int),
            mean=np.zeros((1, 1, 1)),
            deviation=np.ones((1, 1, 1)),
            augmented=False,
        ),
        held=HELD.numpy(),
        left_out=0,
        upload={LABELS: np.array([0, 2, 3])},
        masked_loss="zero",
        local_epochs=2,
        batch_size=4,
        lr=0.05,
        momentum=0.9,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    return replace(task, **changes)


def test_the_kind_of_a_clients_steps_by_hand() -> None:
    assert StepKind.of(image_task(), clients=1) == kind_of()
    text = image_task(
        model=ModelCopy("transformer", kind_of("transformer").options, {}),
        examples=TextExamples(np.zeros((2, 200), dtype=int), 5),
        left_out=3,
        precision="bf16",
    )
    assert StepKind.of(text, clients=2) == kind_of(
        "transformer", batch=(2, 64), left_out=3, precision="bf16", clients=2
    )


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda task: replace(task, client=4, round=3, seed=1, lr=0.1, upload={}), True),
        (lambda task: replace(task, held=~task.held), True),
        (lambda task: replace(task, batch_size=3), False),
        (lambda task: replace(task, held=np.ones(6, dtype=bool)), False),
        (lambda task: replace(task, masked_loss="none"), False),
        (lambda task: replace(task, momentum=0.5), False),
        (lambda task: replace(task, weight_decay=0.5), False),
        (lambda task: replace(task, clip_norm=0.5), False),
        (lambda task: replace(task, precision="bf16"), False),
        (lambda task: replace(task, left_out=1), False),
        (lambda task: replace(task, model=replace(task.model, device="cuda")), False),
        (lambda task: replace(task, model=replace(task.model, arch="mlp")), False),
    ],
)
def test_a_kind_is_what_the_program_of_a_step_depends_on(
    change: Callable[[ClientTask], ClientTask], same: bool
) -> None:
    assert (StepKind.of(change(image_task()), clients=1) == StepKind.of(image_task(), clients=1)) == same
