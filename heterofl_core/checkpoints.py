"""The state of a run between two rounds, on disk: all that an exact continuation needs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from heterofl_core.errors import InputError
from heterofl_core.federation import Weights
from heterofl_core.files import atomic
from heterofl_core.provenance import code_hash
from heterofl_core.records import START_ANEW, read_progress


@dataclass
class RunState:
    """A run after some of its rounds. Draws are keyed by round, so nothing random needs keeping.

    Attributes:
        weights: what was learned.
        round: rounds done.
        rows: what `rounds.csv` will hold of them.
        bytes_down, bytes_up: sent to clients and back so far.
        training_seconds, evaluation_seconds: spent so far, over all sittings.
        peak_memory_mb: the most that this process and its workers held together.
        origin: what the rounds so far were made with: versions, engine, device, somebody's own files.
        machines: names of the processors or GPUs that made them, in the order of the sittings.
    """

    weights: Weights
    round: int
    rows: list[dict[str, Any]]
    bytes_down: int = 0
    bytes_up: int = 0
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    origin: dict[str, Any] = field(default_factory=dict)
    machines: list[str] = field(default_factory=list)


def save_checkpoint(path: Path, state: RunState) -> None:
    """Writes the state atomically: tensors, with the rest as JSON in the same file's header.

    Raises:
        InputError: it cannot be written.
    """
    progress = {name: value for name, value in vars(state).items() if name != "weights"}
    tensors = flatten(state.weights)
    # The file sorts its tensors, but sums over them, and compiled programs, depend on their order.
    progress["order"] = list(tensors)
    header = {"progress": json.dumps(progress), "code_hash": code_hash()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:  # hides the system's own error
            raise InputError(f"cannot write {path}: {error}; what was saved before still stands") from error


def load_checkpoint(path: Path) -> RunState:
    """Reads a state.

    Raises:
        InputError: the file is damaged, or other code wrote it: continuing would mix two programs in
            one result.
    """
    progress = read_progress(path)
    writer = progress.pop("code_hash")
    if writer != code_hash():
        raise InputError(f"checkpoint {path} was written by other code ({writer}); {START_ANEW}")
    try:
        order, tensors = progress.pop("order"), load_file(path)
        return RunState(unflatten({key: tensors[key] for key in order}), **progress)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"checkpoint {path} is damaged ({error}); {START_ANEW}") from error


def flatten(weights: Weights) -> dict[str, Tensor]:
    """All tensors under one roof: shared/NAME, and CLIENT/NAME for what belongs to a client."""
    parts = {"shared": weights.shared} | {str(client): own for client, own in weights.personal.items()}
    return {f"{part}/{name}": value for part, tensors in parts.items() for name, value in tensors.items()}


def unflatten(tensors: Mapping[str, Tensor]) -> Weights:
    """What `flatten` was given."""
    weights = Weights(shared={})
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        own = weights.shared if part == "shared" else weights.personal.setdefault(int(part), {})
        own[name] = value
    return weights
