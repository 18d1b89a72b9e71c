"""Scaler, static batch normalisation and its rivals, masked cross-entropy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.errors import InputError
from heterofl_core.layers import (
    UNASKED,
    Scaler,
    StaticBatchNorm2d,
    dropout,
    mask_logits,
    masked_cross_entropy,
    norm_layer,
)

EPS = 1e-5
HELD = torch.tensor([True, True, False])


def standardised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(x - mean) / sqrt(variance + eps), the population's variance, over some dimensions, in float64."""
    x = x.double()
    mean = x.mean(dim=dims, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=dims, keepdim=True)
    return (x - mean) / torch.sqrt(variance + EPS)


def images(channels: int = 8) -> Tensor:
    """Shape (3, channels, 2, 5), far from standardised."""
    return 3 * torch.randn(3, channels, 2, 5, generator=torch.Generator().manual_seed(0)) + 7


def set_affine(norm: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Gives a norm a scale and a shift for each channel, and returns them as (channels, 1, 1)."""
    weight, bias = torch.linspace(0.5, 2, channels), torch.linspace(-1, 1, channels)
    norm.load_state_dict({"weight": weight, "bias": bias}, strict=False)
    return weight[:, None, None], bias[:, None, None]


# Scaler


def test_the_scaler_divides_by_the_width_rate_in_training() -> None:
    assert Scaler(0.25).train()(torch.tensor([1.0, -2.0, 0.1])).tolist() == pytest.approx([4, -8, 0.4])
    assert torch.equal(Scaler(1 / 16).train()(images()), images() * 16)


def test_the_scaler_does_nothing_in_evaluation() -> None:
    assert torch.equal(Scaler(0.25).eval()(images()), images())


def test_the_scaler_of_the_global_model_does_nothing() -> None:
    assert torch.equal(Scaler(1.0).train()(images()), images())


# Dropout


def test_dropout_keeps_where_the_draw_reaches_the_rate_and_divides_by_the_share_that_is_kept() -> None:
    """A draw of exactly the rate keeps: of draws from [0, 1), a share of the rate lies below it."""
    x = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    noise = torch.tensor([[0.0, 0.25, 0.2499, 0.999]])
    torch.testing.assert_close(dropout(x, 0.25, noise), torch.tensor([[0.0, -8 / 3, 0.0, 16 / 3]]))


def test_dropout_without_draws_or_at_the_rate_0_changes_nothing() -> None:
    assert dropout(images(), 0.2, None).equal(images())
    assert dropout(images(), 0.0, torch.rand_like(images())).equal(images())


def test_dropout_leaves_the_mean_as_it_is_and_passes_gradients_where_it_keeps() -> None:
    noise = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    x = torch.ones(100_000, requires_grad=True)
    kept = dropout(x, 0.2, noise)
    assert abs(kept.mean().item() - 1) < 5 * math.sqrt(0.2 / 0.8 / 100_000)
    (gradient,) = torch.autograd.grad(kept.sum(), [x])
    torch.testing.assert_close(gradient, torch.where(noise < 0.2, 0.0, 1.25))


# Norms


def test_sbn_in_training_standardises_each_channel_of_the_batch() -> None:
    norm = norm_layer("sbn", 8)
    weight, bias = set_affine(norm, 8)
    expected = weight * standardised(images(), (0, 2, 3)) + bias
    torch.testing.assert_close(norm.train()(images()), expected.float(), rtol=1e-5, atol=1e-5)


def test_sbn_remembers_nothing_of_what_it_was_trained_on() -> None:
    norm = norm_layer("sbn", 8).train()
    norm(images())
    assert list(norm.state_dict()) == ["weight", "bias"]
    with pytest.raises(
        RuntimeError, match="sBN has no statistics yet: call collect_statistics after training"
    ):
        norm.eval()(images())


def test_sbn_in_evaluation_uses_the_statistics_that_it_was_given() -> None:
    norm = StaticBatchNorm2d(2)
    norm.mean, norm.variance = torch.tensor([1.0, 10.0]), torch.tensor([4.0, 0.25])
    x = torch.tensor([3.0, 11.0])[None, :, None, None]
    result = norm.eval()(x).flatten().tolist()
    assert result == pytest.approx([2 / math.sqrt(4 + EPS), 1 / math.sqrt(0.25 + EPS)], rel=1e-6)


def test_given_statistics_stay_out_of_what_is_uploaded() -> None:
    norm = StaticBatchNorm2d(2)
    norm.mean, norm.variance = torch.zeros(2), torch.ones(2)
    assert list(norm.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(("norm", "groups"), [("in", 8), ("gn", 4), ("ln", 1)])
@pytest.mark.parametrize("training", [True, False])
def test_group_norms_standardise_groups_of_channels_of_each_example(
    norm: str, groups: int, training: bool
) -> None:
    layer = norm_layer(norm, 8).train(training)
    weight, bias = set_affine(layer, 8)
    grouped = images().reshape(3, groups, 8 // groups, 2, 5)
    expected = weight * standardised(grouped, (2, 3, 4)).reshape(3, 8, 2, 5) + bias
    torch.testing.assert_close(layer(images()), expected.float(), rtol=1e-5, atol=1e-5)


def test_bn_keeps_running_estimates_and_evaluates_with_them() -> None:
    norm = norm_layer("bn", 8)
    norm.train()(images())
    mean, variance = images().mean(dim=(0, 2, 3)), images().var(dim=(0, 2, 3), correction=1)
    expected = (images() - 0.1 * mean[:, None, None]) / torch.sqrt(0.9 + 0.1 * variance + EPS)[:, None, None]
    torch.testing.assert_close(norm.eval()(images()), expected)


def test_no_norm_changes_nothing_and_has_no_parameters() -> None:
    norm = norm_layer("none", 8)
    assert torch.equal(norm(images()), images())
    assert list(norm.parameters()) == []


def test_every_other_norm_has_a_scale_and_a_shift_for_each_channel() -> None:
    for norm in ("sbn", "bn", "in", "ln", "gn"):
        assert [tuple(value.shape) for value in norm_layer(norm, 8).parameters()] == [(8,), (8,)]


@pytest.mark.parametrize("channels", [1, 6])
def test_gn_needs_channels_that_its_four_groups_can_share(channels: int) -> None:
    with pytest.raises(InputError, match=f"norm 'gn' needs a multiple of 4 channels, not {channels}"):
        norm_layer("gn", channels)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(InputError, match="norm 'batch' is unknown; allowed are sbn, bn, in, gn, ln, none"):
        norm_layer("batch", 8)


# Masked cross-entropy


def masked(masked_loss: str, held: Tensor = HELD) -> tuple[Tensor, float, list[float]]:
    """Masked logits, the loss and its gradient for logits 2, 1, 5 and the label 0."""
    logits = torch.tensor([[2.0, 1.0, 5.0]], dtype=torch.float64, requires_grad=True)
    result = mask_logits(logits, held, masked_loss)
    loss = F.cross_entropy(result, torch.tensor([0]))
    loss.backward()
    assert logits.grad is not None
    return result.detach(), loss.item(), logits.grad[0].tolist()


def test_zero_leaves_absent_labels_in_the_softmax_as_exp_0_and_without_gradient() -> None:
    logits, loss, gradient = masked("zero")
    total = math.exp(2) + math.exp(1) + math.exp(0)
    assert logits.tolist() == [[2, 1, 0]]
    assert loss == pytest.approx(math.log(total) - 2)
    assert gradient == pytest.approx([math.exp(2) / total - 1, math.exp(1) / total, 0])
    assert gradient[2] == 0


def test_neg_inf_is_the_cross_entropy_over_the_labels_held() -> None:
    logits, loss, gradient = masked("neg_inf")
    total = math.exp(2) + math.exp(1)
    assert logits.tolist() == [[2, 1, -math.inf]]
    assert loss == pytest.approx(math.log(total) - 2)
    assert gradient == pytest.approx([math.exp(2) / total - 1, math.exp(1) / total, 0])
    assert gradient[2] == 0


def test_detach_keeps_the_loss_and_takes_the_gradient_of_absent_labels() -> None:
    logits, loss, gradient = masked("detach")
    total = math.exp(2) + math.exp(1) + math.exp(5)
    assert logits.tolist() == [[2, 1, 5]]
    assert loss == masked("none")[1]
    assert gradient == pytest.approx([math.exp(2) / total - 1, math.exp(1) / total, 0])
    assert gradient[2] == 0


def test_none_is_plain_cross_entropy() -> None:
    logits, loss, gradient = masked("none")
    total = math.exp(2) + math.exp(1) + math.exp(5)
    assert logits.tolist() == [[2, 1, 5]]
    assert loss == pytest.approx(math.log(total) - 2)
    assert gradient == pytest.approx([math.exp(2) / total - 1, math.exp(1) / total, math.exp(5) / total])


@pytest.mark.parametrize("masked_loss", ["zero", "neg_inf", "detach"])
def test_a_client_with_all_labels_is_not_masked(masked_loss: str) -> None:
    everything = masked(masked_loss, torch.tensor([True, True, True]))
    plain = masked("none")
    assert torch.equal(everything[0], plain[0])
    assert everything[1:] == plain[1:]


def test_each_example_may_have_a_mask_of_its_own() -> None:
    held = torch.tensor([[True, False], [False, True]])
    assert mask_logits(torch.tensor([[3.0, 4.0], [5.0, 6.0]]), held, "zero").tolist() == [[3, 0], [0, 6]]


def test_an_unknown_kind_of_masking_is_refused() -> None:
    with pytest.raises(
        InputError, match="masked_loss 'ones' is unknown; allowed are zero, neg_inf, detach, none"
    ):
        mask_logits(torch.zeros(1, 3), HELD, "ones")


def test_masked_cross_entropy_is_the_mean_over_the_batch_in_nats() -> None:
    logits = torch.tensor([[2.0, 1.0, 5.0], [0.0, 3.0, -1.0]], dtype=torch.float64)
    first, second = math.log(math.exp(2) + math.exp(1) + 1) - 2, math.log(1 + math.exp(3) + 1) - 3
    loss = masked_cross_entropy(logits, torch.tensor([0, 1]), HELD, "zero")
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-12)


def test_masked_cross_entropy_of_text_is_the_mean_over_all_positions() -> None:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])
    losses = [
        masked_cross_entropy(logits[row, at][None], targets[row, at][None], HELD, "zero").item()
        for row in range(2)
        for at in range(5)
    ]
    assert masked_cross_entropy(logits, targets, HELD, "zero").item() == pytest.approx(
        sum(losses) / 10, rel=1e-5
    )


def test_positions_that_are_not_asked_for_count_neither_in_the_loss_nor_in_its_gradient() -> None:
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[0, UNASKED, 1], [UNASKED, UNASKED, 0]])
    asked = masked_cross_entropy(logits[targets != UNASKED], targets[targets != UNASKED], HELD, "zero")
    loss = masked_cross_entropy(logits, targets, HELD, "zero")
    assert loss.item() == pytest.approx(asked.item(), rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).any(dim=2).tolist() == (targets != UNASKED).tolist()


def test_where_nothing_is_asked_for_the_loss_is_0_and_moves_nothing() -> None:
    logits = torch.ones(1, 2, 3, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.tensor([[UNASKED, UNASKED]]), HELD, "zero")
    loss.backward()
    assert (loss.item(), logits.grad is not None and logits.grad.any().item()) == (0.0, False)


def test_left_out_labels_by_hand() -> None:
    """Seven labels whose logits would be 0 add 7 to the softmax's denominator."""
    logits = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    everything = torch.tensor([True, True])
    loss = masked_cross_entropy(logits, torch.tensor([0]), everything, "zero", left_out=7)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + math.exp(1) + 7) - 2, rel=1e-12)


@given(st.integers(1, 6), st.integers(0, 40), st.sampled_from(["zero", "neg_inf"]), st.integers(0, 2**32 - 1))
def test_leaving_labels_out_changes_neither_the_loss_nor_its_gradient(
    num_held: int, num_absent: int, masked_loss: str, seed: int
) -> None:
    """Against logits of all labels, with those that are absent masked."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_held + num_absent, generator=random)
    held = torch.zeros(num_held + num_absent, dtype=torch.bool)
    held[order[:num_held]] = True
    whole = 5 * torch.randn(4, num_held + num_absent, dtype=torch.float64, generator=random)
    targets = torch.randint(num_held, (4,), generator=random)
    part = whole[:, held].clone().requires_grad_()
    whole.requires_grad_()
    expected = masked_cross_entropy(whole, held.nonzero()[targets, 0], held, masked_loss)
    loss = masked_cross_entropy(
        part, targets, torch.ones(num_held, dtype=torch.bool), masked_loss, left_out=num_absent
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    (of_whole,), (of_part,) = torch.autograd.grad(expected, [whole]), torch.autograd.grad(loss, [part])
    torch.testing.assert_close(of_part, of_whole[:, held], rtol=1e-10, atol=1e-14)
    assert not bool(of_whole[:, ~held].any())
