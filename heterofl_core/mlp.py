"""The multilayer perceptron of the paper's baselines (Liang et al., 2020)."""

import itertools
import math

from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.errors import InputError
from heterofl_core.layers import Scaler
from heterofl_core.selection import LABELS, Axis, scaled_width
from heterofl_core.sliceable import Layout, SliceableModel

HIDDEN_SIZES = (512, 256, 256, 128)


class MLP(SliceableModel):
    """Five linear layers, with Scaler and ReLU between them.

    Args:
        width_rate: share of the full hidden widths 512, 256, 256, 128.
        norm: `none`; the baselines have no norm.
        scale: of the Scaler; 1 turns it off.
        input_shape: of an image, (channels, height, width).
        num_labels: of the data.

    Raises:
        InputError: another norm.
    """

    def __init__(
        self,
        width_rate: float = 1.0,
        norm: str = "none",
        scale: float = 1.0,
        input_shape: tuple[int, ...] = (1, 28, 28),
        num_labels: int = 10,
    ) -> None:
        super().__init__()
        if norm != "none":
            raise InputError(f"norm {norm!r} is not possible with arch 'mlp'; allowed is none")
        self.scaler = Scaler(scale)
        self.widths = [scaled_width(size, width_rate) for size in HIDDEN_SIZES]
        self.num_labels = num_labels
        sizes = [math.prod(input_shape), *self.widths, num_labels]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, num_labels) for images of any shape (B, ...)."""
        *hidden, last = self.layers
        x = x.flatten(1)  # (B, pixels)
        for layer in hidden:
            x = F.relu(self.scaler(layer(x)))
        return last(x)

    def layout(self) -> Layout:
        """One axis for the outputs of each layer."""
        layout: dict[str, tuple[Axis | None, Axis | None]] = {}
        before = None
        for number, width in enumerate(self.widths):
            axis = Axis(f"layer{number}", width)
            layout[f"layers.{number}"] = (axis, before)
            before = axis
        layout[f"layers.{len(self.widths)}"] = (Axis(LABELS, self.num_labels, shrinks=False), before)
        return layout
