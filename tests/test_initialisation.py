"""What a model's parameters are before the first round, which every run begins with.

Draws are compared with their distribution within four standard errors, for one seed.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heterofl_core.models import build_model
from heterofl_core.sliceable import SliceableModel


def model_of(arch: str, **options: Any) -> SliceableModel:
    """At full width, so that there is much to average over."""
    torch.manual_seed(0)
    return build_model(arch, **options).requires_grad_(False)


def transformer() -> SliceableModel:
    return model_of("transformer", num_tokens=100)


def assert_uniform(values: Tensor, bound: float) -> None:
    """On [-bound, bound], whose deviation is bound / √3."""
    n = values.numel()
    assert bound * (1 - 10 / n) < float(values.abs().max()) <= bound * (1 + 1e-6)
    deviation = bound / math.sqrt(3)
    assert abs(float(values.mean())) < 4 * deviation / math.sqrt(n)
    assert float(values.square().mean().sqrt()) == pytest.approx(deviation, rel=4 * math.sqrt(0.2 / n))


def assert_normal(values: Tensor, deviation: float) -> None:
    """Around 0, with tails that no uniform draw of this deviation has."""
    n = values.numel()
    assert abs(float(values.mean())) < 4 * deviation / math.sqrt(n)
    assert float(values.std()) == pytest.approx(deviation, rel=4 / math.sqrt(2 * n))
    assert float(values.abs().max()) > 2 * deviation


def bound_of(weight: Tensor) -> float:
    """Of PyTorch's default, `kaiming_uniform_` with a = √5: one over the root of a unit's inputs."""
    return 1 / math.sqrt(weight[0].numel())


# Images


@pytest.mark.parametrize("arch", ["cnn", "preresnet18"])
def test_convolutions_begin_as_pytorch_draws_them(arch: str) -> None:
    """The published code leaves them alone, so its first values are PyTorch's, too."""
    layers = [layer for layer in model_of(arch).modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == {"cnn": 4, "preresnet18": 14}[arch]
    for layer in layers:
        assert_uniform(layer.weight, bound_of(layer.weight))
        if layer.bias is not None:
            assert_uniform(layer.bias, bound_of(layer.weight))


@pytest.mark.parametrize("arch", ["cnn", "preresnet18"])
def test_the_output_layer_of_images_begins_without_a_bias_for_any_label(arch: str) -> None:
    """As in the published code; PyTorch's default would draw it. The row of a label that no active client
    holds keeps what it begins with.
    """
    linear = model_of(arch).linear
    assert isinstance(linear, nn.Linear)
    assert linear.bias.tolist() == [0.0] * 10
    assert_uniform(linear.weight, bound_of(linear.weight))


def test_all_five_layers_of_the_mlp_begin_as_pytorch_draws_them() -> None:
    """The last one's bias included."""
    layers = [layer for layer in model_of("mlp").modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        assert_uniform(layer.weight, bound_of(layer.weight))
        assert_uniform(layer.bias, bound_of(layer.weight))


# Norms


@pytest.mark.parametrize(
    ("arch", "norm", "number"),
    [
        ("cnn", "sbn", 4),
        ("cnn", "gn", 4),
        ("preresnet18", "sbn", 11),
        ("preresnet18", "bn", 11),
        ("transformer", "ln", 10),
    ],
)
def test_norms_begin_with_weights_of_one_and_biases_of_zero(arch: str, norm: str, number: int) -> None:
    """So that at first a norm does nothing but normalise."""
    kinds = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
    layers = [layer for layer in model_of(arch, norm=norm).modules() if isinstance(layer, kinds)]
    assert len(layers) == number
    for layer in layers:
        assert bool((layer.weight == 1).all())
        assert bool((layer.bias == 0).all())


# The Transformer


def test_the_transformers_embeddings_begin_standard_normal() -> None:
    """[MASK] keeps its own: unless `mask_trained` says otherwise, nobody ever trains it."""
    model = transformer()
    for name in ("token.weight", "position.weight"):
        assert_normal(model.get_parameter(name), 1.0)
    assert_normal(model.get_parameter("token.weight")[-1], 1.0)


def test_the_transformers_feed_forward_layers_begin_normal_and_all_others_as_pytorch_draws_them() -> None:
    """With a standard deviation of 0.02, as in the published code; every bias begins with zero."""
    layers = {name: layer for name, layer in transformer().named_modules() if isinstance(layer, nn.Linear)}
    assert len(layers) == 4 * 6 + 2
    for name, layer in layers.items():
        assert bool((layer.bias == 0).all()), name
        if name.endswith(("linear1", "linear2")):
            assert_normal(layer.weight, 0.02)
        else:
            assert_uniform(layer.weight, bound_of(layer.weight))


@pytest.mark.parametrize(
    "name",
    [*(f"attention.{part}" for part in ("query", "key", "value", "output")), "linear1", "linear2"],
)
def test_each_encoder_layer_is_drawn_for_itself(name: str) -> None:
    """The published code makes one layer and has PyTorch copy it, so that all four begin alike; here, as is
    usual, they do not. Draws have no correlation, copies one of 1.
    """
    model = transformer()
    draws = torch.stack(
        [model.get_parameter(f"layers.{layer}.{name}.weight").flatten() for layer in range(4)]
    )
    between = torch.corrcoef(draws) - torch.eye(4)
    assert float(between.abs().max()) < 4 / math.sqrt(draws.shape[1])
