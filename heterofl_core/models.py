"""The architectures by name."""

import importlib
from typing import Any

from heterofl_core.cnn import CNN
from heterofl_core.errors import InputError
from heterofl_core.mlp import MLP
from heterofl_core.own import is_own_model
from heterofl_core.preresnet import PreResNet
from heterofl_core.sliceable import SliceableModel
from heterofl_core.transformer import Transformer

ARCHITECTURES: dict[str, type[SliceableModel]] = {
    "cnn": CNN,
    "preresnet18": PreResNet,
    "transformer": Transformer,
    "mlp": MLP,
}


def build_model(arch: str, width_rate: float = 1.0, **options: Any) -> SliceableModel:
    """Builds a network whose hidden widths are `width_rate` of the full ones.

    Args:
        arch: a name in `ARCHITECTURES`, or `MODULE:CLASS`.
        width_rate: in (0, 1]; 1, 1/2, 1/4, 1/8, 1/16 for levels a to e.
        options: of the architecture's class, such as `norm`, `scale`, `num_labels`.

    Raises:
        InputError: `arch` is unknown or `width_rate` is outside (0, 1].
    """
    if not 0 < width_rate <= 1:
        raise InputError(f"width_rate {width_rate} is not allowed; it must be in (0, 1]")
    return model_class(arch)(width_rate=width_rate, **options)


def model_class(arch: str) -> type[SliceableModel]:
    """The class of an architecture.

    Raises:
        InputError: `arch` is unknown, or is no `SliceableModel` that can be imported.
    """
    if arch in ARCHITECTURES:
        return ARCHITECTURES[arch]
    if not is_own_model(arch):
        raise InputError(
            f"arch {arch!r} is unknown; allowed are {', '.join(ARCHITECTURES)}, and MODULE:CLASS for your own"
        )
    module, _, name = arch.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"arch {arch!r} cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, SliceableModel)):
        raise InputError(f"arch {arch!r} is not a class that extends SliceableModel")
    return found
