"""Algorithm 1: sample clients, slice, update, aggregate, round after round."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterofl_core.clients import ClientTask, run_clients
from heterofl_core.cost import Cost, model_cost
from heterofl_core.data import load_data
from heterofl_core.heterofl import aggregate, slice_parameters
from heterofl_core.levels import Mix, width_rate
from heterofl_core.models import build_model
from heterofl_core.params import RunParams
from heterofl_core.partition import make_partition
from heterofl_core.randomness import generator, torch_seed
from heterofl_core.selection import LABELS, static_index
from heterofl_core.sliceable import SliceableModel

DECAY = 0.1  # of the learning rate at each milestone (Table 4)


@dataclass(frozen=True)
class RoundSummary:
    """What happened in one round.

    Attributes:
        levels: of the active clients.
        train_loss: mean over the clients of their mean local loss, in nats.
        bytes_down, bytes_up: of all parameters sent to the clients, and back.
        peak_memory_mb: for each process that executed clients, its peak memory so far.
    """

    levels: list[str]
    train_loss: float
    bytes_down: int
    bytes_up: int
    peak_memory_mb: dict[int, float]


class Federation:
    """A server and its clients: all that stays the same over the rounds.

    Args:
        params: of the run.

    Attributes:
        data: the data set.
        partition: who holds which examples.
        axes: of the global model, whose level is the largest of the mix.

    Raises:
        InputError: the data cannot be had, or cannot be shared among the clients.
    """

    def __init__(self, params: RunParams) -> None:
        self.params = params
        self.data = load_data(params.dataset)
        self.mean, self.deviation = self.data.pixel_statistics()
        self.partition = make_partition(
            params.partition,
            self.data.train_labels,
            self.data.test_labels,
            params.num_clients,
            generator(params.seed, "partition"),
        )
        self.mix = Mix.parse(params.levels)
        self.fixed_levels = self.mix.fix(params.num_clients) if params.assignment == "fix" else None
        self.axes = self.global_model().axes()

    def model_options(self, level: str) -> dict[str, Any]:
        """Options of `build_model` for a client of this level; the global model's are the largest's."""
        relative = width_rate(level) / width_rate(self.mix.largest)
        return {
            "width_rate": width_rate(level),
            "scale": relative if self.params.scaler else 1.0,
            "norm": self.params.norm,
            "in_channels": self.data.input_shape[0],
            "num_labels": self.data.num_labels,
        }

    def global_model(self) -> SliceableModel:
        """A new global model with the run's initial parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.params.seed, "initialisation"))
            return build_model(self.params.arch, **self.model_options(self.mix.largest))

    def cost_of_level(self, level: str) -> Cost:
        """What a client of this level computes and sends."""
        return model_cost(self.params.arch, self.data.input_shape, **self.model_options(level))

    def learning_rate(self, round: int) -> float:
        """η of a round, counted from 1: decayed after each milestone."""
        passed = sum(round > milestone for milestone in self.params.milestones)
        return self.params.lr * DECAY**passed

    def active_clients(self, round: int) -> np.ndarray:
        """S_t: a random set of M_t = max(C·M, 1) clients, without replacement, ascending."""
        size = max(round_half_up(self.params.participation * self.params.num_clients), 1)
        rng = generator(self.params.seed, "active clients", round)
        return np.sort(rng.choice(self.params.num_clients, size, replace=False))

    def level(self, round: int, client: int) -> str:
        """The client's level in this round: always the same under Fix, drawn anew under Dynamic."""
        if self.fixed_levels is not None:
            return self.fixed_levels[client]
        return self.mix.dynamic(generator(self.params.seed, "level", round, client))

    def run_round(
        self, parameters: dict[str, Tensor], round: int, workers: int
    ) -> tuple[dict[str, Tensor], RoundSummary]:
        """One communication round of Algorithm 1.

        Args:
            parameters: W_g before the round.
            round: counted from 1.
            workers: processes that execute the clients; does not change the result.

        Returns:
            W_g after the round, and what happened.
        """
        clients = self.active_clients(round)
        levels = [self.level(round, client) for client in clients]
        indices = [
            static_index(self.axes, width_rate(level) / width_rate(self.mix.largest)) for level in levels
        ]
        tasks = [
            self.client_task(parameters, round, *one) for one in zip(clients, levels, indices, strict=True)
        ]
        answers = run_clients(tasks, workers)
        updates = [
            (
                {**index, LABELS: np.flatnonzero(task.held)},
                {name: torch.from_numpy(value) for name, value in answer.parameters.items()},
            )
            for index, task, answer in zip(indices, tasks, answers, strict=True)
        ]
        summary = RoundSummary(
            levels=levels,
            train_loss=float(np.mean([answer.loss for answer in answers])),
            bytes_down=sum(value.nbytes for task in tasks for value in task.parameters.values()),
            bytes_up=sum(value.nbytes for answer in answers for value in answer.parameters.values()),
            peak_memory_mb={answer.process: answer.peak_memory_mb for answer in answers},
        )
        return aggregate(parameters, self.axes, updates), summary

    def client_task(
        self, parameters: dict[str, Tensor], round: int, client: int, level: str, index: dict[str, np.ndarray]
    ) -> ClientTask:
        """What the server sends to a client, beside what the client has."""
        params, own = self.params, self.partition.train[client]
        local = slice_parameters(parameters, self.axes, index)
        return ClientTask(
            client=int(client),
            round=round,
            seed=params.seed,
            arch=params.arch,
            model_options=self.model_options(level),
            parameters={name: value.numpy() for name, value in local.items()},
            inputs=self.data.train_inputs[own],
            labels=self.data.train_labels[own],
            mean=self.mean,
            deviation=self.deviation,
            held=self.partition.held[client],
            masked_loss=params.masked_loss,
            local_epochs=params.local_epochs,
            batch_size=params.batch_size,
            lr=self.learning_rate(round),
            momentum=params.momentum,
            weight_decay=params.weight_decay,
            clip_norm=params.clip_norm,
        )


def round_half_up(value: float) -> int:
    """To the nearest integer; 2.5 becomes 3."""
    return int(np.floor(value + 0.5))
