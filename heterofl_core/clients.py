"""ClientUpdate of Algorithm 1."""

import os
import resource
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from heterofl_core.examples import Examples
from heterofl_core.heterofl import slice_parameters
from heterofl_core.layers import masked_cross_entropy
from heterofl_core.models import build_model
from heterofl_core.randomness import generator, torch_seed
from heterofl_core.selection import Index
from heterofl_core.sliceable import SliceableModel

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ModelCopy:
    """A model as it travels between processes.

    Attributes:
        arch, options: for `build_model`.
        parameters: by name.
    """

    arch: str
    options: dict[str, Any]
    parameters: Arrays

    def build(self) -> SliceableModel:
        """The model with these parameters."""
        model = build_model(self.arch, **self.options)
        model.load_state_dict({name: torch.tensor(value) for name, value in self.parameters.items()})
        return model


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
        masked_loss, local_epochs, batch_size, lr, momentum, weight_decay, clip_norm: see `RunParams`.
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


@dataclass(frozen=True)
class ClientUpdate:
    """What a client sends back.

    Attributes:
        parameters: by name, with only the rows that the task asks for.
        loss: mean training loss over all local steps, in nats.
        process, peak_memory_mb: where it was computed, and that process's peak memory until then.
    """

    parameters: Arrays
    loss: float
    process: int
    peak_memory_mb: float


def client_update(task: ClientTask) -> ClientUpdate:
    """ClientUpdate(m, r_m, W_m) of Algorithm 1: E local epochs of SGD on batches of size B.

    A fresh optimiser a round; the gradient's norm is clipped before each step.
    """
    rng = generator(task.seed, "batches", task.round, task.client)
    model = task.model.build()
    torch.manual_seed(torch_seed(task.seed, "dropout", task.round, task.client))  # building drew, too
    optimizer = torch.optim.SGD(
        model.parameters(), lr=task.lr, momentum=task.momentum, weight_decay=task.weight_decay, foreach=True
    )
    held = torch.tensor(task.held)
    losses = []
    model.train()
    for _ in range(task.local_epochs):
        for inputs, targets in task.examples.epoch(task.batch_size, rng):
            loss = masked_cross_entropy(model(inputs), targets, held, task.masked_loss, task.left_out)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm, foreach=True)
            optimizer.step()
            losses.append(loss.detach())
    upload = slice_parameters(model.state_dict(), model.axes(), task.upload)
    return ClientUpdate(
        parameters={name: value.numpy() for name, value in upload.items()},
        loss=float(torch.stack(losses).mean()),
        process=os.getpid(),
        peak_memory_mb=peak_memory_mb(),
    )


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in units of 2^20 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
