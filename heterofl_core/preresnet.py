"""The paper's pre-activation ResNet for CIFAR10 (He et al., 2016; Table 4)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.layers import Scaler, norm_layer
from heterofl_core.selection import LABELS, Axis, scaled_width
from heterofl_core.sliceable import Layout, SliceableModel

HIDDEN_SIZES = (64, 128, 256, 512)
BLOCKS = (1, 1, 1, 2)  # what the parameter counts of Table 6 imply; ResNet18 has (2, 2, 2, 2)


class PreActivationBlock(nn.Module):
    """Two times Scaler, norm, ReLU, 3×3 convolution without bias, around a shortcut.

    The shortcut is the input itself, or a 1×1 convolution of the first activation where the block changes
    the width or the resolution.

    Args:
        in_channels, out_channels: of the block.
        stride: of the first convolution, and of the shortcut's.
        norm: see `layers.norm_layer`.
        scale: see `layers.Scaler`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str, scale: float) -> None:
        super().__init__()
        self.scaler = Scaler(scale)
        self.norm1 = norm_layer(norm, in_channels)
        self.convolution1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = norm_layer(norm, out_channels)
        self.convolution2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        active = F.relu(self.norm1(self.scaler(x)))
        shortcut = self.shortcut(active) if self.shortcut else x
        out = self.convolution1(active)
        return self.convolution2(F.relu(self.norm2(self.scaler(out)))) + shortcut


class PreResNet(SliceableModel):
    """A convolution, four stages of pre-activation blocks, global average pooling, one linear layer.

    Args:
        width_rate: share of the full hidden widths 64, 128, 256, 512.
        norm: see `layers.norm_layer`.
        scale: of the Scaler; 1 turns it off.
        input_shape: of an image, (channels, height, width).
        num_labels: of the data.
        blocks: in each stage; from the second stage on, the first block halves the resolution.
    """

    def __init__(
        self,
        width_rate: float = 1.0,
        norm: str = "sbn",
        scale: float = 1.0,
        input_shape: tuple[int, ...] = (3, 32, 32),
        num_labels: int = 10,
        blocks: Sequence[int] = BLOCKS,
    ) -> None:
        super().__init__()
        self.widths = [scaled_width(size, width_rate) for size in HIDDEN_SIZES]
        self.stages = [stage for stage, number in enumerate(blocks) for _ in range(number)]
        self.convolution = nn.Conv2d(input_shape[0], self.widths[0], 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        before = 0
        for stage in self.stages:
            stride = 2 if stage != before else 1
            self.blocks.append(
                PreActivationBlock(self.widths[before], self.widths[stage], stride, norm, scale)
            )
            before = stage
        self.scaler = Scaler(scale)
        self.norm = norm_layer(norm, self.widths[-1])
        self.linear = nn.Linear(self.widths[-1], num_labels)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, num_labels) for images of shape (B, channels, H, W)."""
        x = self.blocks(self.convolution(x))
        x = F.relu(self.norm(self.scaler(x))).mean(dim=(2, 3))  # (B, width)
        return self.linear(x)

    def layout(self) -> Layout:
        """A stage's blocks add up, so their outputs share one axis; each block has one inside."""
        layout: dict[str, tuple[Axis | None, Axis | None]] = {}
        before = Axis("stage0", self.widths[0])
        layout["convolution"] = (before, None)
        for number, (stage, block) in enumerate(zip(self.stages, self.blocks, strict=True)):
            inside, after = (Axis(name, self.widths[stage]) for name in (f"block{number}", f"stage{stage}"))
            layout[f"blocks.{number}.norm1"] = (before, None)
            layout[f"blocks.{number}.convolution1"] = (inside, before)
            layout[f"blocks.{number}.norm2"] = (inside, None)
            layout[f"blocks.{number}.convolution2"] = (after, inside)
            if block.shortcut:
                layout[f"blocks.{number}.shortcut"] = (after, before)
            before = after
        layout["norm"] = (before, None)
        layout["linear"] = (Axis(LABELS, self.linear.out_features, shrinks=False), before)
        return layout
