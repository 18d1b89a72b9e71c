"""sBN's statistics: exact, in one place or in parts."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.layers import StaticBatchNorm2d
from heterofl_core.models import build_model
from heterofl_core.statistics import (
    Moments,
    collect_statistics,
    count_moments,
    set_statistics,
    static_norms,
)


def random_images(number: int) -> Tensor:
    """Shape (number, 1, 16, 16), with a mean far from zero."""
    return 2 * torch.randn(number, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 5


def norms_of(model: nn.Module) -> list[StaticBatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, StaticBatchNorm2d)]


def add(moments: Moments, x: Tensor) -> None:
    """Takes in a batch of shape (batch, channels, height, width)."""
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=1)
    moments.add(x[:, 0].numel(), mean, variance)


def test_moments_of_uneven_batches_are_those_of_all_values_together() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(100, 3, (17, 4, 2, 3)).astype(np.float32)
    moments = Moments()
    for part in np.split(x, [1, 9, 16]):
        add(moments, torch.from_numpy(part))
    mean, variance = moments.mean_and_variance()
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, x.var(axis=(0, 2, 3), dtype=np.float64), rtol=1e-5)


def test_moments_by_hand() -> None:
    moments = Moments()
    add(moments, torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
    moments.add(2, mean=torch.tensor([7.0]), variance=torch.tensor([2.0]))  # 6 and 8
    mean, variance = moments.mean_and_variance()
    assert (mean.tolist(), variance.tolist()) == ([17 / 4], [pytest.approx(105 / 4 - (17 / 4) ** 2)])


def test_the_first_layers_statistics_are_exact_whatever_the_batches() -> None:
    """Its inputs do not depend on any other layer's batch statistics."""
    torch.manual_seed(0)
    model = build_model("cnn", 1 / 16)
    images = random_images(40)
    collect_statistics(model, images.split([23, 10, 6, 1]))
    weight, bias = (
        model.state_dict()[f"blocks.0.convolution.{name}"].double() for name in ("weight", "bias")
    )
    outputs = F.conv2d(images.double(), weight, bias, padding=1).numpy()
    norm = norms_of(model)[0]
    assert norm.mean is not None
    assert norm.variance is not None
    np.testing.assert_allclose(norm.mean, outputs.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.variance, outputs.var(axis=(0, 2, 3)), rtol=1e-5)


def test_with_all_data_in_one_batch_evaluation_computes_what_training_does_in_every_layer() -> None:
    torch.manual_seed(0)
    model = build_model("cnn", 1 / 16)
    images = random_images(30)
    outputs: list[Tensor] = []
    for layer in (*model.get_submodule("blocks").children(), model):
        layer.register_forward_hook(lambda *call: outputs.append(call[2].detach()))
    model.train()(images)
    in_training = outputs.copy()
    collect_statistics(model, [images])
    assert not model.training
    outputs.clear()
    model(images)
    in_evaluation = outputs.copy()
    assert len(in_training) == len(in_evaluation) == 5
    for trained, evaluated in zip(in_training, in_evaluation, strict=True):
        torch.testing.assert_close(evaluated, trained, rtol=1e-4, atol=1e-5)


def test_collecting_changes_no_parameter_and_leaves_no_hook() -> None:
    model = build_model("cnn", 1 / 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect_statistics(model, [random_images(4)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(not layer._forward_hooks for layer in model.modules())


def test_collecting_again_forgets_the_first_pass() -> None:
    torch.manual_seed(0)
    model, again = build_model("cnn", 1 / 16), build_model("cnn", 1 / 16)
    again.load_state_dict(model.state_dict())
    collect_statistics(again, [random_images(8) * 3])
    for either in (model, again):
        collect_statistics(either, [random_images(8)])
    for first, second in zip(norms_of(model), norms_of(again), strict=True):
        assert first.mean is not None
        assert second.mean is not None
        assert torch.equal(first.mean, second.mean)


def test_a_model_without_sbn_needs_no_data() -> None:
    def no_data() -> Iterator[Tensor]:
        raise AssertionError("the data were read")
        yield

    model = build_model("cnn", 1 / 16, norm="gn")
    collect_statistics(model, no_data())
    assert not model.training


def test_merged_moments_are_those_of_all_values_together() -> None:
    first, second, whole = Moments(), Moments(), Moments()
    add(first, torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
    add(second, torch.tensor([6.0, 8.0]).reshape(1, 1, 2, 1))
    for part in (first, Moments(), second):
        whole.merge(part)
    mean, variance = whole.mean_and_variance()
    assert (whole.count, mean.tolist()) == (4, [17 / 4])
    assert variance.tolist() == [pytest.approx(105 / 4 - (17 / 4) ** 2)]


def test_statistics_of_parts_put_together_are_those_of_one_pass_over_the_same_batches() -> None:
    """A client, or a worker, that counts a part sends a count, a sum and a sum of squares a channel."""
    torch.manual_seed(0)
    model, in_parts = build_model("preresnet18", 1 / 16), build_model("preresnet18", 1 / 16)
    in_parts.load_state_dict(model.state_dict())
    images = torch.randn(30, 3, 32, 32) + 1
    batches = images.split([7, 3, 12, 8])
    collect_statistics(model, batches)
    set_statistics(in_parts, [count_moments(in_parts, batches[:1]), count_moments(in_parts, batches[1:])])
    assert not in_parts.training
    assert len(norms_of(model)) == 11
    for first, second in zip(norms_of(model), norms_of(in_parts), strict=True):
        for one, other in ((first.mean, second.mean), (first.variance, second.variance)):
            assert one is not None
            assert other is not None
            torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-7)
    assert torch.equal(static_norms(model)[0].weight, norms_of(model)[0].weight)


def test_counting_normalises_batch_by_batch_as_in_training() -> None:
    """What reaches the second norm depends on how the data were cut; what reaches the first does not."""
    torch.manual_seed(0)
    model = build_model("cnn", 1 / 16)
    images = torch.cat([random_images(8), 3 * random_images(8) - 20])
    whole = count_moments(model, [images])
    halves = count_moments(model, images.split(8))
    assert model.training
    torch.testing.assert_close(halves[0].mean_and_variance(), whole[0].mean_and_variance())
    assert not torch.allclose(halves[1].mean_and_variance()[0], whole[1].mean_and_variance()[0], rtol=0.01)


def test_counting_tracks_no_gradient() -> None:
    moments = count_moments(build_model("cnn", 1 / 16), [random_images(2)])
    assert all(isinstance(each.total, Tensor) and not each.total.requires_grad for each in moments)


def test_without_sbn_setting_statistics_only_ends_training() -> None:
    model = build_model("cnn", 1 / 16, norm="gn").train()
    set_statistics(model, [])
    assert not model.training
