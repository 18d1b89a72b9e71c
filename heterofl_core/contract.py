"""What a federation asks of a network, somebody's own above all.

Nothing here changes a result: it raises, or does nothing.
"""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from heterofl_core.errors import InputError
from heterofl_core.models import build_model
from heterofl_core.params import RunParams
from heterofl_core.selection import LABELS, Axes, Index, static_index
from heterofl_core.sliceable import SliceableModel


def check_model(params: RunParams, example: Tensor, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Builds the networks of a mix without values, and passes an example through each; nothing is computed.

    Args:
        params: of the run.
        example: what a network takes, without values (on the meta device).
        options: for `build_model`, as a client's model gets them, by level, the largest first.

    Raises:
        InputError: the class does not take the options; its layout is not that of its layers; two layers
            share a tensor; a buffer or a draw of it would not travel; the labels are to be kept apart, and no
            axis is theirs; it does not make a score for each label from such an example; or a level's slice
            of the largest network does not fit the network of that level.
    """
    models = {level: built(params.arch, own) for level, own in options.items()}
    largest = next(iter(models))
    axes = axes_of(params.arch, models[largest])
    check_axes(params, axes)
    for level, model in models.items():
        axes_of(params.arch, model)
        check_layers(params.arch, model)
        check_scores(params, model, example, options[level])
        relative = options[level]["width_rate"] / options[largest]["width_rate"]
        check_slice(params.arch, models[largest], axes, static_index(axes, relative), level, model)


@contextmanager
def in_a_sentence(before: str, behind: str = "") -> Iterator[None]:
    """Whatever the network's own code raises becomes an `InputError` that says what could not be done."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{before} ({error!r}){behind}") from error


def built(arch: str, options: Mapping[str, Any]) -> SliceableModel:
    """The network without values."""
    needed = f"; it must take the options {', '.join(options)}"
    with in_a_sentence(f"arch {arch!r} cannot be built", needed), torch.device("meta"):
        return build_model(arch, **options)


def axes_of(arch: str, model: SliceableModel) -> Axes:
    """The network's axes."""
    with in_a_sentence(f"the layout of arch {arch!r} cannot be read"):
        return model.axes()


def check_axes(params: RunParams, axes: Axes) -> None:
    """An axis has one size, and the labels an axis if they are to be kept apart."""
    sizes: dict[str, int] = {}
    for axis in filter(None, itertools.chain.from_iterable(axes.values())):
        if sizes.setdefault(axis.name, axis.size) != axis.size:
            raise InputError(
                f"the layout of arch {params.arch!r} has an axis {axis.name!r} of {sizes[axis.name]} "
                f"coordinates and one of {axis.size}; each axis needs a name of its own"
            )
    if params.label_restricted and LABELS not in sizes:
        raise InputError(
            f"label_restricted True needs an axis named {LABELS!r} in the layout of arch {params.arch!r}, "
            f"which has {', '.join(sorted(sizes)) or 'none'}; allowed without it is False"
        )


def check_layers(arch: str, model: SliceableModel) -> None:
    """What a layer holds travels by its own name, and what it draws depends on the client."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    twice = sorted(names - {name for name, _ in model.named_parameters()})
    if twice:
        raise InputError(
            f"arch {arch!r} uses the tensor of {twice[0]!r} in another layer, too; each layer needs its own"
        )
    left = sorted({name for name, _ in model.named_buffers()} - set(model.state_dict()))
    if left:
        raise InputError(
            f"arch {arch!r} has a buffer {left[0]!r} that no state_dict holds, so it would not travel; "
            "register it with persistent=True, or compute it in `forward`"
        )
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise InputError(
                f"arch {arch!r} has a layer {name!r} of type {type(layer).__name__}, which would draw the "
                "same for all clients; draw in `SliceableModel.noise`, as the Transformer does"
            )


def check_slice(
    arch: str, whole: SliceableModel, axes: Axes, index: Index, level: str, model: SliceableModel
) -> None:
    """The part of the largest network that a level holds has the shapes of the level's network."""
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, value in whole.state_dict().items():
        part = tuple(
            len(index[axis.name]) if axis and axis.name in index else size
            for axis, size in zip(axes[name], value.shape, strict=True)
        )
        if own.get(name) != part:
            raise InputError(
                f"arch {arch!r} has at level {level} a tensor {name!r} of shape {own.get(name)}, and the "
                f"slice of the largest network has {part}; each width that shrinks needs an axis in the "
                "layout, and is rounded up, as `scaled_width` does"
            )


def check_scores(
    params: RunParams, model: SliceableModel, example: Tensor, options: Mapping[str, Any]
) -> None:
    """The network takes examples of the data's size, and gives images a score for each label."""
    what = f"arch {params.arch!r} with norm {params.norm!r}"
    shape = tuple(example.shape[1:])
    with in_a_sentence(
        f"{what} cannot take examples of shape {shape}", "; give larger ones, or another arch or norm"
    ):
        scores = model(example)
    if not isinstance(scores, Tensor):
        raise InputError(
            f"arch {params.arch!r} makes a {type(scores).__name__} from one example; needed is a tensor"
        )
    expected = (1, options["num_labels"]) if "num_labels" in options else scores.shape
    if tuple(scores.shape) != tuple(expected):
        raise InputError(
            f"arch {params.arch!r} makes scores of shape {tuple(scores.shape)} from one example; needed are "
            f"{tuple(expected)}, one for each label"
        )
