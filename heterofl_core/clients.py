"""ClientUpdate of Algorithm 1, and how the updates of a round are executed."""

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from heterofl_core.heterofl import slice_parameters
from heterofl_core.layers import mask_logits
from heterofl_core.models import build_model
from heterofl_core.randomness import seed_sequence, torch_seed
from heterofl_core.selection import LABELS

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ClientTask:
    """All that one client has in one round: its own data, the sub-model it received, and settings.

    Attributes:
        client, round: numbers, which key the client's draws together with `seed`.
        arch, model_options: for `build_model`.
        parameters: the sub-model's, by name.
        inputs: normalised in `client_update`, bytes of shape (examples, channels, height, width).
        labels: shape (examples,).
        mean, deviation: of the pixels, each of shape (channels, 1, 1).
        held: labels in the client's data, shape (labels,), boolean.
        masked_loss, local_epochs, batch_size, lr, momentum, weight_decay, clip_norm: see `RunParams`.
    """

    client: int
    round: int
    seed: int
    arch: str
    model_options: dict[str, Any]
    parameters: Arrays
    inputs: np.ndarray
    labels: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    held: np.ndarray
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
        parameters: by name, with only those rows of the classifier whose labels the client holds.
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
    torch.manual_seed(torch_seed(task.seed, "local update", task.round, task.client))
    model = build_model(task.arch, **task.model_options)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in task.parameters.items()})
    optimizer = torch.optim.SGD(
        model.parameters(), lr=task.lr, momentum=task.momentum, weight_decay=task.weight_decay, foreach=True
    )
    inputs = normalise(task.inputs, task.mean, task.deviation)
    labels = torch.from_numpy(task.labels)
    held = torch.from_numpy(task.held)
    losses = []
    model.train()
    for batch in local_batches(task):
        logits = mask_logits(model(inputs[batch]), held, task.masked_loss)
        loss = F.cross_entropy(logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm, foreach=True)
        optimizer.step()
        losses.append(loss.detach())
    upload = slice_parameters(model.state_dict(), model.axes(), {LABELS: np.flatnonzero(task.held)})
    return ClientUpdate(
        parameters={name: value.numpy() for name, value in upload.items()},
        loss=float(torch.stack(losses).mean()),
        process=os.getpid(),
        peak_memory_mb=peak_memory_mb(),
    )


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in units of 2^20 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def local_batches(task: ClientTask) -> Iterator[Tensor]:
    """Indices of the client's batches over all its local epochs, reshuffled in each; the last batch of
    an epoch may be smaller.
    """
    rng = np.random.default_rng(seed_sequence(task.seed, "batches", task.round, task.client))
    for _ in range(task.local_epochs):
        order = torch.from_numpy(rng.permutation(len(task.labels)))
        yield from order.split(task.batch_size)


def normalise(inputs: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> Tensor:
    """Bytes of shape (batch, channels, height, width) as floats with the data set's mean 0, deviation 1."""
    shift, scale = (torch.from_numpy(value).float() for value in (mean, deviation))
    return (torch.from_numpy(inputs).float() - shift) / scale


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread, so that sums are taken in one order whatever the machine, and leaves its
    global generator as it was.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def client_update_on_one_thread(task: ClientTask) -> ClientUpdate:
    """`client_update` with the same result in this process and in a worker."""
    with one_thread():
        return client_update(task)


def run_clients(tasks: Sequence[ClientTask], workers: int) -> list[ClientUpdate]:
    """Executes the updates of one round, in the order of the tasks.

    Small clients keep one core busy at best, so several processes of one thread each are faster than
    one process of several threads; and the result does not depend on their number.
    """
    jobs = (joblib.delayed(client_update_on_one_thread)(task) for task in tasks)
    return list(joblib.Parallel(n_jobs=min(workers, len(tasks)), max_nbytes=None)(jobs))
