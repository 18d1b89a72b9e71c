"""The step in place, and as a CUDA graph: they do what `LocalStep` does.

The arithmetic is tested here on any machine; the capture needs a GPU, and is skipped without one.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_local_step import (
    ARCHITECTURES,
    HELD,
    LR,
    NO,
    YES,
    assert_close,
    batch_of,
    kind_of,
    parameters_of,
    still,
)
from test_vectorised import scale_of, task_of, vector
from torch import Tensor
from torch.utils import _pytree

from heterofl_core.captured import CapturedStep, StepInPlace
from heterofl_core.clients import client_update
from heterofl_core.local_step import LocalStep, StepKind, apart, together
from heterofl_core.vectorised import Group, group_update

pytestmark = pytest.mark.usefixtures("in_double")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")


def clients_of(kind: StepKind, number: int, active: Tensor = YES) -> list[tuple[Any, ...]]:
    """Of each client a batch, the labels that it holds, and whether the last one takes part."""
    held = [HELD, torch.ones(5, dtype=torch.bool), HELD]
    flags = [YES] * (kind.clients - 1) + [active]
    return [
        (*batch_of(kind, 10 * number + place), held[place], flags[place]) for place in range(kind.clients)
    ]


def walk(step: Any, kind: StepKind) -> tuple[Any, Any, Tensor]:
    """State and losses of four steps; in the third, the last client waits."""
    parameters = together([parameters_of(kind, place) for place in range(kind.clients)])
    velocity, losses = still(parameters), []
    for number in range(4):
        batch = together(clients_of(kind, number, NO if number == 2 else YES))
        on_device = _pytree.tree_map(lambda value: value.to(kind.device), (*batch, LR))
        parameters, velocity, loss = step(parameters, velocity, *on_device)
        losses.append(loss.reshape(kind.clients))
    return parameters, velocity, torch.stack(losses)


@pytest.mark.parametrize("clip_norm", [0.02, 1e6])
@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_four_steps_in_place_are_those_of_the_step(arch: str, clients: int, clip_norm: float) -> None:
    kind = kind_of(arch, clients=clients, clip_norm=clip_norm)
    for found, expected in zip(walk(StepInPlace(kind), kind), walk(LocalStep(kind), kind), strict=True):
        assert_close(found, expected)


def test_a_new_state_replaces_the_one_at_the_places() -> None:
    """Programs are kept: the next clients find what the last ones left there."""
    kind = kind_of(clients=3)
    step = StepInPlace(kind)
    walk(step, kind)
    for found, expected in zip(walk(step, kind)[:2], walk(StepInPlace(kind), kind)[:2], strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_losses_stay_when_the_next_step_is_taken() -> None:
    kind = kind_of(clients=3)
    losses = walk(StepInPlace(kind), kind)[2]
    assert len({loss.sum().item() for loss in losses}) == 4


def test_a_clients_part_of_the_state_is_its_own() -> None:
    """`apart` gives views; each shows one client."""
    kind = kind_of(clients=3)
    parameters = together([parameters_of(kind, place) for place in range(3)])
    step = StepInPlace(kind)
    state, *_ = step(parameters, still(parameters), *together(clients_of(kind, 0)), LR * 0)
    for place in range(3):
        assert_close(apart(state, place), parameters_of(kind, place))


@needs_gpu
@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_graph_does_what_was_captured(arch: str, clients: int) -> None:
    kind = kind_of(arch, clients=clients, device="cuda")
    expected = walk(LocalStep(replace(kind, device="cpu")), replace(kind, device="cpu"))
    walked = _pytree.tree_map(Tensor.cpu, walk(CapturedStep(kind), kind))
    for found, wanted in zip(walked, expected, strict=True):
        assert_close(found, wanted, rtol=1e-7)


@needs_gpu
@pytest.mark.parametrize("arch", ["cnn", "preresnet18", "transformer"])
def test_a_group_on_a_gpu_moves_as_the_plain_loop_there(arch: str) -> None:
    """In float64, with a last batch that is smaller; three clients in a group of four. Draws of dropout are
    the same, since each client has its own generator.
    """
    tasks = [task_of(arch, "e", 11, client, scale=scale_of(arch, "e")) for client in range(3)]
    tasks = [replace(task, model=replace(task.model, device="cuda")) for task in tasks]
    for task, update in zip(tasks, group_update(Group(tuple(tasks), 4)), strict=True):
        plain = client_update(task)
        assert vector(update.parameters) == pytest.approx(vector(plain.parameters), rel=1e-5, abs=1e-7)
        assert update.loss == pytest.approx(plain.loss, rel=1e-6)
