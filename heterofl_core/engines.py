"""Who executes the clients of a round: the plain loop, or its fast twin; on which device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from heterofl_core.clients import ClientTask, ClientUpdate, client_update
from heterofl_core.compiled import compiler
from heterofl_core.errors import InputError
from heterofl_core.estimate import work_of
from heterofl_core.executor import as_they_come
from heterofl_core.levels import Mix
from heterofl_core.own import is_own_model
from heterofl_core.params import Execution, RunParams
from heterofl_core.vectorised import fast_updates

PAYS = 20_000
"""Local steps of a level after which a program has paid for being built, with one or two milliseconds saved
in each."""


@dataclass(frozen=True)
class Engine:
    """Who executes clients, and where.

    Attributes:
        name: `plain` or `compiled`.
        device: `cpu` or `cuda`.
    """

    name: str
    device: str

    def processes(self, workers: int) -> int:
        """How many of the workers execute anything: with a GPU this process alone, which has it."""
        return 1 if self.device == "cuda" else workers

    def updates(self, tasks: Sequence[ClientTask], workers: int) -> Iterator[ClientUpdate]:
        """What the clients of a round send back, in an order that does not depend on the workers."""
        if self.name == "plain":
            return as_they_come(client_update, tasks, workers)
        return fast_updates(tasks, workers)


PLAIN = Engine("plain", "cpu")
"""The definition."""


def engine_of(params: RunParams, execution: Execution) -> Engine:
    """The engine that executes a run.

    Ordinary batch normalisation changes its running estimates in place, which only the plain loop does; and a
    program of somebody's own model would outlive a change of its code.

    Raises:
        InputError: this machine has no such device or no compiler, the device does not have the precision, or
            the run cannot be compiled.
    """
    name, device = execution.engine, execution.device
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not on this machine; allowed here is cpu")
    if device == "cpu" and params.precision == "tf32":
        raise InputError("precision 'tf32' needs device cuda; on device 'cpu' fp32 and bf16 are allowed")
    hindrances = {
        "norm 'bn'": params.norm == "bn",
        f"arch {params.arch!r}": is_own_model(params.arch),
        "a machine without a C++ compiler (g++ or clang++)": device == "cpu" and compiler() is None,
    }
    possible = not any(hindrances.values())
    if name == "compiled" and not possible:
        why = next(why for why, is_so in hindrances.items() if is_so)
        raise InputError(f"engine 'compiled' is not possible with {why}; allowed are auto, plain")
    if name == "auto":
        enough = work_of(params).steps >= PAYS * len(Mix.parse(params.levels).levels)
        name = "compiled" if possible and (enough or device == "cuda") else "plain"
    return Engine(name, device)
