"""What travels between server and client: parameters and settings, never examples, never pickles."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from heterofl_core.clients import Arrays, ClientTask, ClientUpdate, ModelCopy
from heterofl_core.errors import InputError
from heterofl_core.heterofl import Parameters, slice_parameters
from heterofl_core.selection import LABELS, Axes, Index
from heterofl_core.tasks import ClientShare

SETTINGS = (
    "client",
    "round",
    "seed",
    "masked_loss",
    "local_epochs",
    "batch_size",
    "lr",
    "momentum",
    "weight_decay",
    "clip_norm",
    "precision",
)
"""The fields of a `ClientTask` that the server decides. The others are the model, and what the client has."""


@dataclass(frozen=True)
class Answer:
    """A client's update as the server accepts it.

    Attributes:
        held: the labels whose rows the client sends; None for all.
        parameters: by name, in the shapes of what the client holds.
        loss: its mean training loss, in nats.
        claimed: the level that the client says it has; nothing follows from it.
    """

    held: np.ndarray | None
    parameters: dict[str, Tensor]
    loss: float
    claimed: str


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Parameters for the way: NumPy's own format, written and read without pickle."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """Parameters as they arrived."""
    return {name: value.numpy() for name, value in record.items()}


def to_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """The same, for the core."""
    return {name: torch.tensor(value) for name, value in arrays.items()}


def pack_task(task: ClientTask, num_clients: int) -> RecordDict:
    """What the server sends: a sub-model and settings. The task's examples stay behind."""
    build: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in task.model.options.items()
    }
    return RecordDict(
        {
            "parameters": to_record(task.model.parameters),
            "build": ConfigRecord({"arch": task.model.arch} | build),
            "settings": ConfigRecord({name: getattr(task, name) for name in SETTINGS}),
            "federation": ConfigRecord({"num_clients": num_clients}),
        }
    )


def unpack_task(content: RecordDict, share: ClientShare) -> ClientTask:
    """The client's task: what it received, and what it has.

    Args:
        content: that `pack_task` made.
        share: the client's own data.
    """
    build: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.config_records["build"].items()
    }
    arch = build.pop("arch")
    settings: dict[str, Any] = dict(content.config_records["settings"])
    return ClientTask(
        **settings,
        model=ModelCopy(arch, build, from_record(content.array_records["parameters"])),
        examples=share.examples,
        held=share.held,
        left_out=share.left_out,
        upload=share.upload,
    )


def pack_update(task: ClientTask, update: ClientUpdate, claimed: str) -> RecordDict:
    """What the client sends back. Its labels go along where it sends their rows only."""
    report: dict[str, Any] = {"loss": update.loss, "level": claimed}
    if LABELS in task.upload:
        report["held"] = task.upload[LABELS].tolist()
    return RecordDict({"parameters": to_record(update.parameters), "report": ConfigRecord(report)})


def unpack_update(content: RecordDict, weights: Parameters, axes: Axes, index: Index) -> Answer:
    """Reads an answer, and believes nothing of it that can be checked.

    An array of the wrong shape might be stretched to fit when it is added, and a single NaN would spread to
    all clients.

    Args:
        content: from the client.
        weights, axes: of the global model.
        index: what the server gave this client to hold.

    Raises:
        InputError: names, shapes, numbers or labels are not those of the sub-model that was sent.
    """
    try:
        parameters = to_tensors(from_record(content.array_records["parameters"]))
        report: Any = content.config_records["report"]
        held = np.array(report["held"], dtype=np.int64) if "held" in report else None
        loss, claimed = float(report["loss"]), str(report.get("level", ""))
    except Exception as error:  # for bytes that are no array, NumPy alone has half a dozen kinds
        raise InputError(f"its parts are missing or cannot be read ({error!r})") from error
    if not math.isfinite(loss):
        raise InputError(f"loss {loss} is not finite")
    if held is not None:
        check_labels(held, axes)
    expected = slice_parameters(weights, axes, index if held is None else {**index, LABELS: held})
    if parameters.keys() != expected.keys():
        odd = sorted(parameters.keys() ^ expected.keys())
        raise InputError(f"parameters are missing, or there are others: {', '.join(odd)}")
    for name, value in parameters.items():
        if (value.shape, value.dtype) != (expected[name].shape, expected[name].dtype):
            raise InputError(
                f"{name} is {value.dtype} of shape {tuple(value.shape)}; its sub-model has "
                f"{expected[name].dtype} of shape {tuple(expected[name].shape)}"
            )
        if not value.isfinite().all():
            raise InputError(f"{name} has numbers that are not finite")
    return Answer(held, parameters, loss, claimed)


def check_labels(held: np.ndarray, axes: Axes) -> None:
    """Raises an `InputError` unless these are labels of the classifier, each once and in order."""
    size = next(
        axis.size for parameter in axes.values() for axis in parameter if axis and axis.name == LABELS
    )
    if held.ndim != 1 or (np.diff(held, prepend=-1) < 1).any() or (held >= size).any():
        raise InputError(f"labels {held.tolist()} are not some of 0 to {size - 1}, each once and in order")
