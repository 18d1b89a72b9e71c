"""The fast twin of `clients.client_update`: clients with steps of one kind train together, step by step.

It does the same arithmetic in another order of additions. What differs from the plain loop: a step is one
program for a whole group of clients, and the last, smaller batch of an epoch is taken alone.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterofl_core import selection
from heterofl_core.clients import Batch, ClientTask, ClientUpdate, local_epochs, new_update
from heterofl_core.compiled import Step, program_of
from heterofl_core.examples import TextExamples
from heterofl_core.executor import as_they_come
from heterofl_core.local_step import LocalStep, State, StepKind, apart, together
from heterofl_core.selection import Axis
from heterofl_core.sliceable import SliceableModel

ON_GPU = (1, 2, 4, 6, 8, 10)
"""Sizes of a group on a GPU; a smaller one is filled up, so that few programs serve Dynamic assignment."""
ON_CPU = 5
"""Clients of a group on a CPU, for convolutions too narrow to fill its vectors; all others go alone."""
NARROW = 1 / 16
VOCABULARY = {"cpu": 1024, "cuda": 5120}
"""A client's words are filled up to a multiple of this, so that few programs serve all clients. A GPU hardly
notices how wide a layer is: there, one program serves nearly all.
"""


@dataclass(frozen=True)
class Group:
    """Clients that train together.

    Attributes:
        tasks: of the clients.
        size: of the group, which may be larger.
        compiled: whether the step is a program, or executed operation by operation.
    """

    tasks: tuple[ClientTask, ...]
    size: int
    compiled: bool = True


def fast_updates(tasks: Sequence[ClientTask], workers: int) -> Iterator[ClientUpdate]:
    """The updates of all clients, in the order of `in_groups`."""
    for updates in as_they_come(group_update, in_groups(tasks), workers):
        yield from updates


def in_groups(tasks: Sequence[ClientTask]) -> list[Group]:
    """Groups of clients with steps of one kind and about as many of them; the longest work comes first.

    Clients with too few examples for a whole batch go alone: programs are for whole batches.
    """
    like: dict[str, list[ClientTask]] = defaultdict(list)
    groups = []
    for task in map(with_filled_vocabulary, tasks):
        if num_batches(task):
            like[repr((StepKind.of(task, clients=1), task.local_epochs))].append(task)
        else:
            groups.append(Group((task,), 1, compiled=False))
    groups += [group for some in like.values() for group in cut(sorted(some, key=num_batches))]
    return sorted(groups, key=work, reverse=True)


def cut(tasks: list[ClientTask]) -> list[Group]:
    """Groups of clients of one kind."""
    first = tasks[0].model
    if first.device == "cuda":
        parts = [tuple(tasks[start : start + ON_GPU[-1]]) for start in range(0, len(tasks), ON_GPU[-1])]
        return [Group(part, next(size for size in ON_GPU if size >= len(part))) for part in parts]
    narrow = first.arch in ("cnn", "preresnet18") and first.options["width_rate"] <= NARROW
    whole = len(tasks) // ON_CPU * ON_CPU if narrow else 0
    fives = [Group(tuple(tasks[start : start + ON_CPU]), ON_CPU) for start in range(0, whole, ON_CPU)]
    return fives + [Group((task,), 1) for task in tasks[whole:]]


def group_update(group: Group) -> list[ClientUpdate]:
    """ClientUpdate(m, r_m, W_m) of Algorithm 1 for all clients of a group."""
    kind = StepKind.of(group.tasks[0], group.size)
    step = program_of(kind) if group.compiled else LocalStep(kind)
    alone = LocalStep(replace(kind, clients=1))
    clients = [Training(task, alone.model) for task in group.tasks]
    with torch.no_grad():
        for _ in range(group.tasks[0].local_epochs):
            epochs = [next(client.epochs) for client in clients]
            whole_batches(step, group.size, clients, epochs)
            for client, rest in zip(clients, epochs, strict=True):
                for batch in rest:
                    client.take(*alone(*client.state, *batch, client.held, client.active(True), client.lr))
    return [new_update(client.task, client.state[0], client.losses) for client in clients]


class Training:
    """A client on its way through its local epochs.

    Args:
        task: of the client.
        model: a network of its kind.

    Attributes:
        state: its parameters, and their velocity.
        losses: one for each step so far, in nats.
        epochs: its batches; see `clients.local_epochs`.
    """

    def __init__(self, task: ClientTask, model: SliceableModel) -> None:
        self.task = task
        self.epochs = local_epochs(task, model)
        parameters = task.model.tensors()
        still = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.state: tuple[State, State] = together([(parameters, still)])
        self.losses: list[Tensor] = []
        self.held = torch.tensor(task.held, device=task.model.device)
        self.lr = torch.tensor(task.lr, device=task.model.device)

    def take(self, parameters: State, velocity: State, loss: Tensor) -> None:
        """Takes in what a step gave."""
        self.state = parameters, velocity
        self.losses.append(loss)

    def active(self, flag: bool) -> Tensor:
        """For `LocalStep.one`."""
        return torch.tensor(flag, device=self.task.model.device)


def whole_batches(step: Step, size: int, clients: list[Training], epochs: list[Iterator[Batch]]) -> None:
    """A step of all clients for each whole batch of the client that has most of them; takes these from the
    clients' epochs.

    One that has no more of them waits, with its last batch; the last client stands in for those that the
    group lacks.
    """
    places = [*range(len(clients)), *[len(clients) - 1] * (size - len(clients))]

    def of_all(values: Sequence[Any]) -> Any:
        return together([values[place] for place in places])

    counts = [num_batches(client.task) for client in clients]
    state, held = of_all([client.state for client in clients]), of_all([client.held for client in clients])
    flags = [[number < counts[place] for place in places] for number in range(max(counts))]
    alone = (-1,) if size == 1 else (-1, size)  # a client alone has no dimension of its own
    active = torch.tensor(flags, dtype=torch.bool, device=held.device).reshape(alone)
    losses: list[Tensor] = []
    batches: dict[int, Batch] = {}
    for number in range(max(counts)):
        batches |= {place: next(epochs[place]) for place, count in enumerate(counts) if number < count}
        now = of_all([batches[place] for place in range(len(clients))])
        *state, loss = step(*state, *now, held, active[number], clients[0].lr)
        losses.append(loss.reshape(size))
    for place, (client, count) in enumerate(zip(clients, counts, strict=True)):
        client.state = apart(tuple(state), place) if size > 1 else tuple(state)
        client.losses += [loss[place] for loss in losses[:count]]


def num_batches(task: ClientTask) -> int:
    """Whole batches of a local epoch."""
    return task.examples.whole_batches(task.batch_size)


def work(group: Group) -> int:
    """A measure of how long a group takes."""
    return sum(
        num_batches(task) * sum(value.size for value in task.model.parameters.values())
        for task in group.tasks
    )


def with_filled_vocabulary(task: ClientTask) -> ClientTask:
    """The same client with more words: rows of zeros for words that it does not hold.

    To a partial vocabulary that changes nothing: with the loss mask `zero` such a word is one of those that
    the model left out before, with `neg_inf` it is in no softmax. [MASK] stays the last row of the embedding.
    """
    words = task.model.options.get("num_tokens", 0)
    more = -words % VOCABULARY[task.model.device]
    if not 0 < more <= task.left_out:
        return task
    assert isinstance(task.examples, TextExamples)  # images leave no label out

    def fill(value: np.ndarray, axis: Axis | None) -> np.ndarray:
        rows = np.zeros((more, *value.shape[1:]), value.dtype)
        match axis and axis.name:
            case selection.TOKENS:
                return np.concatenate([value[:-1], rows, value[-1:]])
            case selection.LABELS:
                return np.concatenate([value, rows])
        return value

    def moved(rows: np.ndarray) -> np.ndarray:
        return np.where(rows == words, words + more, rows)  # [MASK]

    axes = task.model.axes()
    parameters = {name: fill(value, axes[name][0]) for name, value in task.model.parameters.items()}
    return replace(
        task,
        model=replace(
            task.model,
            options=task.model.options | {"num_tokens": words + more},
            parameters=parameters,
        ),
        examples=replace(task.examples, num_tokens=words + more),
        held=np.append(task.held, np.zeros(more, dtype=bool)),
        left_out=task.left_out - more,
        upload={axis: moved(rows) for axis, rows in task.upload.items()},
    )
