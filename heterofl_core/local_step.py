"""One local step of a client as a function of tensors alone, for whatever wants the whole step at once.

The loop in `clients.py` is the definition. This is the same arithmetic without an optimiser that keeps state:
masked loss, gradient, clipping, SGD. `torch.func.vmap` can then take the step for several clients at a time,
and `compiled.py` can make one program of it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from heterofl_core.clients import ClientTask, autocast
from heterofl_core.layers import masked_cross_entropy
from heterofl_core.models import build_model

EPSILON = 1e-6  # beside the norm in clipping, as in `torch.nn.utils.clip_grad_norm_`

State = dict[str, Tensor]


@dataclass(frozen=True)
class StepKind:
    """What makes the steps of two clients the same program, as values that JSON knows.

    Attributes:
        arch, options: for `build_model`.
        batch: shape of the inputs of one client.
        labels: of the model.
        clients: that take the step together.
        device: `cpu` or `cuda`.
        masked_loss, left_out, momentum, weight_decay, clip_norm, precision: see `ClientTask`.
    """

    arch: str
    options: dict[str, Any]
    batch: tuple[int, ...]
    labels: int
    clients: int
    device: str
    masked_loss: str
    left_out: int
    momentum: float
    weight_decay: float
    clip_norm: float
    precision: str

    @staticmethod
    def of(task: ClientTask, clients: int) -> "StepKind":
        """The kind of a client's steps on whole batches."""
        return StepKind(
            arch=task.model.arch,
            options=task.model.options,
            batch=task.examples.batch_shape(task.batch_size),
            labels=len(task.held),
            clients=clients,
            device=task.model.device,
            **{name: getattr(task, name) for name in SETTINGS},
        )

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "StepKind":
        """The inverse of `as_json`."""
        options = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values["options"].items()
        }
        return StepKind(**{**values, "options": options, "batch": tuple(values["batch"])})

    def as_json(self) -> dict[str, Any]:
        """For another process, and for the name of a program."""
        return asdict(self)


SETTINGS = ("masked_loss", "left_out", "momentum", "weight_decay", "clip_norm", "precision")


class LocalStep:
    """The steps of one kind.

    Args:
        kind: of the steps.
    """

    def __init__(self, kind: StepKind) -> None:
        self.kind = kind
        with torch.device("meta"):  # only its shapes matter: parameters are given to each step
            self.model = build_model(kind.arch, **kind.options).train()

    def loss(
        self, parameters: State, inputs: Tensor, noise: tuple[Tensor, ...], targets: Tensor, held: Tensor
    ) -> Tensor:
        """The masked cross-entropy of a batch."""
        with autocast(self.kind.precision, self.kind.device):
            logits = functional_call(self.model, parameters, (inputs, *noise))
        return masked_cross_entropy(logits, targets, held, self.kind.masked_loss, self.kind.left_out)

    def one(
        self,
        parameters: State,
        velocity: State,
        inputs: Tensor,
        noise: tuple[Tensor, ...],
        targets: Tensor,
        held: Tensor,
        active: Tensor,
        lr: Tensor,
    ) -> tuple[State, State, Tensor]:
        """A step of one client: parameters and velocity after it, and the loss before it, in nats.

        Args:
            parameters: of the client's model, by name.
            velocity: of momentum, in the parameters' shapes; zeros before the first step.
            inputs, targets: a whole batch, as the task's examples give it.
            noise: see `SliceableModel.noise`.
            held: see `masked_cross_entropy`.
            active: boolean, without dimensions; where false, nothing moves.
            lr: without dimensions.
        """
        kind = self.kind
        gradients, loss = grad_and_value(self.loss)(parameters, inputs, noise, targets, held)
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        shrink = (kind.clip_norm / (norm + EPSILON)).clamp(max=1)
        after, moved = {}, {}
        for name, value in parameters.items():
            push = shrink * gradients[name] + kind.weight_decay * value
            speed = kind.momentum * velocity[name] + push
            moved[name] = torch.where(active, speed, velocity[name])
            after[name] = torch.where(active, value - lr * speed, value)
        return after, moved, loss

    def __call__(self, *tensors: Any) -> tuple[State, State, Tensor]:
        """The step for all clients of the kind: what `one` takes, with a first dimension of clients unless
        there is only one; `lr` is the same for all.
        """
        if self.kind.clients == 1:
            return self.one(*tensors)
        return vmap(self.one, in_dims=(0, 0, 0, 0, 0, 0, 0, None))(*tensors)

    def placeholders(self) -> tuple[Any, ...]:
        """Tensors of the right shapes and layouts to compile the step with."""
        device = self.kind.device
        text = self.kind.arch == "transformer"
        inputs = torch.zeros(self.kind.batch, dtype=torch.int64 if text else torch.float32, device=device)
        targets = torch.zeros(
            self.kind.batch if text else self.kind.batch[:1], dtype=torch.int64, device=device
        )
        parameters = {
            name: torch.zeros(value.shape, device=device) for name, value in self.model.named_parameters()
        }
        noise = self.model.noise(inputs, torch.Generator(device))
        yes = torch.ones((), dtype=torch.bool, device=device)
        held = torch.ones(self.kind.labels, dtype=torch.bool, device=device)
        still = {name: torch.zeros_like(value) for name, value in parameters.items()}
        one = (parameters, still, inputs, noise, targets, held, yes)
        return (*together([one] * self.kind.clients), torch.tensor(0.1, device=device))


def together(values: list[Any]) -> Any:
    """One value from those of several clients: tensors stacked, dictionaries and tuples by their parts.

    That of a client alone gets no new dimension; its images and kernels lie channels-last, which CPUs prefer.
    A program reads memory as its placeholders lay there, so the layout must follow from the shape alone.
    """
    first = values[0]
    match first:
        case dict():
            return {name: together([value[name] for value in values]) for name in first}
        case tuple():
            return tuple(together(list(parts)) for parts in zip(*values, strict=True))
    if len(values) > 1:
        return torch.stack(values).contiguous()
    return first.contiguous(memory_format=torch.channels_last) if first.dim() == 4 else first


def apart(value: Any, place: int) -> Any:
    """The part of one client of what `together` stacked."""
    match value:
        case dict():
            return {name: apart(part, place) for name, part in value.items()}
        case tuple():
            return tuple(apart(part, place) for part in value)
    return together([value[place]])
