"""The paper's CNN, its counts and its axes."""

import pytest
import torch

from heterofl_core.errors import InputError
from heterofl_core.heterofl import slice_parameters
from heterofl_core.levels import width_rate
from heterofl_core.models import build_model
from heterofl_core.selection import static_index

NORMS = ["sbn", "bn", "in", "ln", "gn", "none"]
LEVELS = list("abcde")


@pytest.mark.parametrize(
    ("level", "parameters"), [("a", 1_556_874), ("b", 391_370), ("c", 98_922), ("d", 25_274), ("e", 6_594)]
)
def test_parameter_counts_are_those_behind_table_5(level: str, parameters: int) -> None:
    model = build_model("cnn", width_rate(level))
    assert sum(value.numel() for value in model.parameters()) == parameters


def test_layers_have_the_shapes_of_table_4() -> None:
    shapes = {name: tuple(value.shape) for name, value in build_model("cnn").named_parameters()}
    channels = [1, 64, 128, 256, 512]
    expected: dict[str, tuple[int, ...]] = {"linear.weight": (10, 512), "linear.bias": (10,)}
    for block in range(4):
        width = channels[block + 1]
        expected[f"blocks.{block}.convolution.weight"] = (width, channels[block], 3, 3)
        for name in ("convolution.bias", "norm.weight", "norm.bias"):
            expected[f"blocks.{block}.{name}"] = (width,)
    assert shapes == expected


def test_only_pixels_kernels_and_labels_keep_their_size() -> None:
    """What a convolution puts out is what its norm and the next layer take in: one axis."""
    axes = build_model("cnn").axes()
    outputs = [axes[f"blocks.{block}.convolution.weight"][0] for block in range(4)]
    assert [axis.name for axis in outputs if axis] == ["block0", "block1", "block2", "block3"]
    assert all(axis.shrinks for axis in outputs if axis)
    for block, before in enumerate([None, *outputs[:3]]):
        assert axes[f"blocks.{block}.convolution.weight"] == (outputs[block], before, None, None)
        for name in ("convolution.bias", "norm.weight", "norm.bias"):
            assert axes[f"blocks.{block}.{name}"] == (outputs[block],)
    labels, before = axes["linear.weight"]
    assert before == outputs[3]
    assert labels is not None
    assert (labels.name, labels.size, labels.shrinks) == ("labels", 10, False)
    assert axes["linear.bias"] == (labels,)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_slice_of_the_global_model_is_the_state_of_the_levels_model(norm: str, level: str) -> None:
    model = build_model("cnn", norm=norm)
    client = build_model("cnn", width_rate(level), norm=norm)
    local = slice_parameters(model.state_dict(), model.axes(), static_index(model.axes(), width_rate(level)))
    assert {name: value.shape for name, value in local.items()} == {
        name: value.shape for name, value in client.state_dict().items()
    }


@pytest.mark.parametrize(("largest", "level"), [("b", "e"), ("c", "d"), ("d", "d")])
def test_a_narrower_global_model_is_sliced_by_the_relative_width_rate(largest: str, level: str) -> None:
    model = build_model("cnn", width_rate(largest))
    relative = width_rate(level) / width_rate(largest)
    local = slice_parameters(model.state_dict(), model.axes(), static_index(model.axes(), relative))
    build_model("cnn", width_rate(level)).load_state_dict(local, strict=True)


@pytest.mark.parametrize("norm", ["sbn", "none"])
def test_a_client_computes_what_the_global_model_does_when_all_that_it_lacks_is_zero(norm: str) -> None:
    torch.manual_seed(0)
    model, client = build_model("cnn", 1 / 8, norm=norm), build_model("cnn", 1 / 16, norm=norm)
    extended = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for name, value in client.state_dict().items():
        extended[name][tuple(slice(0, size) for size in value.shape)] = value
    model.load_state_dict(extended)
    images = torch.randn(5, 1, 16, 16)
    torch.testing.assert_close(model.train()(images), client.train()(images))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [16, 28])
def test_images_become_one_logit_a_label(norm: str, size: int) -> None:
    model = build_model("cnn", 1 / 16, norm=norm, input_shape=(3, size, size), num_labels=7).train()
    assert model(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_the_scale_divides_what_each_convolution_puts_out_in_training_only() -> None:
    torch.manual_seed(0)
    scaled, plain = (
        build_model("cnn", 1 / 16, norm="none", scale=0.5),
        build_model("cnn", 1 / 16, norm="none"),
    )
    state = {
        name: torch.zeros_like(v) if name.endswith("bias") else v for name, v in plain.state_dict().items()
    }
    scaled.load_state_dict(state)
    plain.load_state_dict(state)
    images = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(scaled.train()(images), 2**4 * plain.train()(images))
    assert torch.equal(scaled.eval()(images), plain.eval()(images))


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(
        InputError, match="arch 'lenet' is unknown; allowed are cnn, preresnet18, transformer, mlp"
    ):
        build_model("lenet")


@pytest.mark.parametrize("rate", [0, -0.5, 1.5, float("nan")])
def test_a_width_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match=rf"width_rate {rate} is not allowed; it must be in \(0, 1\]"):
        build_model("cnn", rate)
