"""What a federation asks of a network, somebody's own above all.

Nothing here changes a result: it raises, or does nothing.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from heterofl_core.errors import InputError
from heterofl_core.models import build_model
from heterofl_core.params import RunParams
from heterofl_core.selection import LABELS
from heterofl_core.sliceable import SliceableModel


def check_model(params: RunParams, example: Tensor, options: Mapping[str, Any]) -> None:
    """Builds a network without values, and passes an example through it without computing anything.

    Args:
        params: of the run.
        example: what the network takes, without values (on the meta device).
        options: for `build_model`, as a client's model gets them.

    Raises:
        InputError: the class does not take the options; its layout is not that of its layers; two layers
            share a tensor; the labels are to be kept apart, and no axis is theirs; or it does not make a
            score for each label from such an example.
    """
    model = built(params.arch, options)
    axes = {axis.name for of_tensor in model.axes().values() for axis in of_tensor if axis}
    if params.label_restricted and LABELS not in axes:
        raise InputError(
            f"label_restricted True needs an axis named {LABELS!r} in the layout of arch {params.arch!r}, "
            f"which has {', '.join(sorted(axes)) or 'none'}; allowed without it is False"
        )
    check_tensors(params.arch, model)
    check_scores(params, model, example, options)


def built(arch: str, options: Mapping[str, Any]) -> SliceableModel:
    """The network without values."""
    try:
        with torch.device("meta"):
            return build_model(arch, **options)
    except TypeError as error:
        raise InputError(
            f"arch {arch!r} cannot be built ({error}); it must take the options {', '.join(options)}"
        ) from error


def check_tensors(arch: str, model: SliceableModel) -> None:
    """Each parameter travels by its own name, so none may stand for two layers."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    twice = sorted(names - {name for name, _ in model.named_parameters()})
    if twice:
        raise InputError(
            f"arch {arch!r} uses the tensor of {twice[0]!r} in another layer, too; each layer needs its own"
        )


def check_scores(
    params: RunParams, model: SliceableModel, example: Tensor, options: Mapping[str, Any]
) -> None:
    """The network takes examples of the data's size, and gives images a score for each label."""
    shape = tuple(example.shape[1:])
    try:
        scores = model(example)
    except Exception as error:  # whatever it is, it comes from the network's own code
        raise InputError(
            f"arch {params.arch!r} with norm {params.norm!r} cannot take examples of shape {shape} "
            f"({error}); give larger ones, or another arch or norm"
        ) from error
    expected = (1, options["num_labels"]) if "num_labels" in options else scores.shape
    if tuple(scores.shape) != tuple(expected):
        raise InputError(
            f"arch {params.arch!r} makes scores of shape {tuple(scores.shape)} from one example; needed are "
            f"{tuple(expected)}, one for each label"
        )
