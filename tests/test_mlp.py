"""The baselines' multilayer perceptron."""

import itertools

import pytest
import torch

from heterofl_core.errors import InputError
from heterofl_core.heterofl import slice_parameters
from heterofl_core.levels import width_rate
from heterofl_core.models import build_model
from heterofl_core.selection import static_index


@pytest.mark.parametrize(("input_shape", "parameters"), [((1, 28, 28), 633_226), ((3, 32, 32), 1_804_682)])
def test_parameter_counts_are_those_of_the_baselines_in_tables_5_and_6(
    input_shape: tuple[int, ...], parameters: int
) -> None:
    model = build_model("mlp", input_shape=input_shape)
    assert sum(value.numel() for value in model.parameters()) == parameters


def test_the_layers_are_512_256_256_128_and_the_labels() -> None:
    shapes = [tuple(value.shape) for value in build_model("mlp").parameters()]
    sizes = [784, 512, 256, 256, 128, 10]
    assert shapes == [
        shape for before, after in itertools.pairwise(sizes) for shape in ((after, before), (after,))
    ]


def test_what_a_layer_puts_out_the_next_one_takes_in() -> None:
    axes = build_model("mlp").axes()
    assert axes["layers.0.weight"][1] is None  # pixels
    for layer in range(4):
        assert axes[f"layers.{layer}.weight"][0] == axes[f"layers.{layer + 1}.weight"][1]
    labels = axes["layers.4.weight"][0]
    assert labels is not None
    assert (labels.name, labels.shrinks) == ("labels", False)


@pytest.mark.parametrize("level", list("abcde"))
def test_a_slice_of_the_global_model_is_the_state_of_the_levels_model(level: str) -> None:
    model, client = build_model("mlp"), build_model("mlp", width_rate(level))
    local = slice_parameters(model.state_dict(), model.axes(), static_index(model.axes(), width_rate(level)))
    assert {name: value.shape for name, value in local.items()} == {
        name: value.shape for name, value in client.state_dict().items()
    }
    client.load_state_dict(local, strict=True)


@pytest.mark.parametrize("training", [True, False])
def test_the_forward_pass_agrees_with_matrix_products(training: bool) -> None:
    """The Scaler divides what each hidden layer puts out, in training only."""
    torch.manual_seed(0)
    model = (
        build_model("mlp", 1 / 16, scale=0.5, input_shape=(2, 3, 3), num_labels=4).double().train(training)
    )
    images = torch.randn(5, 2, 3, 3).double()
    values, x = list(model.parameters()), images.reshape(5, 18)
    for weight, bias in zip(values[:8:2], values[1:8:2], strict=True):
        x = ((x @ weight.T + bias) * (2 if training else 1)).clamp(min=0)
    torch.testing.assert_close(model(images), x @ values[8].T + values[9], rtol=1e-12, atol=1e-12)


def test_a_norm_is_refused() -> None:
    with pytest.raises(InputError, match="norm 'sbn' is not possible with arch 'mlp'; allowed is none"):
        build_model("mlp", norm="sbn")
