"""A local step on a GPU: captured once as a CUDA graph, which starts all its kernels at once.

A GPU finishes the operations of so small a step sooner than a processor can ask for the next one. So a step
should be few operations, asked for together. The parameters of all clients lie in one matrix, a row for each
client, and their velocity in another: clipping and SGD are a dozen operations, however many layers there are.
"""

from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_leaves, tree_map

from heterofl_core.local_step import EPSILON, LocalStep, State, StepKind


class StepInPlace:
    """`LocalStep` for all clients of a group, on tensors at fixed places: they are filled, and read.

    Args:
        kind: of the steps.

    Attributes:
        values, speeds: parameters and velocity, shape (clients, parameters of a client).
        state: views of both, as the step gives them.
    """

    def __init__(self, kind: StepKind) -> None:
        self.kind, self.step = kind, LocalStep(kind)
        self.batch: list[Any] = []
        size = sum(value.numel() for value in self.step.model.parameters())
        self.values = torch.zeros(kind.clients, size, device=kind.device)
        self.speeds = torch.zeros_like(self.values)
        self.losses = torch.zeros(kind.clients, device=kind.device)
        self.parameters = self.by_name(self.values)
        alone = kind.clients == 1
        self.state: tuple[State, State] = tuple(  # type: ignore[assignment]
            {name: value[0] if alone else value for name, value in self.by_name(flat).items()}
            for flat in (self.values, self.speeds)
        )

    def by_name(self, flat: Tensor) -> State:
        """Each parameter's part of a matrix, with a first dimension of clients."""
        shapes = {name: value.shape for name, value in self.step.model.named_parameters()}
        parts = flat.split([shape.numel() for shape in shapes.values()], dim=1)
        return {
            name: part.unflatten(1, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def __call__(self, parameters: State, velocity: State, *batch: Any) -> tuple[State, State, Tensor]:
        """What `LocalStep` takes and gives. The state that it gives is its own, and changes with the next
        call; given back, it need not be copied.
        """
        if not self.batch:
            *ours, lr = tree_map(torch.clone, batch)
            self.batch = [tree_map(lambda value: value[None], ours) if self.kind.clients == 1 else ours, lr]
            self.prepare()
        fill(self.batch, batch)
        if parameters is not self.state[0]:
            fill(self.state, (parameters, velocity))
        self.take()
        return *self.state, self.losses.clone()

    def prepare(self) -> None:
        """What is to be done when the places are there, and before the first step."""

    def take(self) -> None:
        """One step from what is at the places."""
        kind, ((*batch, active), lr) = self.kind, self.batch
        gradients, losses = vmap(grad_and_value(self.step.loss))(self.parameters, *batch)
        gradient = torch.cat([gradients[name].flatten(1) for name in self.parameters], dim=1)
        shrink = (kind.clip_norm / (gradient.norm(dim=1) + EPSILON)).clamp(max=1)
        push = shrink[:, None] * gradient + kind.weight_decay * self.values
        speeds = kind.momentum * self.speeds + push
        self.speeds.copy_(torch.where(active[:, None], speeds, self.speeds))
        self.values.copy_(torch.where(active[:, None], self.values - lr * speeds, self.values))
        self.losses.copy_(losses)


class CapturedStep(StepInPlace):
    """The same as a CUDA graph."""

    def prepare(self) -> None:
        """Captures the graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels before the capture
            for _ in range(3):
                super().take()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            super().take()

    def take(self) -> None:
        """One step from what is at the places, in one go."""
        self.graph.replay()


def fill(places: Any, values: Any) -> None:
    """Copies what nested lists, tuples and dictionaries hold into tensors that lie in others like them."""
    for place, value in zip(tree_leaves(places), tree_leaves(values), strict=True):
        place.copy_(value)
