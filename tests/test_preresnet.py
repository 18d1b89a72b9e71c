"""The paper's PreResNet18: its counts, its axes, and its forward pass written out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.heterofl import slice_parameters
from heterofl_core.layers import Scaler
from heterofl_core.levels import width_rate
from heterofl_core.models import build_model
from heterofl_core.selection import static_index

NORMS = ["sbn", "bn", "in", "ln", "gn", "none"]
SHORTCUTS = {1: 2, 2: 2, 3: 2}  # stride of the blocks of (1, 1, 1, 2) that change width and resolution


@pytest.mark.parametrize(
    ("level", "parameters"),
    [("a", 9_622_090), ("b", 2_408_746), ("c", 603_802), ("d", 151_762), ("e", 38_350)],
)
def test_parameter_counts_are_those_behind_table_6(level: str, parameters: int) -> None:
    model = build_model("preresnet18", width_rate(level))
    assert sum(value.numel() for value in model.parameters()) == parameters


def test_two_blocks_in_each_stage_are_the_usual_preresnet18() -> None:
    model = build_model("preresnet18", blocks=(2, 2, 2, 2))
    assert sum(value.numel() for value in model.parameters()) == 11_172_170


def test_layers_have_the_shapes_of_table_4() -> None:
    shapes = {name: tuple(value.shape) for name, value in build_model("preresnet18").named_parameters()}
    expected: dict[str, tuple[int, ...]] = {"convolution.weight": (64, 3, 3, 3)}
    channels = [(64, 64), (64, 128), (128, 256), (256, 512), (512, 512)]
    for block, (before, after) in enumerate(channels):
        expected[f"blocks.{block}.convolution1.weight"] = (after, before, 3, 3)
        expected[f"blocks.{block}.convolution2.weight"] = (after, after, 3, 3)
        for name in ("weight", "bias"):
            expected[f"blocks.{block}.norm1.{name}"] = (before,)
            expected[f"blocks.{block}.norm2.{name}"] = (after,)
        if block in SHORTCUTS:
            expected[f"blocks.{block}.shortcut.weight"] = (after, before, 1, 1)
    expected |= {"norm.weight": (512,), "norm.bias": (512,), "linear.weight": (10, 512), "linear.bias": (10,)}
    assert shapes == expected


def test_what_is_added_up_lies_on_one_axis() -> None:
    """Outputs of the blocks of a stage and of its shortcut, and what the next norm and layer take in."""
    axes = build_model("preresnet18", blocks=(2, 1, 1, 2)).axes()
    stream = [0, 0, 1, 2, 3, 3]  # stage of each block
    before = axes["convolution.weight"][0]
    for block, stage in enumerate(stream):
        inside = axes[f"blocks.{block}.convolution1.weight"][0]
        after = axes[f"blocks.{block}.convolution2.weight"][0]
        assert inside is not None
        assert after is not None
        assert (inside.name, after.name) == (f"block{block}", f"stage{stage}")
        assert axes[f"blocks.{block}.norm1.weight"] == (before,)
        assert axes[f"blocks.{block}.norm2.weight"] == (inside,)
        assert axes[f"blocks.{block}.convolution1.weight"] == (inside, before, None, None)
        assert axes[f"blocks.{block}.convolution2.weight"] == (after, inside, None, None)
        shortcut = axes.get(f"blocks.{block}.shortcut.weight")
        assert shortcut == ((after, before, None, None) if before != after else None)
        before = after
    assert axes["norm.weight"] == (before,)
    labels, last = axes["linear.weight"]
    assert last == before
    assert labels is not None
    assert (labels.name, labels.size, labels.shrinks) == ("labels", 10, False)
    assert axes["convolution.weight"][1:] == (None, None, None)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("level", list("abcde"))
def test_a_slice_of_the_global_model_is_the_state_of_the_levels_model(norm: str, level: str) -> None:
    model = build_model("preresnet18", norm=norm)
    client = build_model("preresnet18", width_rate(level), norm=norm)
    local = slice_parameters(model.state_dict(), model.axes(), static_index(model.axes(), width_rate(level)))
    assert {name: value.shape for name, value in local.items()} == {
        name: value.shape for name, value in client.state_dict().items()
    }
    client.load_state_dict(local, strict=True)


# Forward


def by_hand(values: dict[str, Tensor], images: Tensor, norm: str, scale: float) -> Tensor:
    """Training pass of blocks (1, 1, 1, 2): in a block twice Scaler, norm, ReLU, convolution, added to
    a shortcut that is a 1×1 convolution of the first activation where width or resolution change.
    """

    def activate(x: Tensor, name: str) -> Tensor:
        x = x / scale
        if norm == "sbn":
            mean = x.mean(dim=(0, 2, 3), keepdim=True)
            variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
            weight, bias = (values[f"{name}.{which}"][None, :, None, None] for which in ("weight", "bias"))
            x = (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias
        return x.clamp(min=0)

    x = F.conv2d(images, values["convolution.weight"], padding=1)
    for block in range(5):
        stride = SHORTCUTS.get(block, 1)
        active = activate(x, f"blocks.{block}.norm1")
        out = F.conv2d(active, values[f"blocks.{block}.convolution1.weight"], stride=stride, padding=1)
        out = activate(out, f"blocks.{block}.norm2")
        out = F.conv2d(out, values[f"blocks.{block}.convolution2.weight"], padding=1)
        if block in SHORTCUTS:
            x = F.conv2d(active, values[f"blocks.{block}.shortcut.weight"], stride=stride)
        x = x + out
    x = activate(x, "norm").mean(dim=(2, 3))
    return x @ values["linear.weight"].T + values["linear.bias"]


def random_model(**options: Any) -> nn.Module:
    """One sixteenth of the width, with random norms and biases, in double precision."""
    torch.manual_seed(0)
    model = build_model("preresnet18", 1 / 16, **options).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.copy_(torch.rand_like(value) + (0.5 if name.endswith("weight") else -0.5))
    return model


def random_images() -> Tensor:
    return 2 * torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double() + 1


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("norm", ["sbn", "none"])
def test_the_forward_pass_agrees_with_the_one_written_out_by_hand(norm: str, scale: float) -> None:
    model = random_model(norm=norm, scale=scale).train()
    expected = by_hand(dict(model.state_dict()), random_images(), norm, scale)
    assert expected.shape == (3, 10)
    torch.testing.assert_close(model(random_images()), expected, rtol=1e-10, atol=1e-10)


def test_the_scale_counts_in_training_only() -> None:
    scaled, plain = random_model(norm="none", scale=0.25), random_model(norm="none")
    assert torch.equal(scaled.eval()(random_images()), plain.eval()(random_images()))
    assert not torch.allclose(scaled.train()(random_images()), plain.train()(random_images()))


def test_a_scaler_stands_before_every_norm_and_nowhere_else() -> None:
    """Twice in each of five blocks and once behind them: what it puts out is what the norm takes in."""
    model = random_model(norm="sbn", scale=0.5).train()
    scaled: list[Tensor] = []
    normed: list[Tensor] = []
    for name, layer in model.named_modules():
        if isinstance(layer, Scaler):
            layer.register_forward_hook(lambda *call: scaled.append(call[2]))
        elif "norm" in name:
            layer.register_forward_pre_hook(lambda *call: normed.append(call[1][0]))
    model(random_images())
    assert len(scaled) == len(normed) == 11
    assert all(first is second for first, second in zip(scaled, normed, strict=True))


def test_the_first_block_of_each_later_stage_halves_the_resolution() -> None:
    model = build_model("preresnet18", 1 / 16, blocks=(2, 2, 2, 2)).train()
    sizes: list[tuple[int, ...]] = []
    for block in model.get_submodule("blocks").children():
        block.register_forward_hook(lambda *call: sizes.append(tuple(call[2].shape[1:])))
    model(torch.randn(2, 3, 32, 32))
    assert sizes == [size for size in [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)] for _ in range(2)]


@pytest.mark.parametrize("norm", NORMS)
def test_images_become_one_logit_a_label(norm: str) -> None:
    model = build_model("preresnet18", 1 / 16, norm=norm, input_shape=(1, 16, 16), num_labels=7).train()
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, 7)
