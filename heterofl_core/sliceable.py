"""What a network must say about itself so that HeteroFL can slice it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from heterofl_core.errors import InputError
from heterofl_core.selection import Axes, Axis

Layout = Mapping[str, tuple[Axis | None, Axis | None]]
"""For each layer's name the axes of its outputs and of its inputs; None does not shrink."""


class SliceableModel(nn.Module, ABC):
    """A network that declares, as data, along which axes its layers lie."""

    @abstractmethod
    def layout(self) -> Layout:
        """The (output, input) axes of every layer that has parameters."""

    def noise(self, inputs: Tensor, source: torch.Generator) -> tuple[Tensor, ...]:
        """What `forward` takes in training beside a batch of inputs: the draws of dropout, if it has any."""
        return ()

    def axes(self) -> Axes:
        """The axes of every tensor in `state_dict()`.

        Biases, and the elements and running estimates of norms, lie on the output axis; further
        dimensions of a weight (a convolution's kernel) are held whole.

        Raises:
            InputError: the layout leaves out a tensor or names a layer that is not there, or an axis has
                another size than the dimension along it.
        """
        model, layers = type(self).__name__, dict(self.named_modules())
        for layer in self.layout():
            if layer not in layers:
                raise InputError(f"the layout of {model} has an entry for {layer!r}, and no such layer")
        axes: dict[str, tuple[Axis | None, ...]] = {
            f"{layer}.{name}": (*axes, None, None)[: value.dim()]
            for layer, axes in self.layout().items()
            for name, value in layers[layer].state_dict().items()
        }
        for name, value in self.state_dict().items():
            if name not in axes:
                raise InputError(f"the layout of {model} has no entry for the layer of {name!r}")
            for dimension, (size, axis) in enumerate(zip(value.shape, axes[name], strict=True)):
                if axis and axis.size != size:
                    raise InputError(
                        f"the layout of {model} puts dimension {dimension} of {name!r}, which has {size} "
                        f"coordinates, on the axis {axis.name!r}, which has {axis.size}"
                    )
        return axes
