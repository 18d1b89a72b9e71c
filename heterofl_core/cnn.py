"""The paper's CNN for MNIST (Table 4)."""

from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.layers import Scaler, norm_layer
from heterofl_core.selection import LABELS, Axis, scaled_width
from heterofl_core.sliceable import Layout, SliceableModel

HIDDEN_SIZES = (64, 128, 256, 512)


class ConvolutionBlock(nn.Module):
    """A 3×3 convolution with bias, then Equation (4): φ(norm(Scaler(·))), φ being ReLU.

    Args:
        in_channels, out_channels: of the convolution.
        norm: see `layers.norm_layer`.
        scale: see `layers.Scaler`.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, scale: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scaler = Scaler(scale)
        self.norm = norm_layer(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H, W)."""
        return F.relu(self.norm(self.scaler(self.convolution(x))))


class CNN(SliceableModel):
    """Four convolution blocks with 2×2 max-pooling between them, global average pooling, one linear
    layer.

    Args:
        width_rate: share of the full hidden widths 64, 128, 256, 512.
        norm: see `layers.norm_layer`.
        scale: of the Scaler; 1 turns it off.
        input_shape: of an image, (channels, height, width).
        num_labels: of the data.
    """

    def __init__(
        self,
        width_rate: float = 1.0,
        norm: str = "sbn",
        scale: float = 1.0,
        input_shape: tuple[int, ...] = (1, 28, 28),
        num_labels: int = 10,
    ) -> None:
        super().__init__()
        self.widths = [scaled_width(size, width_rate) for size in HIDDEN_SIZES]
        self.blocks = nn.ModuleList(
            ConvolutionBlock(before, after, norm, scale)
            for before, after in zip([input_shape[0], *self.widths], self.widths, strict=False)
        )
        self.linear = nn.Linear(self.widths[-1], num_labels)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, num_labels) for images of shape (B, channels, H, W)."""
        *first, last = self.blocks
        for block in first:
            x = F.max_pool2d(block(x), 2)  # halves H and W
        x = last(x).mean(dim=(2, 3))  # (B, width), the global average pool
        return self.linear(x)

    def layout(self) -> Layout:
        """One axis for the outputs of each block: the next block's inputs lie on the same one."""
        layout: dict[str, tuple[Axis | None, Axis | None]] = {}
        before = None
        for number, width in enumerate(self.widths):
            axis = Axis(f"block{number}", width)
            layout[f"blocks.{number}.convolution"] = (axis, before)
            layout[f"blocks.{number}.norm"] = (axis, None)
            before = axis
        layout["linear"] = (Axis(LABELS, self.linear.out_features, shrinks=False), before)
        return layout
