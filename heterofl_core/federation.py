"""Algorithm 1: sample clients, slice, update, aggregate, round after round."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterofl_core.classification import Classification
from heterofl_core.clients import ClientTask, ClientUpdate, ModelCopy
from heterofl_core.contract import check_model
from heterofl_core.cost import Cost, mix_cost, model_cost
from heterofl_core.engines import PLAIN, Engine
from heterofl_core.errors import InputError
from heterofl_core.heterofl import aggregate, slice_parameters
from heterofl_core.language import LanguageModelling
from heterofl_core.levels import Mix, width_rate
from heterofl_core.methods import shared_parameters
from heterofl_core.models import build_model
from heterofl_core.own import fingerprints
from heterofl_core.params import RunParams
from heterofl_core.personal import evaluate_personal
from heterofl_core.randomness import generator, torch_seed
from heterofl_core.selection import Index, random_index, rolling_index, static_index
from heterofl_core.sliceable import SliceableModel
from heterofl_core.tasks import ClientShare, Task

DECAY = 0.1  # of the learning rate at each milestone (Table 4)


@dataclass
class Weights:
    """All that a federation learns.

    Attributes:
        shared: the global parameters W_g.
        personal: for each client that trained, its own parameters; empty unless the method keeps some.
    """

    shared: dict[str, Tensor]
    personal: dict[int, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundSummary:
    """What happened in one round.

    Attributes:
        levels: of the active clients.
        train_loss: mean over the clients of their mean local loss, in nats.
        bytes_down, bytes_up: of all shared parameters sent to the clients, and back.
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
        own: digests of somebody's own files, as they are when they are read; see `own.fingerprints`.
        task: the data, who holds which, and how a model of it is judged.
        axes: of the global model, whose level is the largest of the mix.
        shared: names of the parameters that the server averages.

    Raises:
        InputError: the data cannot be had or shared among the clients, the model is not for such data or not
            one that can be sliced (`contract`), or no client has one of the levels.
    """

    def __init__(self, params: RunParams) -> None:
        self.params = params
        self.own = fingerprints(params.dataset, params.arch)
        self.task: Task = (
            LanguageModelling(params) if params.dataset == "wikitext2" else Classification(params)
        )
        self.mix = Mix.parse(params.levels)
        self.fixed_levels = self.assign_levels()
        options = {level: self.model_options(level, self.task.sizes) for level in self.mix.levels}
        check_model(params, self.task.example, options)
        model = self.global_model()
        self.axes = model.axes()
        self.shared = shared_parameters(params.method, model, params.shared_layers)

    def assign_levels(self) -> list[str] | None:
        """Each client's level if it stays the same over the rounds, else None."""
        match self.params.assignment:
            case "fix":
                return self.mix.fix(self.params.num_clients)
            case "uniform":
                return self.uniform_levels()
            case "trace":
                return list(self.params.trace or "")
        return None

    def uniform_levels(self) -> list[str]:
        """Each client's level, drawn once; as in a trace, each level of the mix is somebody's."""
        seed = self.params.seed
        levels = self.mix.uniform(self.params.num_clients, generator(seed, "uniform levels"))
        for level in self.mix.levels:
            if level not in levels:
                raise InputError(
                    f"seed {seed} gives none of {len(levels)} clients level {level} of levels "
                    f"{self.params.levels!r} under assignment 'uniform'; give another seed or more clients"
                )
        return levels

    def model_options(self, level: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Options of `build_model` for a client of this level; the global model's are the largest's.

        Args:
            sizes: those that follow from the client's data; see `ClientShare`.
        """
        blocks = {"blocks": self.params.blocks} if self.params.blocks else {}
        return {
            "width_rate": width_rate(level),
            "norm": self.params.norm,
            "scale": self.relative_width(level) if self.params.scaler else 1.0,
            **sizes,
            **blocks,
        }

    def mean_cost(self) -> Cost:
        """What a client computes and holds on average, with all labels."""
        mix = self.mix
        if self.fixed_levels is not None:  # the shares that came out, which may differ from those asked for
            mix = Mix(mix.levels, tuple(self.fixed_levels.count(level) for level in mix.levels))
        return mix_cost(
            mix,
            lambda level: model_cost(
                self.params.arch, self.task.example, **self.model_options(level, self.task.sizes)
            ),
        )

    def relative_width(self, level: str) -> float:
        """Width rate of a level relative to the global model's."""
        return width_rate(level) / width_rate(self.mix.largest)

    def global_model(self) -> SliceableModel:
        """A new global model with the run's initial parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.params.seed, "initialisation"))
            return build_model(self.params.arch, **self.model_options(self.mix.largest, self.task.sizes))

    def initial_weights(self) -> Weights:
        """The weights before the first round; personal ones start as the global ones."""
        return Weights(shared=self.global_model().state_dict())

    def learning_rate(self, round: int) -> float:
        """η of a round, counted from 1: decayed after each milestone."""
        passed = sum(round > milestone for milestone in self.params.milestones)
        return self.params.lr * DECAY**passed

    def active_clients(self, round: int) -> list[int]:
        """S_t: a random set of M_t clients, without replacement, ascending."""
        rng = generator(self.params.seed, "active clients", round)
        return sorted(rng.choice(self.params.num_clients, self.params.num_active, replace=False).tolist())

    def level(self, round: int, client: int) -> str:
        """The client's level in this round: always the same, or drawn anew under Dynamic."""
        if self.fixed_levels is not None:
            return self.fixed_levels[client]
        return self.mix.dynamic(generator(self.params.seed, "level", round, client))

    def sub_model(self, round: int, client: int, level: str) -> dict[str, np.ndarray]:
        """The coordinates of the hidden axes that the client holds in this round."""
        rate = self.relative_width(level)
        match self.params.selection:
            case "random":
                return random_index(self.axes, rate, generator(self.params.seed, "sub-model", round, client))
            case "rolling":
                return rolling_index(self.axes, rate, round)
        return static_index(self.axes, rate)

    def run_round(
        self, weights: Weights, round: int, workers: int, engine: Engine = PLAIN
    ) -> tuple[Weights, RoundSummary]:
        """One communication round of Algorithm 1.

        Args:
            weights: before the round.
            round: counted from 1.
            workers: processes that execute the clients; does not change the result.
            engine: that executes the clients.

        Returns:
            The weights after the round, and what happened.
        """
        clients = self.active_clients(round)
        levels = {client: self.level(round, client) for client in clients}
        shares = {client: self.task.share(client) for client in clients}
        indices = {client: self.sub_model(round, client, levels[client]) for client in clients}
        tasks = self.with_common_copies(
            self.client_task(
                weights, round, client, levels[client], shares[client], indices[client], engine.device
            )
            for client in clients
        )
        personal: dict[int, dict[str, Tensor]] = {}
        losses, bytes_up, memory = [], 0, {}

        def received() -> Iterator[tuple[Index, dict[str, Tensor]]]:
            nonlocal bytes_up
            for answer in engine.updates(tasks, workers):
                losses.append(answer.loss)
                memory[answer.process] = answer.peak_memory_mb
                sent = self.part(answer, shared=True)
                bytes_up += sum(value.nbytes for value in sent.values())
                if own := self.part(answer, shared=False):
                    personal[answer.client] = own
                yield {**indices[answer.client], **shares[answer.client].upload}, sent

        shared = aggregate(weights.shared, self.axes, received())
        return Weights(shared, weights.personal | personal), RoundSummary(
            levels=list(levels.values()),
            train_loss=float(np.mean(losses)),
            bytes_down=sum(
                value.nbytes
                for task in tasks
                for name, value in task.model.parameters.items()
                if name in self.shared
            ),
            bytes_up=bytes_up,
            peak_memory_mb=memory,
        )

    def with_common_copies(self, tasks: Iterable[ClientTask]) -> list[ClientTask]:
        """The same tasks; clients that receive the same, as all of a level often do, hold one copy of it."""
        if self.params.selection != "static" or self.shared != set(self.axes) or self.task.partial:
            return list(tasks)
        copies: dict[str, ModelCopy] = {}
        return [replace(task, model=copies.setdefault(str(task.model.options), task.model)) for task in tasks]

    def client_task(
        self,
        weights: Weights,
        round: int,
        client: int,
        level: str,
        share: ClientShare,
        index: dict[str, np.ndarray],
        device: str = "cpu",
    ) -> ClientTask:
        """What the server sends to a client, beside what the client has."""
        params = self.params
        whole = weights.shared | weights.personal.get(client, {})
        local = slice_parameters(whole, self.axes, {**index, **share.download})
        return ClientTask(
            client=client,
            round=round,
            seed=params.seed,
            model=self.copy(local, level, share.sizes, device),
            examples=share.examples,
            held=share.held,
            left_out=share.left_out,
            upload={
                axis: np.searchsorted(share.download[axis], rows) if axis in share.download else rows
                for axis, rows in share.upload.items()
            },
            masked_loss=params.masked_loss,
            local_epochs=params.local_epochs,
            batch_size=params.batch_size,
            lr=self.learning_rate(round),
            momentum=params.momentum,
            weight_decay=params.weight_decay,
            clip_norm=params.clip_norm,
            precision=params.precision,
        )

    def copy(
        self, parameters: Mapping[str, Tensor], level: str, sizes: Mapping[str, Any], device: str
    ) -> ModelCopy:
        """A model of a level that holds these parameters."""
        arrays = {name: value.numpy() for name, value in parameters.items()}
        return ModelCopy(self.params.arch, self.model_options(level, sizes), arrays, device)

    def part(self, answer: ClientUpdate, shared: bool) -> dict[str, Tensor]:
        """The shared parameters of an answer, or the personal ones."""
        return {
            name: torch.tensor(value)
            for name, value in answer.parameters.items()
            if (name in self.shared) == shared
        }

    def evaluate(self, weights: Weights, workers: int, engine: Engine = PLAIN) -> dict[str, float]:
        """The metrics of what was learned: of the global model, or of the clients' own models."""
        if self.shared == set(weights.shared):
            return self.task.evaluate(self.whole_model(weights.shared, engine), workers)
        assert isinstance(self.task, Classification)  # the parameters allow no other
        return evaluate_personal(self.task, self.personal_models(weights, engine), workers)

    def whole_model(self, parameters: Mapping[str, Tensor], engine: Engine = PLAIN) -> ModelCopy:
        """A model of the largest level that holds these parameters."""
        return self.copy(parameters, self.mix.largest, self.task.sizes, engine.device)

    def personal_models(self, weights: Weights, engine: Engine = PLAIN) -> dict[int, ModelCopy]:
        """Each client's own model, by client; who never trained has the first weights."""
        return {
            client: self.whole_model(weights.shared | weights.personal.get(client, {}), engine)
            for client in range(self.params.num_clients)
        }

    def evaluate_sub_models(
        self, weights: Weights, workers: int, engine: Engine = PLAIN
    ) -> dict[str, dict[str, float]]:
        """The metrics of what a client of each level would use: its slice of the global model, judged as that
        is, with sBN statistics of its own.

        Returns:
            By level, without the largest of the mix, whose model is the global one. Empty for selections that
            leave a level no slice of its own.
        """
        if self.params.selection != "static":
            return {}
        found = {}
        for level in self.mix.levels[1:]:
            index = static_index(self.axes, self.relative_width(level))
            model = self.copy(
                slice_parameters(weights.shared, self.axes, index), level, self.task.sizes, engine.device
            )
            # As the global model is judged: without the Scaler, which would distort sBN's statistics.
            unscaled = replace(model, options=model.options | {"scale": 1.0})
            found[level] = self.task.evaluate(unscaled, workers)
        return found
