"""ClientUpdate of Algorithm 1 against a loop written out by hand, in this process and in others."""

import itertools
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from heterofl_core.clients import (
    ClientTask,
    client_update,
    client_update_on_one_thread,
    local_batches,
    normalise,
    run_clients,
)
from heterofl_core.layers import mask_logits
from heterofl_core.models import build_model

HELD = [0, 2, 3]
OPTIONS: dict[str, Any] = {
    "width_rate": 1 / 16,
    "scale": 0.25,
    "norm": "sbn",
    "in_channels": 1,
    "num_labels": 5,
}


def make_task(**changes: Any) -> ClientTask:
    """Thirteen images of three out of five labels, for a client at a quarter of the global width."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    task = ClientTask(
        client=3,
        round=2,
        seed=0,
        arch="cnn",
        model_options=OPTIONS,
        parameters={
            name: value.numpy() for name, value in build_model("cnn", **OPTIONS).state_dict().items()
        },
        inputs=rng.integers(0, 256, (13, 1, 16, 16), dtype=np.uint8),
        labels=np.array(HELD * 4 + [0]),
        mean=np.array([[[120.0]]]),
        deviation=np.array([[[70.0]]]),
        held=np.isin(np.arange(5), HELD),
        masked_loss="zero",
        local_epochs=3,
        batch_size=5,
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        clip_norm=1.0,
    )
    return replace(task, **changes)


def logits_by_hand(values: dict[str, Tensor], images: Tensor, norm: str) -> Tensor:
    """The paper's CNN in training, written out; its Scaler divides by 1/4."""
    x = images
    for block in range(4):
        x = F.conv2d(
            x,
            values[f"blocks.{block}.convolution.weight"],
            values[f"blocks.{block}.convolution.bias"],
            padding=1,
        )
        x = x / 0.25
        if norm == "sbn":
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
            weight, bias = (
                values[f"blocks.{block}.norm.{name}"][:, None, None] for name in ("weight", "bias")
            )
            x = (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias
        x = x.clamp(min=0)
        x = F.max_pool2d(x, 2) if block < 3 else x.mean(dim=(2, 3))
    return x @ values["linear.weight"].T + values["linear.bias"]


def loss_by_hand(logits: Tensor, labels: Tensor, masked_loss: str) -> Tensor:
    """Masked cross-entropy, mean over the batch."""
    present = logits[:, HELD]
    chosen = logits[torch.arange(len(labels)), labels]
    match masked_loss:
        case "zero":
            total = present.exp().sum(dim=1) + (5 - len(HELD)) * 1.0
        case "neg_inf":
            total = present.exp().sum(dim=1)
        case "detach":
            total = present.exp().sum(dim=1) + logits[:, [1, 4]].exp().sum(dim=1).detach()
        case _:
            total = logits.exp().sum(dim=1)
    return (total.log() - chosen).mean()


def update_by_hand(task: ClientTask) -> tuple[dict[str, Tensor], float, list[float]]:
    """SGD with momentum, weight decay and clipping, in float64; also the mean loss and all norms."""
    values = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in task.parameters.items()
    }
    velocity = {name: torch.zeros_like(value) for name, value in values.items()}
    images = torch.from_numpy((task.inputs - task.mean) / task.deviation)
    labels = torch.from_numpy(task.labels)
    losses, norms = [], []
    for batch in local_batches(task):
        logits = logits_by_hand(values, images[batch], task.model_options["norm"])
        loss = loss_by_hand(logits, labels[batch], task.masked_loss)
        gradients = dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))
        norm = float(torch.sqrt(torch.stack([(one**2).sum() for one in gradients.values()]).sum()))
        with torch.no_grad():
            for name, value in values.items():
                gradient = gradients[name] * min(1.0, task.clip_norm / norm)
                velocity[name] = task.momentum * velocity[name] + gradient + task.weight_decay * value
                value -= task.lr * velocity[name]
        losses.append(loss.item())
        norms.append(norm)
    return values, float(np.mean(losses)), norms


@pytest.mark.parametrize("masked_loss", ["zero", "neg_inf", "detach", "none"])
def test_an_update_agrees_with_sgd_written_out_by_hand(masked_loss: str) -> None:
    options = OPTIONS | {"norm": "none"}
    state = build_model("cnn", **options).state_dict()
    task = make_task(
        model_options=options,
        parameters={name: value.numpy() for name, value in state.items()},
        masked_loss=masked_loss,
        weight_decay=0.1,
    )
    assert_agrees(task)


def test_an_update_with_sbn_agrees_with_sgd_written_out_by_hand() -> None:
    assert_agrees(make_task())


def test_the_gradients_norm_is_clipped_before_momentum_and_weight_decay() -> None:
    """With a bound so small that every step is clipped, and one so large that none is."""
    small, large = make_task(clip_norm=0.02), make_task(clip_norm=1e6, lr=0.01)
    assert min(update_by_hand(small)[2]) > 0.02
    assert_agrees(small)
    assert_agrees(large)


def assert_agrees(task: ClientTask) -> None:
    """Parameters to 1e-6 and the loss to 1e-5: one side computes in float32, the other in float64."""
    update = client_update(task)
    values, loss, _ = update_by_hand(task)
    assert update.loss == pytest.approx(loss, abs=1e-5)
    assert set(update.parameters) == set(values)
    for name, value in values.items():
        expected = value.detach().numpy()[HELD if name.startswith("linear") else slice(None)]
        np.testing.assert_allclose(update.parameters[name], expected, rtol=0, atol=1e-6, err_msg=name)
        assert not np.array_equal(expected, task.parameters[name][: len(expected)])  # it was trained


def test_rows_of_absent_labels_are_not_uploaded() -> None:
    uploaded = client_update(make_task()).parameters
    assert uploaded["linear.weight"].shape == (3, 32)
    assert uploaded["linear.bias"].shape == (3,)
    without_steps = client_update(make_task(lr=0.0)).parameters
    np.testing.assert_array_equal(
        without_steps["linear.weight"], make_task().parameters["linear.weight"][HELD]
    )
    np.testing.assert_array_equal(
        without_steps["blocks.0.norm.weight"], make_task().parameters["blocks.0.norm.weight"]
    )


@pytest.mark.parametrize(
    ("masked_loss", "moves"), [("zero", False), ("neg_inf", False), ("detach", False), ("none", True)]
)
def test_masked_losses_give_rows_of_absent_labels_no_gradient(masked_loss: str, moves: bool) -> None:
    task = make_task()
    model = build_model("cnn", **OPTIONS).train()
    logits = mask_logits(
        model(normalise(task.inputs, task.mean, task.deviation)), torch.from_numpy(task.held), masked_loss
    )
    F.cross_entropy(logits, torch.from_numpy(task.labels)).backward()
    for name in ("linear.weight", "linear.bias"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert bool(gradient[[1, 4]].any()) == moves
        assert bool(gradient[HELD].any())


def test_an_update_does_not_touch_what_the_task_holds() -> None:
    task = make_task()
    before = {name: value.copy() for name, value in task.parameters.items()}
    client_update(task)
    assert all(np.array_equal(before[name], value) for name, value in task.parameters.items())


def test_an_update_depends_on_its_task_only() -> None:
    first = client_update(make_task())
    torch.manual_seed(12345)
    client_update(make_task(client=4))
    again = client_update(make_task())
    assert first.loss == again.loss
    for name, value in first.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], value)


@pytest.mark.parametrize("change", [{"seed": 1}, {"round": 3}, {"client": 4}])
def test_seed_round_and_client_change_the_batches(change: dict[str, int]) -> None:
    plain, other = (
        [batch.tolist() for batch in local_batches(task)] for task in (make_task(), make_task(**change))
    )
    assert plain != other


def test_each_local_epoch_sees_every_example_once_in_another_order() -> None:
    batches = [batch.tolist() for batch in local_batches(make_task(local_epochs=4))]
    assert [len(batch) for batch in batches] == [5, 5, 3] * 4
    epochs = [list(itertools.chain(*batches[start : start + 3])) for start in range(0, 12, 3)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_loss_reported_is_the_mean_over_all_steps() -> None:
    """Without steps that change anything, and one label, it is the loss of the first model."""
    task = make_task(lr=0.0, batch_size=13, local_epochs=2, labels=np.zeros(13, int), held=np.arange(5) == 0)
    model = build_model("cnn", **OPTIONS).train()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in task.parameters.items()})
    logits = model(normalise(task.inputs, task.mean, task.deviation))[:, 0]
    expected = torch.log(torch.exp(logits) + 4) - logits  # four absent labels count exp(0) each
    assert client_update(task).loss == pytest.approx(expected.mean().item(), rel=1e-5)


def test_pixels_are_normalised_by_channel() -> None:
    inputs = np.array([[[[0, 10]], [[20, 255]]]], dtype=np.uint8)  # (1, 2, 1, 2)
    mean, deviation = np.array([10.0, 20.0])[:, None, None], np.array([5.0, 47.0])[:, None, None]
    assert normalise(inputs, mean, deviation).tolist() == [[[[-2, 0]], [[0, 5]]]]


def test_workers_give_the_same_results_bit_for_bit_in_the_order_of_the_tasks() -> None:
    tasks = [make_task(client=client, local_epochs=1) for client in range(4)]
    here, elsewhere = run_clients(tasks, workers=1), run_clients(tasks, workers=2)
    assert {update.process for update in here} == {os.getpid()}
    assert os.getpid() not in {update.process for update in elsewhere}
    for task, one, other in zip(tasks, here, elsewhere, strict=True):
        alone = client_update_on_one_thread(task)
        assert one.loss == other.loss == alone.loss
        for name, value in one.parameters.items():
            np.testing.assert_array_equal(other.parameters[name], value)
        assert one.peak_memory_mb > 0
    assert len({update.loss for update in here}) == 4


def test_running_clients_leaves_the_number_of_threads_as_it_was() -> None:
    threads = torch.get_num_threads()
    run_clients([make_task(local_epochs=1)], workers=1)
    assert torch.get_num_threads() == threads
