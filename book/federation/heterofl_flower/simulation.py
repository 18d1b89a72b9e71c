"""The same run without any network: what the federation must agree with."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from heterofl_core.federation import Federation, Weights
from heterofl_core.params import RunParams


class WithParticipants(Federation):
    """The core's federation, in which given clients take part in each round.

    Args:
        params: of the run.
        participants: the clients of each round, ascending.
    """

    def __init__(self, params: RunParams, participants: list[list[int]]) -> None:
        super().__init__(params)
        self.participants = participants

    def active_clients(self, round: int) -> list[int]:
        """Those who took part."""
        return self.participants[round - 1]


def simulate(params: RunParams, participants: list[list[int]]) -> Weights:
    """The weights after these rounds; one in which nobody took part changes nothing."""
    federation = WithParticipants(params, participants)
    weights = federation.initial_weights()
    for number, clients in enumerate(participants, start=1):
        if clients:
            weights, _ = federation.run_round(weights, number, workers=1)
    return weights


def read_result(path: Path) -> tuple[dict[str, Tensor], RunParams, list[list[int]]]:
    """The global parameters that the server wrote, the run's parameters, and who took part in each round."""
    with safe_open(path, framework="pt") as file:
        header: dict[str, Any] = file.metadata()
    return load_file(path), RunParams(**json.loads(header["params"])), json.loads(header["participants"])


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Over all parameters."""
    assert one.keys() == other.keys()
    return max(float(torch.abs(one[name].double() - other[name].double()).max()) for name in one)
