"""ClientUpdate of Algorithm 1."""

import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterofl_core.examples import Examples
from heterofl_core.heterofl import slice_parameters
from heterofl_core.layers import masked_cross_entropy
from heterofl_core.models import build_model
from heterofl_core.randomness import generator, torch_seed
from heterofl_core.selection import Axes, Index
from heterofl_core.sliceable import SliceableModel

Arrays = dict[str, np.ndarray]
Batch = tuple[Tensor, tuple[Tensor, ...], Tensor]
"""Inputs, what `SliceableModel.noise` drew for them, and targets."""


@dataclass(frozen=True)
class ModelCopy:
    """A model as it travels between processes.

    Attributes:
        arch, options: for `build_model`.
        parameters: by name.
        device: where it is executed, `cpu` or `cuda`.
    """

    arch: str
    options: dict[str, Any]
    parameters: Arrays
    device: str = "cpu"

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the parameters, on the device."""
        return {name: torch.tensor(value, device=self.device) for name, value in self.parameters.items()}

    def build(self) -> SliceableModel:
        """The model with these parameters, on the device."""
        model = self.empty()
        model.load_state_dict(self.tensors(), assign=True)
        return model

    def axes(self) -> Axes:
        """See `SliceableModel.axes`."""
        return self.empty().axes()

    def empty(self) -> SliceableModel:
        """The model without values; nothing is drawn for it."""
        with torch.device("meta"):
            return build_model(self.arch, **self.options)


@dataclass(frozen=True)
class ClientTask:
    """All that one client has in one round: its own data, the sub-model it received, and settings.

    Attributes:
        client, round, seed: key the client's draws.
        model: what the server sent.
        examples: the client's own.
        held: labels in the client's data, among those of its model, shape (labels,), boolean.
        left_out: labels that its model leaves out; see `layers.masked_cross_entropy`.
        upload: the rows that the client sends back, as coordinates of its own model; an axis that is
            absent is sent whole.
        masked_loss, local_epochs, batch_size, lr, momentum, weight_decay, clip_norm, precision: see
            `RunParams`.
    """

    client: int
    round: int
    seed: int
    model: ModelCopy
    examples: Examples
    held: np.ndarray
    left_out: int
    upload: Index
    masked_loss: str
    local_epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    clip_norm: float
    precision: str = "fp32"


@dataclass(frozen=True)
class ClientUpdate:
    """What a client sends back.

    Attributes:
        client: which one.
        parameters: by name, with only the rows that the task asks for.
        loss: mean training loss over all local steps, in nats.
        process, peak_memory_mb: where it was computed, and that process's peak memory until then.
    """

    client: int
    parameters: Arrays
    loss: float
    process: int
    peak_memory_mb: float


def client_update(task: ClientTask) -> ClientUpdate:
    """ClientUpdate(m, r_m, W_m) of Algorithm 1: E local epochs of SGD on batches of size B.

    A fresh optimiser a round; the gradient's norm is clipped before each step.
    """
    model = task.model.build().train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=task.lr, momentum=task.momentum, weight_decay=task.weight_decay, foreach=True
    )
    held = torch.tensor(task.held, device=task.model.device)
    losses = []
    for epoch in local_epochs(task, model):
        for inputs, noise, targets in epoch:
            with autocast(task.precision, task.model.device):
                logits = model(inputs, *noise)
            loss = masked_cross_entropy(logits, targets, held, task.masked_loss, task.left_out)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm, foreach=True)
            optimizer.step()
            losses.append(loss.detach())
    return new_update(task, model.state_dict(), losses)


def local_epochs(task: ClientTask, model: SliceableModel) -> Iterator[Iterator[Batch]]:
    """The batches of each local epoch; an epoch must be used up before the next one."""
    device = task.model.device
    rng = generator(task.seed, "batches", task.round, task.client)
    source = torch.Generator(device)
    source.manual_seed(torch_seed(task.seed, "dropout", task.round, task.client))
    for _ in range(task.local_epochs):
        yield (
            (inputs, model.noise(inputs, source), targets)
            for inputs, targets in task.examples.epoch(task.batch_size, rng, device)
        )


@contextmanager
def autocast(precision: str, device: str) -> Iterator[None]:
    """Executes convolutions and products of matrices in `bf16`, or in TensorFloat-32 where a GPU has it, if
    `precision` says so; parameters and the optimiser stay in float32.

    Under `bf16` what these layers give is rounded to bfloat16, logits and loss included, and so are the
    gradients that the backward pass gives them. sBN computes in float32 from there on, the other norms hand
    on bfloat16, which the next layer would round to anyway. TensorFloat-32 is for the forward pass alone:
    the backward pass, outside of this block, asks the flag again.
    """
    allow_tf32(precision == "tf32")
    try:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    """Whether GPUs may round what they multiply to TensorFloat-32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


allow_tf32(False)  # evaluation is in float32; cuDNN's own default is not


def new_update(task: ClientTask, parameters: Mapping[str, Tensor], losses: list[Tensor]) -> ClientUpdate:
    """What a client sends back when it has trained."""
    upload = slice_parameters(parameters, task.model.axes(), task.upload)
    return ClientUpdate(
        client=task.client,
        parameters={name: value.cpu().numpy() for name, value in upload.items()},
        loss=float(torch.stack(losses).mean()),
        process=os.getpid(),
        peak_memory_mb=peak_memory_mb(),
    )


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in units of 2^20 bytes.

    Linux's own figure for a process counts the one that it was forked from, too, unless asked in `/proc`.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024  # bytes; Linux counts in 1024 of them
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
