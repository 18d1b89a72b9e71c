"""ClientUpdate of Algorithm 1 against a loop written out by hand, in this process and in others."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from heterofl_core import transformer
from heterofl_core.clients import (
    ClientTask,
    ClientUpdate,
    ModelCopy,
    autocast,
    client_update,
    peak_memory_mb,
)
from heterofl_core.examples import ImageExamples, normalise
from heterofl_core.executor import on_one_thread, side_by_side
from heterofl_core.layers import mask_logits
from heterofl_core.models import build_model
from heterofl_core.randomness import generator
from heterofl_core.selection import LABELS, TOKENS

HELD = [0, 2, 3]
OPTIONS: dict[str, Any] = {
    "width_rate": 1 / 16,
    "scale": 0.25,
    "norm": "sbn",
    "input_shape": (1, 16, 16),
    "num_labels": 5,
}
EXAMPLES = ImageExamples(
    inputs=np.random.default_rng(0).integers(0, 256, (13, 1, 16, 16), dtype=np.uint8),
    labels=np.array(HELD * 4 + [0]),
    mean=np.array([[[120.0]]]),
    deviation=np.array([[[70.0]]]),
    augmented=False,
)


def make_model(**changes: Any) -> ModelCopy:
    """A CNN at a quarter of the global width."""
    options = OPTIONS | changes
    torch.manual_seed(0)
    state = build_model("cnn", **options).state_dict()
    return ModelCopy("cnn", options, {name: value.numpy() for name, value in state.items()})


def make_task(**changes: Any) -> ClientTask:
    """Thirteen images of three out of five labels."""
    task = ClientTask(
        client=3,
        round=2,
        seed=0,
        model=make_model(),
        examples=EXAMPLES,
        held=np.isin(np.arange(5), HELD),
        left_out=0,
        upload={LABELS: np.array(HELD)},
        masked_loss="zero",
        local_epochs=3,
        batch_size=5,
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        clip_norm=1.0,
    )
    return replace(task, **changes)


def local_batches(task: ClientTask) -> list[np.ndarray]:
    """Which images each local step sees: every epoch's are shuffled anew."""
    rng = generator(task.seed, "batches", task.round, task.client)
    orders = [rng.permutation(13) for _ in range(task.local_epochs)]
    return [
        order[start : start + task.batch_size] for order in orders for start in range(0, 13, task.batch_size)
    ]


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
        for name, value in task.model.parameters.items()
    }
    velocity = {name: torch.zeros_like(value) for name, value in values.items()}
    images = torch.from_numpy((EXAMPLES.inputs - EXAMPLES.mean) / EXAMPLES.deviation)
    labels = torch.from_numpy(EXAMPLES.labels)
    losses, norms = [], []
    for batch in local_batches(task):
        logits = logits_by_hand(values, images[batch], task.model.options["norm"])
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
    assert_agrees(make_task(model=make_model(norm="none"), masked_loss=masked_loss, weight_decay=0.1))


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
        assert not np.array_equal(expected, task.model.parameters[name][: len(expected)])  # it was trained


def test_rows_of_absent_labels_are_not_uploaded() -> None:
    uploaded = client_update(make_task()).parameters
    assert uploaded["linear.weight"].shape == (3, 32)
    assert uploaded["linear.bias"].shape == (3,)
    without_steps = client_update(make_task(lr=0.0)).parameters
    np.testing.assert_array_equal(
        without_steps["linear.weight"], make_task().model.parameters["linear.weight"][HELD]
    )
    np.testing.assert_array_equal(
        without_steps["blocks.0.norm.weight"], make_task().model.parameters["blocks.0.norm.weight"]
    )


def test_all_rows_are_uploaded_if_the_task_asks_for_no_selection() -> None:
    everything, selected = client_update(make_task(upload={})), client_update(make_task())
    assert everything.parameters["linear.weight"].shape == (5, 32)
    for name, value in everything.parameters.items():
        rows = HELD if name.startswith("linear") else slice(None)
        np.testing.assert_array_equal(value[rows], selected.parameters[name])


@pytest.mark.parametrize(
    ("masked_loss", "moves"), [("zero", False), ("neg_inf", False), ("detach", False), ("none", True)]
)
def test_masked_losses_give_rows_of_absent_labels_no_gradient(masked_loss: str, moves: bool) -> None:
    task = make_task()
    model = build_model("cnn", **OPTIONS).train()
    logits = mask_logits(
        model(normalise(EXAMPLES.inputs, EXAMPLES.mean, EXAMPLES.deviation)),
        torch.from_numpy(task.held),
        masked_loss,
    )
    F.cross_entropy(logits, torch.from_numpy(EXAMPLES.labels)).backward()
    for name in ("linear.weight", "linear.bias"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert bool(gradient[[1, 4]].any()) == moves
        assert bool(gradient[HELD].any())


def test_an_update_does_not_touch_what_the_task_holds() -> None:
    task = make_task()
    before = {name: value.copy() for name, value in task.model.parameters.items()}
    client_update(task)
    assert all(np.array_equal(before[name], value) for name, value in task.model.parameters.items())


def test_the_tensors_of_a_model_are_a_copy_of_its_parameters() -> None:
    model = make_model()
    tensors = model.tensors()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value.numpy(), model.parameters[name])
        value.fill_(7)
    assert not any((value == 7).any() for value in model.parameters.values())
    assert list(tensors) == list(model.parameters)


def test_a_model_knows_its_axes_without_its_parameters() -> None:
    assert ModelCopy("cnn", OPTIONS, {}).axes() == build_model("cnn", **OPTIONS).axes()


def test_an_update_says_whose_it_is() -> None:
    assert client_update(make_task(client=17, local_epochs=1)).client == 17


def test_bf16_rounds_what_a_convolution_gives_and_keeps_parameters_in_float32() -> None:
    """bfloat16 has eight bits: a result differs by up to 2^-9 of itself."""
    exact, rounded = (client_update(make_task(local_epochs=1, precision=name)) for name in ("fp32", "bf16"))
    assert 1e-6 < abs(rounded.loss / exact.loss - 1) < 0.05
    assert {value.dtype for value in rounded.parameters.values()} == {np.dtype(np.float32)}
    assert client_update(make_task(local_epochs=1)).loss == exact.loss  # the default, untouched by what ran


def test_tf32_ends_with_the_training_that_asked_for_it() -> None:
    """Evaluation is in float32, in the same process; cuDNN would round by itself."""

    def allowed() -> list[bool]:
        return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]

    assert allowed() == [False, False]
    with autocast("tf32", "cpu"):
        assert allowed() == [True, True]
    assert allowed() == [False, False]
    with pytest.raises(ValueError, match="stop"), autocast("tf32", "cpu"):
        raise ValueError("stop")
    assert allowed() == [False, False]


def test_an_update_depends_on_its_task_only() -> None:
    first = client_update(make_task())
    torch.manual_seed(12345)
    client_update(make_task(client=4))
    again = client_update(make_task())
    assert first.loss == again.loss
    for name, value in first.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], value)


class Recorder:
    """Examples that remember the batches they gave out, as labels."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def epoch(
        self, batch_size: int, rng: np.random.Generator, device: str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        numbered = replace(EXAMPLES, labels=np.arange(13))
        for images, numbers in numbered.epoch(batch_size, rng):
            self.batches.append(numbers.tolist())
            yield images, torch.from_numpy(EXAMPLES.labels)[numbers]


def batches_of(**changes: Any) -> list[list[int]]:
    """The images that the steps of an update see."""
    recorder = Recorder()
    client_update(make_task(examples=recorder, **changes))
    return recorder.batches


@pytest.mark.parametrize("change", [{"seed": 1}, {"round": 3}, {"client": 4}])
def test_seed_round_and_client_change_the_batches(change: dict[str, int]) -> None:
    assert batches_of(local_epochs=1, **change) != batches_of(local_epochs=1)
    assert batches_of(local_epochs=1, lr=0.1) == batches_of(local_epochs=1)


def test_each_local_epoch_sees_every_example_once_in_another_order() -> None:
    batches = batches_of(local_epochs=4)
    assert [len(batch) for batch in batches] == [5, 5, 3] * 4
    epochs = [list(itertools.chain(*batches[start : start + 3])) for start in range(0, 12, 3)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_loss_reported_is_the_mean_over_all_steps() -> None:
    """Without steps that change anything, and one label, it is the loss of the first model."""
    task = make_task(
        lr=0.0,
        batch_size=13,
        local_epochs=2,
        examples=replace(EXAMPLES, labels=np.zeros(13, int)),
        held=np.arange(5) == 0,
    )
    model = task.model.build().train()
    logits = model(normalise(EXAMPLES.inputs, EXAMPLES.mean, EXAMPLES.deviation))[:, 0]
    expected = torch.log(torch.exp(logits) + 4) - logits  # four absent labels count exp(0) each
    assert client_update(task).loss == pytest.approx(expected.mean().item(), rel=1e-5)


def test_workers_give_the_same_results_bit_for_bit_in_the_order_of_the_tasks() -> None:
    tasks = [make_task(client=client, local_epochs=1) for client in range(4)]
    here, elsewhere = (side_by_side(client_update, tasks, workers) for workers in (1, 2))
    assert {update.process for update in here} == {os.getpid()}
    assert os.getpid() not in {update.process for update in elsewhere}
    for task, one, other in zip(tasks, here, elsewhere, strict=True):
        alone = on_one_thread(client_update, task)
        assert one.loss == other.loss == alone.loss
        for name, value in one.parameters.items():
            np.testing.assert_array_equal(other.parameters[name], value)
        assert one.peak_memory_mb > 0
    assert len({update.loss for update in here}) == 4


def test_running_clients_leaves_the_number_of_threads_as_it_was() -> None:
    threads = torch.get_num_threads()
    side_by_side(client_update, [make_task(local_epochs=1)], workers=1)
    assert torch.get_num_threads() == threads


class Unmasked:
    """A text of which nothing is masked."""

    def epoch(
        self, batch_size: int, rng: np.random.Generator, device: str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        tokens = torch.arange(40).reshape(2, 20) % 5
        yield tokens, tokens


def test_what_dropout_drops_follows_from_seed_round_and_client() -> None:
    """Of a Transformer that makes no steps: its loss in training differs by what was dropped only."""
    options: dict[str, Any] = {"width_rate": 1 / 16, "num_tokens": 5}
    torch.manual_seed(0)
    state = build_model("transformer", **options).state_dict()
    model = ModelCopy("transformer", options, {name: value.numpy() for name, value in state.items()})
    changes: dict[str, Any] = {
        "examples": Unmasked(),
        "held": np.ones(5, dtype=bool),
        "upload": {},
        "lr": 0.0,
    }

    def loss(**keys: int) -> float:
        torch.manual_seed(99)
        return client_update(make_task(model=model, **changes, **keys)).loss

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(round=1), loss(client=1)}) == 4


def test_what_dropout_drops_does_not_depend_on_what_building_the_model_drew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First parameters are drawn, and thrown away: a larger vocabulary draws more of them. The loss leaves
    out the words that only the larger one has.
    """

    def update(num_tokens: int) -> ClientUpdate:
        options: dict[str, Any] = {"width_rate": 1 / 16, "num_tokens": num_tokens}
        torch.manual_seed(0)
        small = build_model("transformer", **{**options, "num_tokens": 5}).state_dict()
        state = build_model("transformer", **options).state_dict()
        for name, value in small.items():
            state[name][: len(value)] = value
        model = ModelCopy("transformer", options, {name: value.numpy() for name, value in state.items()})
        held = np.arange(num_tokens) < 5
        upload = {LABELS: np.arange(5), TOKENS: np.arange(5)}
        return client_update(
            make_task(model=model, examples=Unmasked(), held=held, upload=upload, masked_loss="neg_inf")
        )

    first, larger = update(5), update(50)
    assert first.loss == pytest.approx(larger.loss, rel=1e-6)
    for name, value in first.parameters.items():
        np.testing.assert_allclose(value, larger.parameters[name], rtol=0, atol=5e-6, err_msg=name)

    plain, build = update(5), ModelCopy.build
    monkeypatch.setattr(ModelCopy, "build", lambda copy: (build(copy), torch.randn(7))[0])
    assert update(5).loss == plain.loss
    monkeypatch.setattr(transformer, "DROPOUT", 0.0)
    without = update(5).parameters
    assert max(np.abs(without[name] - value).max() for name, value in plain.parameters.items()) > 1e-3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
def test_the_peak_of_a_process_is_its_own() -> None:
    """Not that of the one which started it."""
    ballast = np.ones(2**27)  # 1024 MB
    program = "from heterofl_core.clients import peak_memory_mb; print(peak_memory_mb())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 50 < float(answer.stdout) < 1000
    assert peak_memory_mb() > 1000
    del ballast
